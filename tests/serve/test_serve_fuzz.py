"""Spoiled requests, a few hundred of them: `bench.serve_fuzz` sends thousands."""

from bench.serve_fuzz import GROWTH_MB, server, spoil


def test_spoiled_requests_are_refused_and_leave_no_trace():
    """No 5xx, nobody without an answer, the engine lives, memory stays, and what was answered is answered again."""
    with server() as served:
        found = spoil(served, 400)
    assert not found["faults"] and not found["unanswered"], found
    assert found["same_engine"] and found["same_answer"]
    assert found["statuses"]["200"] > 10 and found["statuses"]["400"] > 100
    assert max(found["growth_mb"].values()) < GROWTH_MB
