"""anthropic-python: Messages."""

import json
from typing import Any

import anthropic
import kit
import pytest
from kit import CITY, FRANCE, GREETING, KEY, LONG, MODEL, PARIS, PERSON, THOUGHT, TIMEOUT_S, URL
from pydantic import BaseModel

WEATHER: Any = {"name": "get_weather", "description": "The weather in a city.", "input_schema": CITY}
OFF: Any = {"type": "disabled"}
ON: Any = {"type": "enabled", "budget_tokens": 1024}
GREEDY: Any = {"temperature": 0}


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
def ai() -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0, timeout=TIMEOUT_S)


def ask(ai: anthropic.Anthropic, given: Any, *, thinking: Any = OFF, options: dict[str, Any] | None = None) -> Any:
    talk = [{"role": "user", "content": given}] if isinstance(given, str) else given
    body: Any = {"max_tokens": 300, "thinking": thinking, "extra_body": GREEDY, **(options or {})}
    return ai.messages.create(model=MODEL, messages=talk, **body)


def test_text(ai: anthropic.Anthropic):
    message = ask(ai, FRANCE)
    assert [(block.type, block.text) for block in message.content] == [("text", PARIS)]
    assert (message.role, message.stop_reason, message.model) == ("assistant", "end_turn", MODEL)


def test_text_stream(ai: anthropic.Anthropic):
    events = list(ask(ai, FRANCE, options={"stream": True}))
    assert events[0].type == "message_start" and events[-1].type == "message_stop"
    assert "".join(e.delta.text for e in events if e.type == "content_block_delta") == PARIS


def test_text_stream_helper(ai: anthropic.Anthropic):
    talk: Any = [{"role": "user", "content": FRANCE}]
    with ai.messages.stream(model=MODEL, max_tokens=99, messages=talk, thinking=OFF, extra_body=GREEDY) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == final.content[0].text == PARIS and len(pieces) > 1
    assert final.usage.output_tokens > 0 and final.stop_reason == "end_turn"


def test_text_async():
    import asyncio

    async def drive() -> str:
        ai = anthropic.AsyncAnthropic(base_url=URL, api_key=KEY, max_retries=0, timeout=TIMEOUT_S)
        async with ai.messages.stream(model=MODEL, max_tokens=99, thinking=OFF, extra_body=GREEDY,
                                      messages=[{"role": "user", "content": FRANCE}]) as stream:  # fmt: skip
            return "".join([piece async for piece in stream.text_stream])

    assert asyncio.run(drive()) == PARIS


def test_system_and_parts(ai: anthropic.Anthropic):
    parts = [{"type": "text", "text": "What is the capital"}, {"type": "text", "text": " of France?"}]
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    message = ask(ai, [{"role": "user", "content": parts}], options={"system": system})
    assert message.content[0].text == PARIS


def test_multi_turn(ai: anthropic.Anthropic):
    first = ask(ai, "My name is Ada.")
    talk = [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": first.content},
            {"role": "user", "content": "What is my name?"}]  # fmt: skip
    assert ask(ai, talk).content[0].text == "Your name is Ada."


def test_prefilled_answer(ai: anthropic.Anthropic):
    talk = [{"role": "user", "content": FRANCE}, {"role": "assistant", "content": "The capital of"}]
    assert ask(ai, talk).content[0].text == " France is Paris."


def loop(ai: anthropic.Anthropic, text: str, *, thinking: Any) -> tuple[list[Any], str]:
    first = ask(ai, text, thinking=thinking, options={"tools": [WEATHER], "max_tokens": 1500})
    assert first.stop_reason == "tool_use"
    calls = [block for block in first.content if block.type == "tool_use"]
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": kit.get_weather(**call.input)} for call in calls
    ]
    talk = [{"role": "user", "content": text}, {"role": "assistant", "content": first.content},
            {"role": "user", "content": results}]  # fmt: skip
    last = ask(ai, talk, thinking=thinking, options={"tools": [WEATHER], "max_tokens": 1500})
    return [call.input["city"] for call in calls], last.content[-1].text


def test_tools_loop(ai: anthropic.Anthropic):
    cities, said = loop(ai, "What is the weather in Paris?", thinking=OFF)
    assert cities == ["Paris"] and said == "It is 18 degrees in Paris."


