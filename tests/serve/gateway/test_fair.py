"""Laws of the fair queue, for any arrivals: shares like weights, no bound passed, nobody starves, nothing is lost."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from octavo.serve.gateway.fair import Bounds, Claim, Line

TENANTS = ("a", "b", "c", "d")
# (what happens, who, how much): "come", "first" token, "end", "leave"
MOVES = st.lists(
    st.tuples(st.sampled_from(("come", "come", "first", "end", "leave")), st.integers(0, 3), st.integers(1, 50)),
    max_size=120,
)


def claim(number: int, tenant: str, *, work: int = 10, weight: float = 1.0, batch: bool = False) -> Claim:
    return Claim(id=str(number), tenant=tenant, work=work, weight=weight, batch=batch)


@given(moves=MOVES, slots=st.integers(1, 6), prompts=st.integers(1, 3), room=st.integers(20, 400))
def test_no_bound_is_ever_passed_and_no_job_is_lost_or_done_twice(moves, slots, prompts, room):
    bounds = Bounds(slots=slots, prompts=prompts, prompts_alone=prompts + 1, queue_work=room, least_work=1, recent_s=3)
    line, now_s, waiting, running, over = Line(bounds), 0.0, {}, {}, set()
    for number, (move, who, amount) in enumerate(moves):
        now_s += amount / 10
        if move == "come":
            one = claim(number, TENANTS[who], work=amount, batch=who == 3)
            waiting[one.id] = one
            for gone in line.arrive(one, now_s=now_s):
                assert waiting.pop(gone.id) is gone
                over.add(gone.id)
            assert line.queued <= max(room, max((one.work for one in waiting.values()), default=0))
        elif move == "leave" and waiting:
            id = sorted(waiting)[who % len(waiting)]
            line.leave(id)
            del waiting[id]
        elif running:
            id = sorted(running)[who % len(running)]
            line.began(id, now_s=now_s)
            if move == "end":
                line.ended(id, work=amount, now_s=now_s)
                del running[id]
                over.add(id)
        for one in line.start(now_s=now_s):
            assert waiting.pop(one.id) is one and one.id not in over
            running[one.id] = one
        assert len(running) <= slots and set(line.running) == set(running)
        assert line.queued == sum(one.work for one in waiting.values())
        starting = Counter((running[id].tenant, running[id].batch) for id in line.starting)
        assert all(count <= prompts + 1 for count in starting.values())
        assert not waiting or running or line.wakes_s(now_s=now_s), "work waits, and nothing will ever start it"


@given(weights=st.lists(st.sampled_from((0.5, 1.0, 2.0, 4.0)), min_size=2, max_size=4), slots=st.integers(1, 4),
       works=st.lists(st.integers(5, 60), min_size=4, max_size=4))  # fmt: skip
def test_tenants_that_always_wait_share_like_their_weights(weights, slots, works):
    """Whatever the size of their jobs, and however many each sends: work per weight differs by a few jobs only."""
    bounds = Bounds(slots=slots, prompts=slots, queue_work=1 << 40)
    line, served, number = Line(bounds), Counter[str](), 0
    for tenant, weight, work in zip(TENANTS, weights, works, strict=False):
        for _ in range(40 * (1 + TENANTS.index(tenant)) * 8):
            line.arrive(claim(number, tenant, work=work, weight=weight), now_s=0.0)
            number += 1
    running = line.start(now_s=0.0)
    for step in range(300):
        one = running.pop(0)
        served[one.tenant] += one.work
        line.ended(one.id, work=one.work, now_s=step / 10)
        running += line.start(now_s=step / 10)
    each = [served[tenant] / weight for tenant, weight in zip(TENANTS, weights, strict=False)]
    largest = max(work / weight for work, weight in zip(works, weights, strict=False))
    assert max(each) - min(each) <= 2 * (slots + 1) * largest


@given(estimates=st.integers(1, 20), truth=st.integers(1, 20))
def test_what_a_job_was_in_truth_counts_not_what_it_said(estimates, truth):
    line, served = Line(Bounds(slots=1, queue_work=1 << 40)), Counter[str]()
    for number in range(400):
        tenant = "ab"[number % 2]
        line.arrive(claim(number, tenant, work=estimates if tenant == "a" else 10), now_s=0.0)
    running = line.start(now_s=0.0)
    for _ in range(100):
        one = running.pop()
        work = truth if one.tenant == "a" else 10
        served[one.tenant] += work
        line.ended(one.id, work=work, now_s=1.0)
        running += line.start(now_s=1.0)
    assert abs(served["a"] - served["b"]) <= 4 * (truth + estimates + 10)


@given(flood=st.integers(1, 300), work=st.integers(1, 50), slots=st.integers(2, 32))
def test_who_comes_to_a_flooded_server_is_next(flood, work, slots):
    """However much of another's waits: the newcomer starts as soon as one job of the other ends, or at once."""
    line = Line(Bounds(slots=slots, queue_work=1 << 40))
    for number in range(flood):
        line.arrive(claim(number, "flood", work=work), now_s=0.0)
        for one in line.start(now_s=0.0):
            line.began(one.id, now_s=0.0)
    line.start(now_s=0.0)
    line.arrive(claim(9999, "new", work=1000), now_s=1.0)
    started = line.start(now_s=1.0)
    if not started:
        line.ended(next(iter(line.running)), work=work, now_s=1.0)
        started = line.start(now_s=1.0)
    assert [one.tenant for one in started] == ["new"]


