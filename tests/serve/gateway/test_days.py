"""Old rows of the ledger become sums of their days; no sum that anybody asks for changes."""

import asyncio
import random

from octavo.serve.events import Usage
from octavo.serve.gateway.ledger import DAY_S, KEPT_DAYS, SUM_UP, Entry, Ledger, Outcome, meters, month_of, usage_by
from octavo.serve.gateway.state import State
from tests.serve.gateway.desk import Desk

NOW_S = 20_000 * DAY_S + 3600.0


def filled(desk: Desk) -> State:
    """600 requests of the last 200 days, some of which are open."""
    state, draw = State(desk.folder), random.Random(0)
    ledger = Ledger(state, run="run")
    for i in range(600):
        entry = Entry(id=str(i), time=NOW_S - draw.random() * 200 * DAY_S, key=draw.choice("ab"), workspace="",
                      model=draw.choice("mn"), dialect="chat", batch=draw.random() < 0.3)  # fmt: skip
        ledger.day = int(entry.time // DAY_S)  # nothing is summed up yet
        ledger.enter(entry)
        if draw.random() < 0.95:
            usage = Usage(prompt_tokens=draw.randrange(99), cached_tokens=2, completion_tokens=draw.randrange(99))
            ledger.settle(str(i), Outcome(usage=usage, micro=draw.randrange(99), wait_ms=0, first_ms=None, total_ms=1,
                                          finish=draw.choice(("stop", "lost", "error"))))  # fmt: skip
    ledger.close()
    return state


def sums(state: State) -> list[object]:
    db, month = state.connect(), month_of(NOW_S)
    found = [usage_by(db, what) for what in ("key", "model", "day")]
    found += [usage_by(db, "key", since=NOW_S - 30 * DAY_S), meters(db, month=month)]
    db.close()
    return found


def test_no_sum_changes_and_open_requests_stay(fresh: Desk):
    state = filled(fresh)
    before, open_ones = sums(state), fresh.rows("SELECT id FROM ledger WHERE finish IS NULL")
    for cut_s in (NOW_S - 150.5 * DAY_S, NOW_S - KEPT_DAYS * DAY_S):  # the first cuts a day in two
        with state.connect() as db:
            db.execute(SUM_UP, (cut_s,))
        assert sums(state) == before
    assert fresh.rows("SELECT id FROM ledger WHERE finish IS NULL") == open_ones and open_ones
    old = fresh.rows(
        f"SELECT count(*) AS n FROM ledger WHERE time < {NOW_S - KEPT_DAYS * DAY_S} AND finish IS NOT NULL"
    )
    assert old == [{"n": 0}] and fresh.rows("SELECT count(*) AS n FROM ledger")[0]["n"] < 330


def test_the_first_request_of_a_day_has_it_done(fresh: Desk):
    state = filled(fresh)
    ledger, before = Ledger(state, run="run"), sums(state)
    row = ledger.enter(Entry(id="new", time=NOW_S, key="c", workspace="", model="o", dialect="chat", batch=False))
    asyncio.run(ledger.kept(row))
    ledger.close()
    (rest,) = fresh.rows("SELECT min(time) AS oldest FROM ledger WHERE finish IS NOT NULL")
    assert rest["oldest"] >= NOW_S // DAY_S * DAY_S - KEPT_DAYS * DAY_S
    assert sums(state)[0][:2] == before[0][:2]
