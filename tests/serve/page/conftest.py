"""A real browser before a scripted server, for all tests that play on one."""

import pytest

from bench.browser.stage import Missing, Stage, browser, chromium
from tests.serve.page.scripted import Scripted, running


@pytest.fixture(scope="module")
def stage():
    try:
        chromium()
    except Missing as why:
        pytest.skip(str(why))
    with browser() as shown, running(Scripted()) as scripted:
        yield Stage(shown, scripted)
