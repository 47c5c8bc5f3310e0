"""openai-python: the Responses API."""

import json
import threading
from typing import Any

import kit
import openai
import pytest
from kit import CITY, FRANCE, GREETING, KEY, LONG, MODEL, PARIS, PERSON, THOUGHT, TIMEOUT_S, URL
from pydantic import BaseModel

TOOL: Any = {"type": "function", "name": "get_weather", "description": "The weather in a city.", "parameters": CITY,
             "strict": False}  # fmt: skip
OFF: Any = {"effort": "none"}


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
def ai() -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0, timeout=TIMEOUT_S)


def ask(ai: openai.OpenAI, given: Any, *, reasoning: Any = OFF, options: dict[str, Any] | None = None) -> Any:
    return ai.responses.create(model=MODEL, input=given, temperature=0, reasoning=reasoning, **(options or {}))


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_text(ai: openai.OpenAI):
    answer = ask(ai, FRANCE)
    assert answer.output_text == PARIS and answer.status == "completed" and answer.object == "response"
    assert [item.type for item in answer.output] == ["message"] and answer.error is None


def test_text_stream(ai: openai.OpenAI):
    events = list(ask(ai, FRANCE, options={"stream": True}))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text == PARIS and len(deltas) > 1


def test_text_stream_helper(ai: openai.OpenAI):
    with ai.responses.stream(model=MODEL, input=FRANCE, temperature=0, reasoning=OFF) as stream:
        for _ in stream:
            continue
        assert stream.get_final_response().output_text == PARIS


def test_instructions(ai: openai.OpenAI):
    answer = ask(ai, [{"role": "user", "content": FRANCE}], options={"instructions": "Be brief."})
    assert answer.output_text == PARIS and answer.instructions == "Be brief."


def test_multi_turn(ai: openai.OpenAI):
    first = ask(ai, "My name is Ada.")
    talk = [*user("My name is Ada."), *first.output, *user("What is my name?")]
    assert ask(ai, talk).output_text == "Your name is Ada."


def test_previous_response(ai: openai.OpenAI):
    first = ask(ai, "My name is Ada.")
    second = ask(ai, "What is my name?", options={"previous_response_id": first.id})
    assert second.output_text == "Your name is Ada." and second.previous_response_id == first.id
    with pytest.raises(openai.NotFoundError):
        ask(ai, "Hello", options={"previous_response_id": "resp_nobody"})


def test_retrieve_and_delete(ai: openai.OpenAI):
    made = ask(ai, FRANCE, options={"metadata": {"who": "me"}})
    again = ai.responses.retrieve(made.id)
    assert again.output_text == PARIS and again.usage == made.usage and again.metadata == {"who": "me"}
    assert [item.role for item in ai.responses.input_items.list(made.id)] == ["user"]
    ai.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        ai.responses.retrieve(made.id)


def test_not_stored(ai: openai.OpenAI):
    made = ask(ai, FRANCE, options={"store": False})
    with pytest.raises(openai.NotFoundError):
        ai.responses.retrieve(made.id)


def loop(ai: openai.OpenAI, text: str, *, reasoning: Any) -> tuple[list[Any], str]:
    first = ask(ai, text, reasoning=reasoning, options={"tools": [TOOL]})
    calls = [item for item in first.output if item.type == "function_call"]
    results = [{"type": "function_call_output", "call_id": call.call_id,
                "output": kit.get_weather(**json.loads(call.arguments))} for call in calls]  # fmt: skip
    last = ask(ai, [*user(text), *first.output, *results], reasoning=reasoning,
               options={"tools": [TOOL]})  # fmt: skip
    after = ask(ai, results, reasoning=reasoning, options={"tools": [TOOL], "previous_response_id": first.id})
    assert after.output_text == last.output_text
    return [(call.name, json.loads(call.arguments)) for call in calls], last.output_text


def test_tools_loop(ai: openai.OpenAI):
    calls, said = loop(ai, "What is the weather in Paris?", reasoning=OFF)
    assert calls == [("get_weather", {"city": "Paris"})] and said == "It is 18 degrees in Paris."


def test_tools_loop_with_thinking(ai: openai.OpenAI):
    calls, said = loop(ai, "What is the weather in Paris?", reasoning={"effort": "high"})
    assert calls == [("get_weather", {"city": "Paris"})] and said == "It is 18 degrees in Paris."


def test_parallel_tools(ai: openai.OpenAI):
    calls, said = loop(ai, "What is the weather in Paris and Rome?", reasoning=OFF)
    assert [arguments["city"] for _, arguments in calls] == ["Paris", "Rome"]
    assert said == "It is 18 degrees in Paris, and 21 degrees in Rome."


def test_tools_stream(ai: openai.OpenAI):
    text = "What is the weather in Paris and Rome?"
    with ai.responses.stream(model=MODEL, input=text, tools=[TOOL], temperature=0, reasoning=OFF) as stream:
        done = [json.loads(e.arguments) for e in stream if e.type == "response.function_call_arguments.done"]
        final = stream.get_final_response()
    calls = [item for item in final.output if item.type == "function_call"]
    assert done == [{"city": "Paris"}, {"city": "Rome"}] == [json.loads(call.arguments) for call in calls]
    assert len({call.call_id for call in calls}) == 2


def test_forced_tool(ai: openai.OpenAI):
    named = {"type": "function", "name": "get_weather"}
    answer = ask(ai, "How is the weather in Oslo?", options={"tools": [TOOL], "tool_choice": named})
    assert [(c.type, json.loads(c.arguments)) for c in answer.output] == [("function_call", {"city": "Oslo"})]


