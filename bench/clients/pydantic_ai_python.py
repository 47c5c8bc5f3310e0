"""pydantic-ai: agents over Chat Completions, Responses and Messages."""

import asyncio
from typing import Any

import kit
import pytest
from kit import FRANCE, GREETING, KEY, MODEL, OFF, PARIS, THOUGHT, URL
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, StructuredDict, ToolOutput
from pydantic_ai.messages import ThinkingPart, ToolCallPart
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

APIS = ("chat", "responses", "messages")
SWITCH: dict[str, Any] = {"chat": OFF, "responses": OFF, "messages": {"thinking": {"type": "disabled"}}}


class Person(BaseModel):
    name: str
    age: int


def agent(api: str, options: dict[str, Any] | None = None, *, key: str = KEY, model: str = MODEL) -> Agent[None, Any]:
    profile = OpenAIModelProfile(supports_json_schema_output=True, supports_json_object_output=True)
    provider = OpenAIProvider(base_url=f"{URL}/v1", api_key=key)
    made: Any = {
        "chat": lambda: OpenAIChatModel(model, provider=provider, profile=profile),
        "responses": lambda: OpenAIResponsesModel(model, provider=provider, profile=profile),
        "messages": lambda: AnthropicModel(model, provider=AnthropicProvider(base_url=URL, api_key=key)),
    }[api]()
    settings: Any = {"temperature": 0, "max_tokens": 1500, "extra_body": {"temperature": 0, **SWITCH[api]}}
    given = {"model_settings": settings, "retries": 0, **(options or {})}
    return Agent(made, **given)


def settings(body: dict[str, Any], more: dict[str, Any] | None = None) -> Any:
    return {"model_settings": {"max_tokens": 1500, "extra_body": {"temperature": 0, **body}, **(more or {})}}


@pytest.mark.parametrize("api", APIS)
def test_text(api: str):
    assert agent(api).run_sync(FRANCE).output == PARIS


@pytest.mark.parametrize("api", APIS)
def test_text_stream(api: str):
    async def drive() -> list[str]:
        async with agent(api).run_stream(FRANCE) as result:
            return [piece async for piece in result.stream_text(delta=True, debounce_by=None)]

    pieces = asyncio.run(drive())
    assert "".join(pieces) == PARIS and len(pieces) > 1


@pytest.mark.parametrize("api", APIS)
def test_multi_turn(api: str):
    first = agent(api, {"instructions": "Be brief."}).run_sync("My name is Ada.")
    second = agent(api).run_sync("What is my name?", message_history=first.all_messages())
    assert second.output == "Your name is Ada."


@pytest.mark.parametrize("api", APIS)
def test_tools_loop(api: str):
    result = agent(api, {"tools": [kit.get_weather]}).run_sync("What is the weather in Paris?")
    assert result.output == "It is 18 degrees in Paris." and result.usage.requests == 2


@pytest.mark.parametrize("api", APIS)
def test_tools_loop_stream(api: str):
    async def drive() -> str:
        async with agent(api, {"tools": [kit.get_weather]}).run_stream("What is the weather in Paris?") as result:
            return await result.get_output()

    assert asyncio.run(drive()) == "It is 18 degrees in Paris."


@pytest.mark.parametrize("api", APIS)
def test_parallel_tools(api: str):
    result = agent(api, {"tools": [kit.get_weather]}).run_sync("What is the weather in Paris and Rome?")
    calls = [part for message in result.all_messages() for part in message.parts if isinstance(part, ToolCallPart)]
    assert [call.args_as_dict() for call in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert result.output == "It is 18 degrees in Paris, and 21 degrees in Rome."


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_structured_native(api: str):
    found = agent(api, {"output_type": NativeOutput(Person)}).run_sync("Describe Ada as JSON.").output
    assert found == Person(name="Ada", age=36)


@pytest.mark.parametrize("api", APIS)
def test_structured_by_forced_tool(api: str):
    small = StructuredDict({"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"],
                            "additionalProperties": False}, name="Place")  # fmt: skip
    found = agent(api, {"output_type": ToolOutput(small, name="final_result")}).run_sync(FRANCE).output
    assert found["city"] in ("Paris", "Rome")


@pytest.mark.parametrize("api", APIS)
def test_reasoning(api: str):
    on = {"thinking": {"type": "enabled", "budget_tokens": 1024}} if api == "messages" else {"enable_thinking": True}
    shown: Any = {"openai_reasoning_summary": "auto"} if api == "responses" else {}  # its user asks to see it
    result = agent(api, settings(on, shown)).run_sync("Hello")
    thought = [part.content for part in result.all_messages()[-1].parts if isinstance(part, ThinkingPart)]
    assert thought == [THOUGHT] and result.output == GREETING


def test_reasoning_raw():
    result = agent("responses", settings({"enable_thinking": True})).run_sync("Hello")
    [thought] = [part for part in result.all_messages()[-1].parts if isinstance(part, ThinkingPart)]
    assert thought.provider_details == {"raw_content": [THOUGHT]} and result.output == GREETING


@pytest.mark.parametrize("api", ["chat", "messages"])
def test_reasoning_stream_and_back(api: str):
    on = {"thinking": {"type": "enabled", "budget_tokens": 1024}} if api == "messages" else {"enable_thinking": True}

    async def drive() -> tuple[str, list[Any]]:
        async with agent(api, settings(on)).run_stream("Hello") as result:
            return await result.get_output(), result.all_messages()

    said, talk = asyncio.run(drive())
    assert said == GREETING and any(isinstance(part, ThinkingPart) for part in talk[-1].parts)
    assert agent(api).run_sync(FRANCE, message_history=talk).output == PARIS


def test_reasoning_budget():
    result = agent("chat", settings({"thinking_budget": 2})).run_sync("Count to twenty.")
    assert 0 < result.usage.details["reasoning_tokens"] <= 2 and result.output


def test_reasoning_effort():
    result = agent("chat", settings({}, {"openai_reasoning_effort": "none"})).run_sync("Hello")
    assert not any(isinstance(part, ThinkingPart) for part in result.all_messages()[-1].parts)


@pytest.mark.parametrize("api", APIS)
def test_usage(api: str):
    text = "Tell me how the red dog sings three things about rain, and why the blue cat writes a book. " * 8
    used = [agent(api).run_sync(text).usage for _ in range(2)]
    assert used[0].output_tokens > 0 and used[0].input_tokens == used[1].input_tokens > used[1].cache_read_tokens > 0


def test_stop():
    result = agent("chat", settings(OFF, {"stop_sequences": ["12"]})).run_sync("Count to twenty.")
    assert result.output.rstrip(", ").endswith("11")


@pytest.mark.parametrize("api", APIS)
def test_unknown_model(api: str):
    with pytest.raises(ModelHTTPError) as caught:
        agent(api, model="nobody").run_sync("Hello")
    assert caught.value.status_code == 404 and caught.value.model_name == "nobody"


@pytest.mark.parametrize("api", APIS)
def test_wrong_key(api: str):
    with pytest.raises(ModelHTTPError) as caught:
        agent(api, key="not-a-key").run_sync("Hello")
    assert caught.value.status_code == 401


def test_cancel():
    exact = {"structured_outputs": {"regex": "[a-z ]{3500}"}, **OFF}

    async def drive() -> None:
        one = agent("chat", {"model_settings": {"max_tokens": 3500, "extra_body": exact}})
        async with one.run_stream("Hello") as result:
            async for _ in result.stream_text(delta=True, debounce_by=None):
                assert kit.comes_to_work()
                await result.cancel()
                break

    asyncio.run(drive())
    assert kit.comes_to_rest()
