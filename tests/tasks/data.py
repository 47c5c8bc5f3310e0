"""Where the real data for tests is."""

import os
from pathlib import Path

import pytest

NAMED = os.environ.get("OCTAVO_DATA")
DATA = Path(NAMED) if NAMED else Path(__file__).resolve().parents[3] / "shared" / "data"


def needs(name: str) -> pytest.MarkDecorator:
    """Skip where the real data is not there."""
    there = (DATA / name).exists()
    return pytest.mark.skipif(
        not there, reason=f"no {name} in ../shared/data: name a folder that has it in OCTAVO_DATA"
    )
