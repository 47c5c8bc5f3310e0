"""Tool choice, schemas and going on, over HTTP, with a model that knows none of it: all it says was held to it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.mini import mini_random
from tests.serve.serving import Served, serving


def tool(name: str, *, strict: bool = False, **properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return {
        "type": "function",
        "function": {"name": name, "description": "It.", "parameters": schema, "strict": strict},
    }


DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
ADD, LOOK = tool("add", a=DIGIT, b=DIGIT), tool("look", city={"enum": ["Oslo", "Rome"]})
ASKED = [{"role": "user", "content": "Do it."}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving([f"mini={mini_random()}"], folder=tmp_path_factory.mktemp("tools")) as one:
        yield one


def ask(served: Served, messages: list[Any] = ASKED, **body: Any) -> Any:
    answer = served.client.post(
        "/v1/chat/completions", json={"model": "mini", "messages": messages, "temperature": 1, **body}
    )
    return answer.json()


def calls_in(answer: Any) -> list[tuple[str, Any]]:
    message = answer["choices"][0]["message"]
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls", ())]


def holds(name: str, arguments: Any) -> bool:
    if name == "look":
        return arguments in ({"city": "Oslo"}, {"city": "Rome"})
    return set(arguments) == {"a", "b"} and all(value in range(10) for value in arguments.values())


@pytest.mark.parametrize("thinking", [{"enable_thinking": False}, {"thinking_budget": 7}])
@pytest.mark.parametrize("parallel", [True, False])
def test_required_calls_come_whole_and_right_after_whatever_thinking(served: Served, thinking: Any, parallel: bool):
    for seed in range(4):
        answer = ask(served, tools=[ADD, LOOK], tool_choice="required", parallel_tool_calls=parallel, seed=seed,
                     max_tokens=400, **thinking)  # fmt: skip
        found, choice = calls_in(answer), answer["choices"][0]
        assert found and all(holds(*call) for call in found), answer
        assert choice["message"]["content"] is None and (len(found) == 1 or parallel)
        assert choice["finish_reason"] == "tool_calls" or len(found) > 9  # it may call on and on
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] <= thinking.get("thinking_budget", 0)


def test_a_named_tool_is_the_one_that_is_called(served: Served):
    named = {"type": "function", "function": {"name": "look"}}
    for seed in range(3):
        answer = ask(served, tools=[ADD, LOOK], tool_choice=named, seed=seed, thinking_budget=3)
        assert [name for name, _ in calls_in(answer)] == ["look"] and answer["choices"][0][
            "finish_reason"
        ] == "tool_calls"


def test_a_required_call_streams_as_it_is_whole(served: Served):
    body = {"tools": [ADD, LOOK], "tool_choice": "required", "parallel_tool_calls": False, "seed": 5, "think": False}
    whole = ask(served, **body)["choices"][0]["message"]["tool_calls"]
    lines = served.client.post(
        "/v1/chat/completions", json={"model": "mini", "messages": ASKED, "temperature": 1, "stream": True, **body}
    )
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines.text.splitlines() if line[:7] == "data: {"]
    parts = [part for delta in deltas for part in delta.get("tool_calls", ())]
    assert [part["index"] for part in parts] == [0] * len(parts) and parts[0]["type"] == "function" and parts[0]["id"]
    assert parts[0]["function"]["name"] == whole[0]["function"]["name"]
    assert "".join(part["function"]["arguments"] for part in parts) == whole[0]["function"]["arguments"]


def test_no_call_is_made_where_none_is_wanted(served: Served):
    with_tools = ask(served, tools=[ADD], max_tokens=8, seed=1)["usage"]["prompt_tokens"]
    answer = ask(served, tools=[ADD], tool_choice="none", max_tokens=8, seed=1)
    assert answer == {**ask(served, max_tokens=8, seed=1), **{k: answer[k] for k in ("id", "created", "timings")},
                      "usage": answer["usage"]}  # fmt: skip
    assert answer["usage"]["prompt_tokens"] < with_tools


def test_with_tools_and_a_schema_the_model_calls_or_answers_by_it(served: Served):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
    exact = tool("add", strict=True, a=DIGIT, b=DIGIT)
    for seed in range(6):
        answer = ask(served, tools=[exact], response_format=form, enable_thinking=False, seed=seed, max_tokens=200)
        message = answer["choices"][0]["message"]
        assert message.get("tool_calls") or json.loads(message["content"]) in ("yes", "no")


@pytest.mark.parametrize("choice", [{"tool_choice": "required"}, {}])
def test_a_schema_that_cannot_be_done_is_refused_and_named(served: Served, choice: Any):
    odd = tool("odd", strict=True, x={"type": "object", "not": {}})
    answer = ask(served, tools=[ADD, odd], **choice)
    assert "'odd'" in answer["error"]["message"] and answer["error"]["type"] == "invalid_request_error"


def test_an_answer_is_gone_on_with(served: Served):
    """The prompt ends with what was said: no end of turn, no new turn; several times on is once at length."""
    begun = [*ASKED, {"role": "assistant", "content": "One two"}]
    options = {"temperature": 0, "enable_thinking": False, "return_token_ids": True}
    longer = ask(served, begun, continue_final_message=True, max_tokens=8, **options)
    first = ask(served, begun, continue_final_message=True, max_tokens=4, **options)
    closed = ask(served, begun, max_tokens=4, **options)
    assert first["choices"][0]["token_ids"] == longer["choices"][0]["token_ids"][:4]
    assert first["usage"]["prompt_tokens"] < closed["usage"]["prompt_tokens"]
    refused = ask(served, continue_final_message=True)
    assert "assistant" in refused["error"]["message"]


def test_the_thinking_of_the_running_turn_is_kept_and_an_earlier_one_is_not(served: Served):
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c", "content": "3"}

    def size(*messages: Any) -> int:
        return ask(served, [*ASKED, *messages], tools=[ADD], max_tokens=1)["usage"]["prompt_tokens"]

    thought = {**said, "reasoning": "I add them."}
    assert size(thought, result) > size(said, result)
    assert size({**said, "reasoning_content": "I add them."}, result) == size(thought, result)
    over = {"role": "assistant", "content": "Three."}
    assert size(thought, result, over, *ASKED) == size(said, result, over, *ASKED)
