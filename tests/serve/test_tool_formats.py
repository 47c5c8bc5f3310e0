"""Forced calls in every way that formats write them, with a model that talks nonsense."""

import json

import pytest

from octavo.core.deltas import Finished
from octavo.core.errors import FormatError, RequestError
from octavo.core.messages import Message, ToolSpec
from octavo.core.sampling import Thinking
from octavo.serve.answers import prepared
from octavo.serve.job import Job, ToolChoice
from tests.chat.models import nonsense

DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
ADD = ToolSpec(
    name="add",
    parameters={"type": "object", "properties": {"a": DIGIT}, "required": ["a"], "additionalProperties": False},
)
ASKED = (Message(role="user", content="Do it."),)


def reply(name: str, *tools: ToolSpec, seed: int, choice: ToolChoice) -> Finished:
    chat = nonsense(name)
    job = Job(model="m", messages=ASKED, tools=tools, choice=choice, thinking=Thinking(budget_tokens=4),
              sampling={"seed": seed, "temperature": 1.0, "max_tokens": 80})  # fmt: skip
    asked = prepared(chat, job)
    (request,), (reader,) = asked.requests, asked.readers
    deltas = [delta for step in chat.engine.generate(request) for delta in reader.read(step, after_s=0)]
    last = deltas[-1]
    assert isinstance(last, Finished)
    return last


@pytest.mark.parametrize("name", ["qwen3_thinking", "qwen2_5", "llama3_1"])
def test_a_forced_call_is_read_by_the_formats_own_parser(name: str):
    said = reply(name, ADD, seed=0, choice=ToolChoice(mode="required", parallel=False))
    (call,) = said.message.tool_calls
    assert said.reason == "tool_calls" and not said.message.text, said
    assert call.name == "add" and json.loads(call.arguments) in [{"a": i} for i in range(10)]


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_formats_without_tools_refuse_them(name: str):
    with pytest.raises(FormatError, match="tools"):
        reply(name, ADD, seed=0, choice=ToolChoice(mode="required"))


def test_parameters_that_are_no_object_are_refused():
    odd = ToolSpec(name="odd", parameters={"type": "array"})
    with pytest.raises(RequestError, match="'odd'"):
        reply("qwen3", odd, seed=0, choice=ToolChoice(mode="required"))