def test_tools_loop_with_thinking(ai: anthropic.Anthropic):
    cities, said = loop(ai, "What is the weather in Paris?", thinking=ON)
    assert cities == ["Paris"] and said == "It is 18 degrees in Paris."


def test_parallel_tools(ai: anthropic.Anthropic):
    cities, said = loop(ai, "What is the weather in Paris and Rome?", thinking=OFF)
    assert cities == ["Paris", "Rome"] and said == "It is 18 degrees in Paris, and 21 degrees in Rome."


def test_tools_stream(ai: anthropic.Anthropic):
    talk: Any = [{"role": "user", "content": "What is the weather in Paris and Rome?"}]
    with ai.messages.stream(model=MODEL, max_tokens=300, messages=talk, tools=[WEATHER], thinking=OFF,
                            extra_body=GREEDY) as stream:  # fmt: skip
        partial = "".join(event.partial_json for event in stream if event.type == "input_json")
        final = stream.get_final_message()
    calls = [block for block in final.content if block.type == "tool_use"]
    assert [call.input["city"] for call in calls] == ["Paris", "Rome"] and len({call.id for call in calls}) == 2
    assert partial.count("city") == 2 and final.stop_reason == "tool_use"


def test_tool_runner(ai: anthropic.Anthropic):
    tool = anthropic.beta_tool(kit.get_weather)
    talk: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    runner = ai.beta.messages.tool_runner(model=MODEL, max_tokens=300, messages=talk, tools=[tool], thinking=OFF,
                                          extra_body=GREEDY)  # fmt: skip
    last = runner.until_done()
    assert last.content[-1].text == "It is 18 degrees in Paris."


def test_thread_is_refused(ai: anthropic.Anthropic):
    """Rather than answered as if there had been nothing before."""
    with pytest.raises(anthropic.BadRequestError, match="thread") as caught:
        ask(ai, "Hello", options={"extra_body": {"thread": {"type": "create"}}})
    assert caught.value.body["error"]["details"]["error_code"] == "thread_unsupported_request"


def test_forced_tool(ai: anthropic.Anthropic):
    options = {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "get_weather"}}
    message = ask(ai, "How is the weather in Oslo?", options=options)
    assert [(block.type, block.input) for block in message.content] == [("tool_use", {"city": "Oslo"})]


def test_any_tool_and_no_parallel(ai: anthropic.Anthropic):
    choice = {"type": "any", "disable_parallel_tool_use": True}
    message = ask(ai, "Weather in Paris and Rome?", options={"tools": [WEATHER], "tool_choice": choice})
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"city": "Paris"}]


def test_tools_not_wanted(ai: anthropic.Anthropic):
    message = ask(ai, "Hello", options={"tools": [WEATHER], "tool_choice": {"type": "none"}})
    assert message.content[0].text == GREETING


def test_structured_schema(ai: anthropic.Anthropic):
    config = {"format": {"type": "json_schema", "schema": PERSON}}
    message = ask(ai, "Hello", options={"output_config": config})
    assert set(json.loads(message.content[0].text)) == {"name", "age"}


def test_structured_parse(ai: anthropic.Anthropic):
    talk: Any = [{"role": "user", "content": "Describe Ada as JSON."}]
    message = ai.messages.parse(model=MODEL, max_tokens=300, messages=talk, output_format=Person, thinking=OFF,
                                extra_body=GREEDY)  # fmt: skip
    assert message.parsed_output == Person(name="Ada", age=36)


def test_reasoning(ai: anthropic.Anthropic):
    message = ask(ai, "Hello", thinking=ON, options={"max_tokens": 1500})
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking == THOUGHT and message.content[0].signature
    assert message.content[1].text == GREETING


def test_reasoning_stream(ai: anthropic.Anthropic):
    talk: Any = [{"role": "user", "content": "Hello"}]
    with ai.messages.stream(model=MODEL, max_tokens=1500, messages=talk, thinking=ON, extra_body=GREEDY) as stream:
        thought = "".join(event.thinking for event in stream if event.type == "thinking")
        final = stream.get_final_message()
    assert thought == final.content[0].thinking == THOUGHT and final.content[1].text == GREETING