def test_while_others_are_about_one_tenant_has_its_share_of_slots_and_one_prompt_at_a_time():
    line = Line(Bounds(slots=8, recent_s=10))
    for number in range(20):
        line.arrive(claim(number, "flood"), now_s=0.0)
    line.arrive(claim(100, "other"), now_s=0.0)
    started = line.start(now_s=0.0)
    assert sorted(one.tenant for one in started) == ["flood", "other"]
    for _ in range(10):
        for id in list(line.starting):
            line.began(id, now_s=0.0)
        line.start(now_s=0.0)
    assert Counter(one.tenant for one in line.running.values()) == {"flood": 4, "other": 1}
    line.ended("100", work=10, now_s=0.0)
    line.start(now_s=5.0)
    assert len(line.running) == 4, "the other was here a moment ago and may come back"
    assert len(line.start(now_s=20.0)) == 4, "now it is gone"


def test_who_has_more_in_the_queue_rests_after_a_prompt_while_others_are_about():
    line = Line(Bounds(slots=8, rest=2, recent_s=10))
    for number in range(5):
        line.arrive(claim(number, "flood"), now_s=0.0)
    line.arrive(claim(100, "other"), now_s=0.0)
    started = line.start(now_s=0.0)
    for one in started:
        line.began(one.id, now_s=1.0)  # a second of prompt, so two of rest
    assert line.start(now_s=2.9) == [] and abs((line.wakes_s(now_s=2.9) or 0) - 0.1) < 1e-9
    line.arrive(claim(101, "other"), now_s=2.9)
    assert [one.tenant for one in line.start(now_s=2.9)] == ["other"], "who has nothing in the queue need not rest"
    assert [one.tenant for one in line.start(now_s=3.0)] == ["flood"] and line.wakes_s(now_s=3.0) is None


def test_batches_take_what_others_leave():
    line = Line(Bounds(slots=8, recent_s=10))
    for number in range(20):
        line.arrive(claim(number, "a", batch=True), now_s=0.0)
    for second in range(20):
        for one in line.start(now_s=float(second)):
            line.began(one.id, now_s=float(second))
    assert len(line.running) == 4, "half of the slots where nobody else is about"
    line.arrive(claim(100, "b"), now_s=30.0)
    assert [one.id for one in line.start(now_s=30.0)] == ["100"]
    line.ended("0", work=10, now_s=31.0)
    assert line.start(now_s=31.0) == [], "an eighth, while somebody is about"


def test_the_queue_is_full_for_whoever_filled_it_and_says_when_to_come_again():
    line = Line(Bounds(slots=1, queue_work=100, rest=0))
    for number in range(11):
        assert line.arrive(claim(number, "flood"), now_s=0.0) == []
        line.start(now_s=0.0)
    assert [one.id for one in line.arrive(claim(11, "flood"), now_s=0.0)] == ["11"]
    assert [one.tenant for one in line.arrive(claim(12, "other"), now_s=0.0)] == ["flood"]
    for number in range(5):  # ten units of work in a second
        line.ended(next(iter(line.running)), work=10, now_s=float(number + 1))
        line.start(now_s=float(number + 1))
    assert abs(line.again_s - line.queued / 10) < 0.01


def test_one_of_many_lets_others_pass_while_one_is_about_that_has_no_queue():
    line = Line(Bounds(slots=8, recent_s=10))
    for number in range(5):
        line.arrive(claim(number, "flood"), now_s=0.0)
    alone = line.start(now_s=0.0)
    assert not any(line.yields(one, now_s=0.0) for one in alone), "nobody is about"
    line.arrive(claim(100, "other"), now_s=0.0)
    line.arrive(claim(101, "patient", batch=True), now_s=0.0)
    for number in range(5, 9):
        line.arrive(claim(number, "flood"), now_s=0.0)
    for one in alone:
        line.ended(one.id, work=10, now_s=0.0)
    found = {one.tenant: line.yields(one, now_s=0.0) for one in line.start(now_s=0.0)}
    assert found == {"flood": True, "other": False, "patient": True}
