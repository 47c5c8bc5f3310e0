"""What benchmarks tell: bars that are met, missed or not measured, the command that ran. Nothing is timed."""

import sys

import pytest

from bench import serve_load
from bench.browser import __main__ as in_browser
from bench.browser.stage import Missing
from bench.fairness import Asked, is_fair, summary
from bench.machine import command_of
from bench.rivals.worker import Measurer, MissingFigure, Order


def asked(*firsts: float, tenant: str = "team0", status: int = 200) -> list[Asked]:
    return [Asked(tenant, status, first, first + 1) for first in firsts]


def test_a_flood_that_leaves_requests_unanswered_is_not_fair():
    quick, slow = asked(*[0.1] * 40), asked(*[0.19] * 40)
    assert is_fair(summary(quick), summary(slow))
    assert not is_fair(summary(quick), summary(asked(*[0.21] * 40)))
    for unanswered in (asked(0.0, status=429), asked(0.0)):  # refused; ended without a token
        found = summary(slow + unanswered)
        assert found["p50 first token, s"] == 0.19 and not is_fair(summary(quick), found)
    assert is_fair(summary(quick), summary(slow + asked(0.0, tenant="flood", status=429)))


def loaded(*, rival: bool) -> dict:
    rounds = [{"goodput": 100.0, "first_p50_s": 0.1, "first_p99_s": 0.2, "statuses": {"200": 9}}]
    names = ["octavo", serve_load.OVERLOAD, *(["llama.cpp"] if rival else [])]
    return {"overhead": {"us_per_token": 12.0}, "rounds": dict.fromkeys(names, rounds)}


@pytest.mark.parametrize("rival", [True, False])
def test_without_a_rival_nothing_is_met_that_compares(rival: bool):
    bars = {bar["bar"]: bar for bar in serve_load.judged(loaded(rival=rival))}
    compared = [bar for name, bar in bars.items() if "llama.cpp" in name]
    assert len(compared) == 3 and all(bar["met"] is (True if rival else None) for bar in compared)
    assert bars["overload x5: goodput of peak"]["met"] is True
    assert serve_load.bar("late", 1.1, most=1)["met"] is False


def test_results_name_the_command_that_ran(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/bench/a.py", "/home/me/a b.gguf", "--rounds", "3"])
    assert command_of("bench.a") == "python -m bench.a 'a b.gguf' --rounds 3"


def test_a_browser_that_is_not_there_is_no_success(monkeypatch):
    def missing(wanted: str) -> int:
        raise Missing("no browser")

    monkeypatch.setattr(sys, "argv", ["browser"])
    monkeypatch.setattr(in_browser, "play", missing)
    assert in_browser.main() == 1


class Choosy:
    """A runner one of whose settings cannot do crowds, and none of which can do prompts."""

    def settings(self, order: Order) -> list[str]:
        return ["a", "b"]

    def decode(self, order: Order, setting: str) -> list[float]:
        if setting == "a" and order.batch > 1:
            raise MissingFigure("a has no crowds")
        return [0.1, 0.1] if setting == "a" else [0.2, 0.2]

    def prefill(self, order: Order, setting: str) -> float:
        raise MissingFigure(f"{setting} has no prompts")

    def requests(self, work, setting: str) -> float:
        return 1.0


def test_a_rival_is_measured_by_the_settings_that_it_has():
    measurer = Measurer(Choosy())
    assert measurer.figure(Order(do="decode"))["setting"] == "a"
    assert measurer.figure(Order(do="decode", batch=4)) == {"value": 20, "setting": "b", "tried": {}}
    assert measurer.figure(Order(do="prefill")) == {"missing": "b has no prompts"}
