"""Callers that wait: in turn, refused when too many wait, and gone without a trace when they leave."""

import asyncio

import pytest

from octavo.serve.errors import Refusal
from octavo.serve.gateway.admission import Admission
from octavo.serve.gateway.fair import Bounds, Claim


def claim(number: int, *, tenant: str = "a", work: int = 10) -> Claim:
    return Claim(id=str(number), tenant=tenant, work=work)


async def many(count: int, leave: set[int]) -> list[int]:
    """So many callers of one engine with two slots, some of whom stop waiting. Returns who had their turn, in order."""
    admission, served = Admission(Bounds(slots=2, prompts_alone=2)), list[int]()
    most = 0

    async def caller(number: int) -> None:
        nonlocal most
        await admission.enter("m", claim(number))
        most = max(most, len(admission.lines["m"].running))
        served.append(number)
        try:
            await asyncio.sleep(0)
            admission.began("m", str(number))
        finally:
            admission.ended("m", str(number), work=10)

    tasks = [asyncio.create_task(caller(number)) for number in range(count)]
    await asyncio.sleep(0)
    for number in leave:
        tasks[number].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    line = admission.lines["m"]
    assert most <= 2 and not line.running and not line.queued and not line.starting and not admission.waiting
    return served


def test_all_have_their_turn_in_order_and_who_leaves_is_forgotten():
    assert asyncio.run(many(64, set())) == list(range(64))
    served = asyncio.run(many(64, set(range(0, 64, 3))))
    assert served == [number for number in range(64) if number % 3 or number in served] and len(served) >= 42


def test_who_leaves_in_the_moment_of_its_turn_gives_the_turn_to_the_next():
    async def run() -> None:
        admission = Admission(Bounds(slots=1))
        await admission.enter("m", claim(0))
        second, third = (asyncio.create_task(admission.enter("m", claim(n))) for n in (1, 2))
        await asyncio.sleep(0)
        admission.ended("m", "0", work=10)  # the second's turn has come, but it does not know yet
        second.cancel()
        await third
        assert set(admission.lines["m"].running) == {"2"}

    asyncio.run(run())


def test_a_full_queue_refuses_and_says_when_to_come_again():
    async def run() -> None:
        admission = Admission(Bounds(slots=1, queue_work=50))
        await admission.enter("m", claim(0))
        waiting = [asyncio.create_task(admission.enter("m", claim(n))) for n in range(1, 6)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as refused:
            await admission.enter("m", claim(6))
        assert refused.value.kind == "overloaded" and refused.value.status == 503 and refused.value.retry_after_s
        await admission.enter("other", claim(7))  # another engine has a line of its own
        newcomer = asyncio.create_task(admission.enter("m", claim(8, tenant="b")))
        with pytest.raises(Refusal):
            await waiting[-1]  # of who filled the queue, the last goes
        admission.began("m", "0")
        admission.ended("m", "0", work=10)
        done, _ = await asyncio.wait((newcomer, *waiting[:4]), return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        for task in waiting:
            task.cancel()
        newcomer.cancel()

    asyncio.run(run())
