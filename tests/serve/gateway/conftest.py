"""One server with keys for all tests of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.gateway.desk import Desk
from tests.serve.mini import mini_random
from tests.serve.serving import Served, serving

PRICES = "[models.mini]\nprompt = 2.0\ncached = 1.0\noutput = 8.0\n"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def served(desk: Desk) -> Iterator[Served]:
    prices = desk.folder / "prices.toml"
    prices.write_text(PRICES, encoding="utf-8")
    with serving([f"mini={mini_random()}"], folder=desk.folder, options=["--prices", str(prices)]) as running:
        yield running


@pytest.fixture
def fresh(tmp_path: Path) -> Desk:
    return Desk(tmp_path)