def test_structured_schema(ai: openai.OpenAI):
    form = {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}
    answer = ask(ai, "Hello", options={"text": {"format": form}})
    assert set(json.loads(answer.output_text)) == {"name", "age"}


def test_structured_parse(ai: openai.OpenAI):
    answer = ai.responses.parse(model=MODEL, input="Describe Ada as JSON.", text_format=Person, temperature=0)
    assert answer.output_parsed == Person(name="Ada", age=36)


def test_json_object(ai: openai.OpenAI):
    answer = ask(ai, "Give me a JSON object.", options={"text": {"format": {"type": "json_object"}}})
    assert json.loads(answer.output_text) == {"name": "Ada", "age": 36}


def test_reasoning(ai: openai.OpenAI):
    answer = ask(ai, "Hello", reasoning={"effort": "high"})
    assert [item.type for item in answer.output] == ["reasoning", "message"] and answer.output_text == GREETING
    assert answer.output[0].content[0].text == THOUGHT
    assert 0 < answer.usage.output_tokens_details.reasoning_tokens < answer.usage.output_tokens


def test_reasoning_summary_stream(ai: openai.OpenAI):
    events = list(ask(ai, "Hello", reasoning={"effort": "high", "summary": "auto"}, options={"stream": True}))
    thought = [event.delta for event in events if event.type == "response.reasoning_summary_text.delta"]
    assert "".join(thought) == events[-1].response.output[0].summary[0].text == THOUGHT


def test_reasoning_stream(ai: openai.OpenAI):
    with ai.responses.stream(model=MODEL, input="Hello", temperature=0, reasoning={"effort": "high"}) as stream:
        thought = "".join(e.delta for e in stream if e.type in ("response.reasoning_text.delta",
                                                                "response.reasoning.delta"))  # fmt: skip
        final = stream.get_final_response()
    assert thought == THOUGHT and final.output_text == GREETING


def test_reasoning_budget(ai: openai.OpenAI):
    answer = ask(ai, "Count to twenty.", reasoning=None, options={"extra_body": {"thinking_budget": 2}})
    assert 0 < answer.usage.output_tokens_details.reasoning_tokens <= 2 and answer.output_text


def test_reasoning_off(ai: openai.OpenAI):
    answer = ask(ai, "Hello")
    assert answer.usage.output_tokens_details.reasoning_tokens == 0 and answer.output_text == GREETING


def test_usage(ai: openai.OpenAI):
    text = "Tell me why the blue tree sings three things about rain, and how the red dog writes a book. " * 8
    first, second = (ask(ai, text, options={"max_output_tokens": 5}).usage for _ in range(2))
    assert first.total_tokens == first.input_tokens + first.output_tokens and first.output_tokens <= 5
    assert 0 < second.input_tokens_details.cached_tokens < second.input_tokens == first.input_tokens


def test_length(ai: openai.OpenAI):
    answer = ask(ai, "Count to twenty.", options={"max_output_tokens": 5})
    assert answer.status == "incomplete" and answer.incomplete_details.reason == "max_output_tokens"


def test_logprobs(ai: openai.OpenAI):
    options = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    [part] = ask(ai, FRANCE, options=options).output[0].content
    assert "".join(token.token for token in part.logprobs).startswith(PARIS)
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in part.logprobs)


def test_count_tokens(ai: openai.OpenAI):
    counted = ai.responses.input_tokens.count(model=MODEL, input=FRANCE, reasoning=OFF)
    assert counted.input_tokens == ask(ai, FRANCE).usage.input_tokens


def test_unknown_model(ai: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="nobody"):
        ai.responses.create(model="nobody", input="Hello")


@pytest.mark.parametrize("wrong", [{"temperature": "hot"}, {"input": []}, {"max_output_tokens": 0},
                                   {"text": {"format": {"type": "poem"}}},
                                   {"tools": [{"type": "oracle"}]}])  # fmt: skip
def test_bad_field(ai: openai.OpenAI, wrong: Any):
    with pytest.raises(openai.BadRequestError) as caught:
        ai.responses.create(**{"model": MODEL, "input": "Hello", **wrong})
    assert caught.value.type == "invalid_request_error" and caught.value.param


def test_wrong_key():
    stranger = openai.OpenAI(base_url=f"{URL}/v1", api_key="not-a-key", max_retries=0, timeout=TIMEOUT_S)
    with pytest.raises(openai.AuthenticationError):
        stranger.responses.create(model=MODEL, input="Hello")


def long(ai: openai.OpenAI) -> Any:
    form = {"type": "json_schema", "name": "long", "schema": LONG}
    return ask(ai, "Hello", options={"text": {"format": form}, "max_output_tokens": 3500, "stream": True})


def test_cancel(ai: openai.OpenAI):
    stream = long(ai)
    next(iter(stream))
    assert kit.comes_to_work()
    stream.close()
    assert kit.comes_to_rest()


def test_cancel_by_id(ai: openai.OpenAI):
    stream, ids, ends = long(ai), list[str](), list[str]()
    begun = threading.Event()

    def read() -> None:
        for event in stream:
            if event.type == "response.created":
                ids.append(event.response.id)
                begun.set()
        ends.append(event.type)

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(TIMEOUT_S) and kit.comes_to_work()
    cancelled = ai.responses.cancel(ids[0])
    reader.join(TIMEOUT_S)
    assert cancelled.status == "cancelled" == ai.responses.retrieve(ids[0]).status
    assert ends == ["response.incomplete"] and kit.comes_to_rest()
