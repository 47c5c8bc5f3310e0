"""Some flows of `python -m bench.browser` in a real browser; skipped where there is none."""

import pytest

from bench.browser import guarding, keeping, talking
from bench.browser.stage import Stage

FLOWS = (talking.thinks_in_a_fold, talking.stops, keeping.edits_what_was_asked, guarding.trusts_only_the_server)


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.__name__)
def test_in_a_real_browser(stage: Stage, flow):
    flow(stage)
