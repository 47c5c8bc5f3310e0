"""openai-python: Chat Completions and what is older or smaller. Responses are in openai_python_responses.py."""

import json
from typing import Any

import httpx2
import kit
import openai
import pytest
from kit import FRANCE, GREETING, KEY, LONG, MODEL, OFF, PARIS, PERSON, THOUGHT, TIMEOUT_S, URL, WEATHER
from pydantic import BaseModel

HELLO: Any = [{"role": "user", "content": "Hello"}]


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
def ai() -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0, timeout=TIMEOUT_S)


def ask(ai: openai.OpenAI, text: str, *, thinking: bool = False, options: dict[str, Any] | None = None) -> Any:
    body = {"enable_thinking": thinking}
    return ai.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], temperature=0,
                                      extra_body=body, **(options or {}))  # fmt: skip


def test_text(ai: openai.OpenAI):
    answer = ask(ai, FRANCE)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", PARIS, "stop")
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id.startswith("chatcmpl-")


def test_text_stream(ai: openai.OpenAI):
    chunks = list(ask(ai, FRANCE, options={"stream": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == PARIS
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason == "stop"
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1


def test_text_stream_helper(ai: openai.OpenAI):
    with ai.chat.completions.stream(model=MODEL, messages=HELLO, temperature=0, extra_body=OFF) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == GREETING and len(deltas) > 1


async def drive_async() -> str:
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0, timeout=TIMEOUT_S) as ai:
        stream = await ai.chat.completions.create(
            model=MODEL, messages=HELLO, temperature=0, stream=True, extra_body=OFF
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


def test_text_stream_async():
    import asyncio

    assert asyncio.run(drive_async()) == GREETING


def test_multi_turn(ai: openai.OpenAI):
    talk: Any = [{"role": "user", "content": "My name is Ada."}]
    for wanted, following in (("Nice to meet you, Ada.", "What is my name?"), ("Your name is Ada.", "")):
        answer = ai.chat.completions.create(model=MODEL, messages=talk, temperature=0, extra_body=OFF)
        assert answer.choices[0].message.content == wanted
        talk += [answer.choices[0].message.model_dump(exclude_none=True), {"role": "user", "content": following}]


def test_roles_and_parts(ai: openai.OpenAI):
    parts = [{"type": "text", "text": "What is the capital"}, {"type": "text", "text": " of France?"}]
    talk: Any = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    answer = ai.chat.completions.create(model=MODEL, messages=talk, temperature=0, extra_body=OFF)
    assert answer.choices[0].message.content == PARIS


def tool_loop(ai: openai.OpenAI, text: str, *, body: dict[str, Any]) -> tuple[list[Any], str]:
    talk: Any = [{"role": "user", "content": text}]
    answer = ai.chat.completions.create(model=MODEL, messages=talk, tools=[WEATHER], temperature=0, extra_body=body)
    assert answer.choices[0].finish_reason == "tool_calls"
    message = answer.choices[0].message
    talk.append(message.model_dump(exclude_none=True))
    for call in message.tool_calls or ():
        result = kit.get_weather(**json.loads(call.function.arguments))
        talk.append({"role": "tool", "tool_call_id": call.id, "content": result})
    last = ai.chat.completions.create(model=MODEL, messages=talk, tools=[WEATHER], temperature=0, extra_body=body)
    return kit.calls_of(message), last.choices[0].message.content or ""


def test_tools_loop(ai: openai.OpenAI):
    calls, said = tool_loop(ai, "What is the weather in Paris?", body=OFF)
    assert calls == [("get_weather", {"city": "Paris"})] and said == "It is 18 degrees in Paris."


def test_tools_loop_with_thinking(ai: openai.OpenAI):
    calls, said = tool_loop(ai, "What is the weather in Paris?", body={"enable_thinking": True})
    assert calls == [("get_weather", {"city": "Paris"})] and said == "It is 18 degrees in Paris."


def test_parallel_tools(ai: openai.OpenAI):
    calls, said = tool_loop(ai, "What is the weather in Paris and Rome?", body=OFF)
    assert calls == [("get_weather", {"city": city}) for city in ("Paris", "Rome")]
    assert said == "It is 18 degrees in Paris, and 21 degrees in Rome."


def test_parallel_tools_stream(ai: openai.OpenAI):
    talk: Any = [{"role": "user", "content": "What is the weather in Paris and Rome?"}]
    with ai.chat.completions.stream(model=MODEL, messages=talk, tools=[WEATHER], temperature=0,
                                    extra_body=OFF) as stream:  # fmt: skip
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert [(e.index, e.name, json.loads(e.arguments)["city"]) for e in done] == [
        (0, "get_weather", "Paris"), (1, "get_weather", "Rome")]  # fmt: skip
    calls = final.choices[0].message.tool_calls or []
    assert len({call.id for call in calls}) == 2 and final.choices[0].finish_reason == "tool_calls"


def test_parallel_tools_off(ai: openai.OpenAI):
    options = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    answer = ask(ai, "What is the weather in Paris and Rome?", options=options)
    assert kit.calls_of(answer.choices[0].message) == [("get_weather", {"city": "Paris"})]


def test_forced_tool(ai: openai.OpenAI):
    named = {"type": "function", "function": {"name": "get_weather"}}
    answer = ask(ai, "Hello", options={"tools": [WEATHER], "tool_choice": named, "max_tokens": 300})
    [(name, arguments)] = kit.calls_of(answer.choices[0].message)
    assert name == "get_weather" and isinstance(arguments["city"], str)


def test_forced_tool_stream(ai: openai.OpenAI):
    options = {"tools": [WEATHER], "tool_choice": "required", "stream": True}
    chunks = [c.choices[0] for c in ask(ai, "How is the weather in Oslo?", options=options)]
    parts = [part for c in chunks for part in c.delta.tool_calls or ()]
    first = [part for part in parts if part.index == 0]
    assert first[0].id and first[0].type == "function" and first[0].function.name == "get_weather"
    assert json.loads("".join(part.function.arguments or "" for part in first)) == {"city": "Oslo"}
    assert not any(part.id for part in first[1:]) and chunks[-1].finish_reason == "tool_calls"


def test_tools_not_wanted(ai: openai.OpenAI):
    answer = ask(ai, "Hello", options={"tools": [WEATHER], "tool_choice": "none"})
    assert answer.choices[0].message.tool_calls is None and answer.choices[0].message.content == GREETING


def test_structured_schema(ai: openai.OpenAI):
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    answer = ask(ai, "Hello", options={"response_format": form, "max_tokens": 400})
    found = json.loads(answer.choices[0].message.content)
    assert isinstance(found["name"], str) and isinstance(found["age"], int) and len(found) == 2


def test_structured_parse(ai: openai.OpenAI):
    talk: Any = [{"role": "user", "content": "Describe Ada as JSON."}]
    answer = ai.chat.completions.parse(model=MODEL, messages=talk, response_format=Person, temperature=0)
    assert answer.choices[0].message.parsed == Person(name="Ada", age=36)
    assert answer.choices[0].message.model_extra["reasoning_content"] == "The user wants JSON."


def test_structured_parse_stream(ai: openai.OpenAI):
    talk: Any = [{"role": "user", "content": "Describe Ada as JSON."}]
    with ai.chat.completions.stream(model=MODEL, messages=talk, response_format=Person, temperature=0) as stream:
        for _ in stream:
            continue
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == Person(name="Ada", age=36)


def test_structured_tool_parse(ai: openai.OpenAI):
    class GetWeather(BaseModel):
        """The weather in a city."""

        city: str

    tool = openai.pydantic_function_tool(GetWeather, name="get_weather")
    talk: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = ai.chat.completions.parse(model=MODEL, messages=talk, tools=[tool], temperature=0, extra_body=OFF,
                                       tool_choice="required", parallel_tool_calls=False)  # fmt: skip
    [call] = answer.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == GetWeather(city="Paris")


def test_json_object(ai: openai.OpenAI):
    answer = ask(ai, "Give me a JSON object.", options={"response_format": {"type": "json_object"}})
    assert json.loads(answer.choices[0].message.content) == {"name": "Ada", "age": 36}


def test_reasoning(ai: openai.OpenAI):
    message = ask(ai, "Hello", thinking=True).choices[0].message
    assert message.content == GREETING
    assert message.reasoning == message.reasoning_content == THOUGHT


def test_reasoning_stream(ai: openai.OpenAI):
    deltas = [c.choices[0].delta.model_dump() for c in ask(ai, "Hello", thinking=True, options={"stream": True})]
    assert "".join(d.get("reasoning_content") or "" for d in deltas) == THOUGHT
    assert "".join(d.get("content") or "" for d in deltas) == GREETING
    thought = [bool(d.get("reasoning_content")) for d in deltas]
    said = [bool(d.get("content")) for d in deltas]
    assert said.index(True) > len(thought) - 1 - thought[::-1].index(True)


def test_reasoning_budget(ai: openai.OpenAI):
    talk: Any = [{"role": "user", "content": "Count to twenty."}]
    answer = ai.chat.completions.create(model=MODEL, messages=talk, temperature=0, extra_body={"thinking_budget": 2})
    used = answer.usage.completion_tokens_details.reasoning_tokens
    assert 0 < used <= 2 and answer.choices[0].message.content


def test_reasoning_off(ai: openai.OpenAI):
    answer = ask(ai, "Hello")
    assert not answer.choices[0].message.model_extra.get("reasoning")
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize("effort", ["none", "low", "high"])
def test_reasoning_effort(ai: openai.OpenAI, effort: Any):
    answer = ai.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, reasoning_effort=effort)
    assert (answer.usage.completion_tokens_details.reasoning_tokens > 0) == (effort != "none")
    assert answer.choices[0].message.content == GREETING


def test_usage(ai: openai.OpenAI):
    text = "Tell me why the red tree sings three things about rain, and how the blue dog writes a book. " * 8
    first, second = (ask(ai, text, thinking=True, options={"max_tokens": 6}).usage for _ in range(2))
    assert first.total_tokens == first.prompt_tokens + first.completion_tokens
    assert second.prompt_tokens == first.prompt_tokens
    assert 0 < second.prompt_tokens_details.cached_tokens < second.prompt_tokens
    assert 0 < first.completion_tokens_details.reasoning_tokens <= first.completion_tokens <= 6


def test_usage_stream(ai: openai.OpenAI):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = ask(ai, "Hello", thinking=True, options=options)
    assert last.choices == [] and all(c.choices and not c.usage for c in chunks)
    assert last.usage.completion_tokens == ask(ai, "Hello", thinking=True).usage.completion_tokens


def test_logprobs(ai: openai.OpenAI):
    answer = ask(ai, FRANCE, options={"logprobs": True, "top_logprobs": 3})
    content = answer.choices[0].logprobs.content
    said = b"".join(bytes(token.bytes) for token in content).decode()
    assert said.startswith(PARIS) and len(content) == answer.usage.completion_tokens  # the turn's end is one of them
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in content)
    assert all(token.top_logprobs[0].token == token.token for token in content)  # greedy: the likeliest


def test_logprobs_stream(ai: openai.OpenAI):
    chunks = ask(ai, FRANCE, options={"logprobs": True, "stream": True})
    tokens = [token for c in chunks if c.choices[0].logprobs for token in c.choices[0].logprobs.content]
    assert "".join(token.token for token in tokens).startswith(PARIS) and all(t.logprob <= 0 for t in tokens)


def test_several_replies(ai: openai.OpenAI):
    answer = ai.chat.completions.create(model=MODEL, messages=HELLO, n=3, temperature=1, seed=1, extra_body=OFF)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.message.content for choice in answer.choices)


