"""Laws of the limits: never above, never below what was left, exact whoever asks at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.serve.errors import Refusal
from octavo.serve.gateway.limits import Budget, Limits, Meter, Need, Terms

ASKS = st.lists(st.tuples(st.floats(0, 10), st.integers(1, 40), st.integers(0, 60)), min_size=1, max_size=80)


@given(asks=ASKS, rpm=st.integers(1, 30), tpm=st.integers(1, 200))
def test_in_any_time_no_more_comes_out_than_a_minute_holds_and_what_flows_in(asks, rpm, tpm):
    meter, now_s, given_s = Meter(), 0.0, list[tuple[float, int]]()
    terms = Terms(limits=Limits(rpm=rpm, tpm=tpm))
    for wait_s, tokens, _ in asks:
        now_s += wait_s
        try:
            meter.enter(terms, "m", need=Need(tokens), month="1", now_s=now_s)
        except Refusal as refusal:
            assert refusal.kind == "rate_limit_error" and refusal.retry_after_s is not None
            later_s = now_s + refusal.retry_after_s + 1e-6
            now_s = later_s  # who comes when it was told to is let in, unless the other limit is reached too
            try:
                meter.enter(terms, "m", need=Need(tokens), month="1", now_s=now_s)
            except Refusal as second:
                now_s += (second.retry_after_s or 0) + 1e-6
                meter.enter(terms, "m", need=Need(tokens), month="1", now_s=now_s)
        given_s.append((now_s, min(tokens, tpm)))
    for i, (start_s, _) in enumerate(given_s):
        for j in range(i, len(given_s)):
            span_s, some = given_s[j][0] - start_s, given_s[i : j + 1]
            assert len(some) <= rpm * (1 + span_s / 60) + 1e-6
            assert sum(tokens for _, tokens in some) <= tpm * (1 + span_s / 60) + 1e-6


@given(
    needs=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.booleans()), max_size=60),
    most=st.integers(0, 300),
)
def test_a_budget_is_never_promised_twice(needs, most):
    """Spent and held together stay within the budget, for jobs that use no more than they said."""
    meter, running, spent = Meter(), list[tuple[Need, Need]](), 0
    for tokens, used, end in needs:
        try:
            meter.enter(Terms(total=Budget(tokens=most)), "m", need=Need(tokens), month="1", now_s=0.0)
            running.append((Need(tokens), Need(min(used, tokens))))
        except Refusal as refusal:
            assert refusal.kind == "insufficient_quota" and spent + sum(n.tokens for n, _ in running) + tokens > most
        if end and running:
            need, truth = running.pop(0)
            meter.settle("m", need=need, used=truth, month="1")
            spent += truth.tokens
        assert meter.spent.tokens == spent and spent + sum(n.tokens for n, _ in running) <= most


@given(tokens=st.integers(1, 500), used=st.integers(0, 500))
def test_a_job_that_is_undone_leaves_no_trace_and_one_that_is_settled_leaves_its_tokens(tokens, used):
    terms = Terms(limits=Limits(rpm=5, tpm=600), models={"m": Limits(tpm=550)})
    meter = Meter()
    meter.enter(terms, "m", need=Need(1), month="1", now_s=0.0)
    before = {key: bucket.left for key, bucket in meter.buckets.items()}
    meter.enter(terms, "m", need=Need(tokens), month="1", now_s=0.0)
    meter.undo("m", need=Need(tokens), month="1")
    assert {key: bucket.left for key, bucket in meter.buckets.items()} == before and meter.held == Need(1)
    meter.enter(terms, "m", need=Need(tokens), month="1", now_s=0.0)
    meter.settle("m", need=Need(tokens), used=Need(used), month="1")
    assert meter.buckets["", "tokens"].left == before["", "tokens"] - used


def test_a_models_own_limit_stands_beside_the_limit_for_all():
    terms, meter = Terms(limits=Limits(rpm=3), models={"small": Limits(rpm=1)}), Meter()
    meter.enter(terms, "small", need=Need(), month="1", now_s=0.0)
    with pytest.raises(Refusal, match="of small"):
        meter.enter(terms, "small", need=Need(), month="1", now_s=0.0)
    meter.enter(terms, "other", need=Need(), month="1", now_s=0.0)
    headers = meter.enter(terms, "other", need=Need(), month="1", now_s=0.0)
    assert headers == {"x-ratelimit-limit-requests": "3", "x-ratelimit-remaining-requests": "0",
                       "x-ratelimit-reset-requests": "60.000s"}  # fmt: skip


def test_a_new_month_is_a_new_budget_but_not_in_all():
    terms, meter = Terms(month=Budget(micro=10), total=Budget(micro=15)), Meter()
    meter.enter(terms, "m", need=Need(0, 10), month="1", now_s=0.0)
    meter.settle("m", need=Need(0, 10), used=Need(0, 10), month="1")
    with pytest.raises(Refusal, match="this month"):
        meter.enter(terms, "m", need=Need(0, 1), month="1", now_s=0.0)
    meter.enter(terms, "m", need=Need(0, 5), month="2", now_s=0.0)
    with pytest.raises(Refusal, match="in all"):
        meter.enter(terms, "m", need=Need(0, 1), month="2", now_s=0.0)


@pytest.mark.parametrize("over", ["settle", "undo"])
def test_a_job_that_took_nothing_from_the_limits_gives_nothing_back(over: str):
    """As batches do: else they would fill up the minute of the key's other requests."""
    terms, meter = Terms(limits=Limits(rpm=5, tpm=100)), Meter()
    meter.enter(terms, "m", need=Need(80), month="1", now_s=0.0)
    before = {key: bucket.left for key, bucket in meter.buckets.items()}
    meter.enter(Terms(), "m", need=Need(60), month="1", now_s=0.0)
    if over == "undo":
        meter.undo("m", need=Need(60), month="1", limited=False)
    else:
        meter.settle("m", need=Need(60), used=Need(1), month="1", limited=False)
    assert {key: bucket.left for key, bucket in meter.buckets.items()} == before and meter.held == Need(80)
