"""What clients are told of when to come again."""

import asyncio
import math

import pytest

from octavo.serve import events
from octavo.serve.errors import Refusal
from octavo.serve.gateway.limits import Limits, Meter, Need, Terms
from octavo.serve.stream import Stream


@pytest.mark.parametrize("kind", ["overloaded", "rate_limit_error"])
def test_what_passes_may_be_tried_again(kind: str):
    headers = Refusal("later.", kind=kind).headers()
    assert headers == {"retry-after": "1", "retry-after-ms": "1000"}
    assert Refusal("later.", kind=kind, retry_after_s=math.inf).headers() == {"x-should-retry": "false"}


def test_a_budget_and_a_limit_of_nothing_do_not_pass():
    assert Refusal("no.", kind="insufficient_quota").headers() == {"x-should-retry": "false"}
    with pytest.raises(Refusal) as refused:
        Meter().enter(Terms(limits=Limits(rpm=0)), "m", need=Need(), month="1", now_s=0.0)
    assert refused.value.headers()["x-should-retry"] == "false"
    assert Refusal("wrong.").headers() == {}


async def _first(error: events.Error) -> None:
    stream = Stream("1", stop=lambda id: None, end_thinking=lambda id: None)
    stream.push(error)
    await stream.first()


def test_an_engines_own_time_is_handed_on():
    with pytest.raises(Refusal) as refused:
        asyncio.run(_first(events.Error("later.", "overloaded", 7.0)))
    assert refused.value.headers()["retry-after"] == "7"