def test_reasoning_budget(ai: anthropic.Anthropic):
    message = ask(ai, "Count to twenty.", thinking={"type": "enabled", "budget_tokens": 2})
    assert 0 < message.usage.output_tokens_details.thinking_tokens <= 2 and message.content[-1].text


def test_reasoning_off(ai: anthropic.Anthropic):
    message = ask(ai, "Hello")
    assert [block.type for block in message.content] == ["text"]
    assert message.usage.output_tokens_details.thinking_tokens == 0


def test_reasoning_effort(ai: anthropic.Anthropic):
    message = ask(ai, "Hello", thinking={"type": "adaptive"}, options={"output_config": {"effort": "low"}})
    assert message.content[-1].text == GREETING


def test_usage(ai: anthropic.Anthropic):
    text = "Tell me how the blue dog sings three things about rain, and why the red tree writes a book. " * 8
    first, second = (ask(ai, text, options={"max_tokens": 5}).usage for _ in range(2))
    assert first.output_tokens <= 5 and second.cache_read_input_tokens > 0
    whole = [usage.input_tokens + usage.cache_read_input_tokens for usage in (first, second)]
    assert whole[0] == whole[1] > second.cache_read_input_tokens


def test_count_tokens(ai: anthropic.Anthropic):
    talk: Any = [{"role": "user", "content": FRANCE}]
    counted = ai.messages.count_tokens(model=MODEL, messages=talk, thinking=OFF, tools=[WEATHER]).input_tokens
    usage = ask(ai, FRANCE, options={"tools": [WEATHER], "max_tokens": 1}).usage
    assert counted == usage.input_tokens + usage.cache_read_input_tokens


def test_stop(ai: anthropic.Anthropic):
    message = ask(ai, "Count to twenty.", options={"stop_sequences": ["12"]})
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "12")
    assert message.content[0].text.rstrip(", ").endswith("11")


def test_length(ai: anthropic.Anthropic):
    message = ask(ai, "Count to twenty.", options={"max_tokens": 5})
    assert message.stop_reason == "max_tokens" and message.usage.output_tokens == 5


def test_seed(ai: anthropic.Anthropic):
    def said(seed: int) -> str:
        body = {"temperature": 1.0, "seed": seed}
        return ask(ai, "Write me a story.", options={"extra_body": body, "max_tokens": 40}).content[0].text

    assert said(7) == said(7)


def test_unknown_model(ai: anthropic.Anthropic):
    with pytest.raises(anthropic.NotFoundError, match="nobody") as caught:
        ai.messages.create(model="nobody", max_tokens=5, messages=[{"role": "user", "content": "Hello"}])
    assert caught.value.body["error"]["type"] == "not_found_error" and caught.value.body["type"] == "error"


@pytest.mark.parametrize("wrong", [{"messages": []}, {"max_tokens": 0}, {"thinking": {"type": "loud"}},
                                   {"stop_sequences": 3}, {"extra_body": {"temperature": "hot"}}])  # fmt: skip
def test_bad_field(ai: anthropic.Anthropic, wrong: Any):
    body: Any = {"max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}], **wrong}
    with pytest.raises(anthropic.BadRequestError) as caught:
        ai.messages.create(model=MODEL, **body)
    assert caught.value.body["error"]["type"] == "invalid_request_error"


def test_wrong_key():
    stranger = anthropic.Anthropic(base_url=URL, api_key="not-a-key", max_retries=0, timeout=TIMEOUT_S)
    with pytest.raises(anthropic.AuthenticationError) as caught:
        stranger.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "Hello"}])
    assert caught.value.body["error"]["type"] == "authentication_error"


def test_cancel(ai: anthropic.Anthropic):
    config = {"format": {"type": "json_schema", "schema": LONG}}
    stream = ask(ai, "Hello", options={"output_config": config, "max_tokens": 3500, "stream": True})
    next(iter(stream))
    assert kit.comes_to_work()
    stream.close()
    assert kit.comes_to_rest()
    assert ask(ai, FRANCE).content[0].text == PARIS


def test_models(ai: anthropic.Anthropic):
    assert MODEL in [model.id for model in ai.models.list()]
    assert ai.models.retrieve(MODEL).id == MODEL
