"""What all tests share: one thread per process, no network, no deadline, and the shape law in nn and models."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.shapes import ShapeWatch

# Before torch is first imported: two test processes on two cores, each with one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shared machine has slow moments: a test is stopped by pytest's timeout, not by the time of one example.
settings.register_profile("octavo", settings(), deadline=None)
settings.load_profile("octavo")

WATCHED = tuple(Path(__file__).resolve().parent / room for room in ("nn", "models"))


@pytest.fixture(autouse=True)
def shape_law(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of nn and models fail where a tensor's name and its shape disagree."""
    if not any(folder in request.path.parents for folder in WATCHED):
        yield
        return
    watch = ShapeWatch()
    with watch.watching():
        yield
    assert not watch.faults, "names and shapes disagree:\n  " + "\n  ".join(sorted(watch.faults))
