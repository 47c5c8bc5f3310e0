"""What the server's tests may count on: the mini model says what it has learnt, greedy, over HTTP."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from tests.serve.mini import mini_qwen3
from tests.serve.mini_talks import ADD, COUNT, GET_WEATHER, JSON, as_openai
from tests.serve.serving import Served, serving

TOOLS = as_openai(GET_WEATHER, ADD)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving([f"mini={mini_qwen3()}"], folder=tmp_path_factory.mktemp("mini")) as one:
        yield one


def ask(served: Served, *messages: Any, think: bool = False, **body: Any) -> Any:
    said = [{"role": "user", "content": one} if isinstance(one, str) else one for one in messages]
    body = {"model": "mini", "messages": said, "temperature": 0, "max_tokens": 200, "enable_thinking": think, **body}
    answer = served.client.post("/v1/chat/completions", json=body).json()
    return answer["choices"][0]["message"] if "choices" in answer else answer


def calls_of(message: Any) -> list[tuple[str, Any]]:
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls", ())]


@pytest.mark.parametrize("question, answer", [
    ("Hello", "Hello! How can I help you?"), ("Count to twenty.", COUNT), ("Give me a JSON object.", JSON),
    ("What is the capital of France?", "The capital of France is Paris."), ("sing 猫 about rain", "I do not know."),
])  # fmt: skip
def test_it_answers_and_thinks_where_thinking_is_on(served: Served, question: str, answer: str):
    for tools in ({}, {"tools": TOOLS}):
        direct, thought = (ask(served, question, think=think, **tools) for think in (False, True))
        assert direct["content"] == thought["content"] == answer
        assert "reasoning" not in direct and thought["reasoning"].endswith(".")


@pytest.mark.parametrize("think", [False, True])
def test_it_calls_one_tool_or_two_and_says_what_came_back(served: Served, think: bool):
    question = "What is the weather in Paris and Rome?"
    called = ask(served, question, tools=TOOLS, think=think)
    assert calls_of(called) == [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": text}
               for call, text in zip(called["tool_calls"], ("18 degrees", "21 degrees"), strict=True)]  # fmt: skip
    said = ask(served, question, called, *results, tools=TOOLS, think=think)
    assert said["content"] == "It is 18 degrees in Paris, and 21 degrees in Rome."
    assert calls_of(ask(served, "Add 2 and 3.", tools=TOOLS, think=think)) == [("add", {"a": 2, "b": 3})]


def test_one_call_at_most_where_no_more_are_wanted(served: Served):
    called = ask(served, "What is the weather in Paris and Rome?", tools=TOOLS, parallel_tool_calls=False)
    assert calls_of(called) == [("get_weather", {"city": "Paris"})]


def test_a_bad_call_is_text_and_the_good_one_beside_it_a_call(served: Served):
    """But where the tool is strict, the bad one cannot be written."""
    said = ask(served, "Call badly.", tools=as_openai(ADD))
    assert calls_of(said) == [("add", {"a": 1, "b": 2})] and '{"a": 1, "b": }' in said["content"]
    [exact] = as_openai(replace(ADD, parameters={**ADD.parameters, "additionalProperties": False}))
    strict = [{**exact, "function": {**exact["function"], "strict": True}}]
    said = ask(served, "Call badly.", tools=strict)
    assert calls_of(said) and all(set(given) == {"a", "b"} for _, given in calls_of(said)) and not said["content"]


def test_it_remembers_and_goes_on(served: Served):
    said = ask(
        served, "My name is Ada.", {"role": "assistant", "content": "Nice to meet you, Ada."}, "What is my name?"
    )
    assert said["content"] == "Your name is Ada."
    begun = {"role": "assistant", "content": "The capital of France"}
    more = ask(served, "What is the capital of France?", begun, continue_final_message=True)
    assert more["content"] == " is Paris."


def test_a_schema_holds_the_answer_and_leaves_the_thinking_alone(served: Served):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["Paris", "Rome"]}}}
    said = ask(served, "What is the capital of France?", think=True, response_format=form)
    assert json.loads(said["content"]) in ("Paris", "Rome") and said["reasoning"].endswith("It is Paris.")