def test_several_replies_stream(ai: openai.OpenAI):
    options = {"n": 2, "temperature": 0, "stream": True, "extra_body": OFF}
    said = {0: "", 1: ""}
    for chunk in ai.chat.completions.create(model=MODEL, messages=HELLO, **options):
        said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert said == {0: GREETING, 1: GREETING}


@pytest.mark.parametrize("stop", ["12", ["nothing", ", 12"]])
def test_stop(ai: openai.OpenAI, stop: Any):
    answer = ask(ai, "Count to twenty.", options={"stop": stop})
    assert answer.choices[0].message.content.rstrip(", ").endswith("11")
    assert answer.choices[0].finish_reason == "stop"


def test_length(ai: openai.OpenAI):
    answer = ask(ai, "Count to twenty.", options={"max_completion_tokens": 5})
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 5


def test_seed(ai: openai.OpenAI):
    def said(seed: int) -> str:
        answer = ai.chat.completions.create(model=MODEL, messages=HELLO, temperature=2, seed=seed,
                                            extra_body={**OFF, **kit.OPEN})  # fmt: skip
        return answer.choices[0].message.content or ""

    assert said(7) == said(7) != said(8)


def test_unknown_model(ai: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="nobody") as caught:
        ai.chat.completions.create(model="nobody", messages=HELLO)
    assert caught.value.status_code == 404 and caught.value.body["type"]


