"""The laws that `make laws` prints, at their full counts; and that each of them can fail."""

import pytest

from bench import laws
from octavo.engine.pages import PagePool
from octavo.engine.rules import BudgetRule
from octavo.engine.scheduler import Scheduler


@pytest.mark.parametrize("name", laws.LAWS)
def test_law(name: str):
    law, count = laws.LAWS[name]
    figures = law(count)
    assert all(value > 0 for value in figures.values()), figures


def test_a_page_given_too_early_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """Pages that are free while they are in use are overwritten: the hash model reads it."""
    grow = Scheduler._grow

    def careless(self: Scheduler, sequence, new):
        done = grow(self, sequence, new)
        if sequence.pages and sequence.pages[-1] not in self.pool.nodes:
            self.pool.free.give(sequence.pages[-1])
        return done

    monkeypatch.setattr(Scheduler, "_grow", careless)
    with pytest.raises(AssertionError):
        laws.no_reply_depends_on_others(50)


def test_pages_published_in_another_order_are_noticed(monkeypatch: pytest.MonkeyPatch):
    publish = PagePool.publish
    monkeypatch.setattr(
        PagePool, "publish", lambda self, tokens, pages, **more: publish(self, tokens, pages[::-1], **more)
    )
    with pytest.raises(AssertionError):
        laws.no_reply_depends_on_others(200)


def test_a_budget_that_is_not_kept_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(BudgetRule, "over", property(lambda self: self.asked or self.spent > (self.budget or 0)))
    with pytest.raises(AssertionError):
        laws.thinking_stays_in_budget(60)


def test_a_page_that_is_kept_is_noticed(monkeypatch: pytest.MonkeyPatch):
    give = PagePool.give
    monkeypatch.setattr(PagePool, "give", lambda self, pages: give(self, pages[:3]))
    with pytest.raises(AssertionError):
        laws.storms_leak_nothing(500)