@pytest.mark.parametrize("wrong", [{"temperature": "hot"}, {"temperature": -3}, {"messages": []},
                                   {"top_logprobs": 3}, {"n": 0}, {"stop": 3}])  # fmt: skip
def test_bad_field(ai: openai.OpenAI, wrong: Any):
    with pytest.raises(openai.BadRequestError) as caught:
        ai.chat.completions.create(**{"model": MODEL, "messages": HELLO, **wrong})
    assert caught.value.param in wrong and caught.value.type == "invalid_request_error"


def test_wrong_key():
    stranger = openai.OpenAI(base_url=f"{URL}/v1", api_key="not-a-key", max_retries=0, timeout=TIMEOUT_S)
    with pytest.raises(openai.AuthenticationError) as caught:
        stranger.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.status_code == 401 and "not-a-key" not in str(caught.value)


def test_cancel(ai: openai.OpenAI):
    form = {"type": "json_schema", "json_schema": {"name": "long", "schema": LONG}}
    stream = ask(ai, "Hello", options={"response_format": form, "max_tokens": 3500, "stream": True})
    next(iter(stream))
    assert kit.comes_to_work()
    stream.close()
    assert kit.comes_to_rest()
    assert ask(ai, FRANCE).choices[0].message.content == PARIS


def test_cancel_by_timeout(ai: openai.OpenAI):
    form: Any = {"type": "json_schema", "json_schema": {"name": "long", "schema": LONG}}
    with pytest.raises(openai.APITimeoutError):
        ai.with_options(timeout=httpx2.Timeout(5, read=0.05)).chat.completions.create(
            model=MODEL, messages=HELLO, response_format=form, max_tokens=3500, extra_body=OFF)  # fmt: skip
    assert kit.comes_to_rest()


def test_raw_headers(ai: openai.OpenAI):
    raw = ai.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=3)
    assert raw.headers["x-request-id"] and raw.parse().id.endswith(raw.headers["x-request-id"])


def test_models(ai: openai.OpenAI):
    assert MODEL in [model.id for model in ai.models.list()]
    assert ai.models.retrieve(MODEL).object == "model"
    with pytest.raises(openai.NotFoundError):
        ai.models.retrieve("nobody")
