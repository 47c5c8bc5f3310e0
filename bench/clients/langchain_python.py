"""LangChain: ChatOpenAI over Chat Completions and over Responses, and OpenAIEmbeddings."""

import asyncio
from typing import Any

import kit
import openai
import pytest
from kit import FRANCE, GREETING, KEY, LONG, MODEL, OFF, PARIS, PERSON, TIMEOUT_S, URL
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

RESPONSES: Any = {"use_responses_api": True, "reasoning": {"effort": "none"}, "extra_body": None}


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def chat(options: dict[str, Any] | None = None) -> ChatOpenAI:
    given: Any = {"base_url": f"{URL}/v1", "api_key": KEY, "model": MODEL, "temperature": 0, "max_retries": 0,
                  "timeout": TIMEOUT_S, "extra_body": OFF, **(options or {})}  # fmt: skip
    return ChatOpenAI(**given)


@pytest.mark.parametrize("api", [{}, RESPONSES], ids=["chat", "responses"])
def test_text(api: Any):
    answer = chat(api).invoke(FRANCE)
    assert answer.text == PARIS and answer.response_metadata["model_name"] == MODEL


@pytest.mark.parametrize("api", [{}, RESPONSES], ids=["chat", "responses"])
def test_text_stream(api: Any):
    chunks = list(chat(api).stream(FRANCE))
    assert "".join(chunk.text for chunk in chunks) == PARIS and len(chunks) > 2


def test_text_async():
    async def drive() -> str:
        return "".join([chunk.text async for chunk in chat().astream(FRANCE)])

    assert asyncio.run(drive()) == PARIS


def test_batch():
    assert [answer.text for answer in chat().batch(["Hello", FRANCE])] == [GREETING, PARIS]


@pytest.mark.parametrize("api", [{}, RESPONSES], ids=["chat", "responses"])
def test_multi_turn(api: Any):
    talk: list[Any] = [SystemMessage("Be brief."), HumanMessage("My name is Ada.")]
    talk += [chat(api).invoke(talk), HumanMessage("What is my name?")]
    assert chat(api).invoke(talk).text == "Your name is Ada."


def loop(text: str, options: dict[str, Any], *, stream: bool = False) -> tuple[list[Any], str]:
    model = chat(options).bind_tools([tool(kit.get_weather)])
    talk: list[Any] = [HumanMessage(text)]
    if stream:
        first, *rest = model.stream(talk)
        answer: Any = sum(rest, first)
    else:
        answer = model.invoke(talk)
    talk.append(answer)
    for call in answer.tool_calls:
        talk.append(ToolMessage(kit.get_weather(**call["args"]), tool_call_id=call["id"]))
    return [call["args"] for call in answer.tool_calls], model.invoke(talk).text


@pytest.mark.parametrize("api", [{}, RESPONSES], ids=["chat", "responses"])
def test_tools_loop(api: Any):
    assert loop("What is the weather in Paris?", api) == ([{"city": "Paris"}], "It is 18 degrees in Paris.")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_parallel_tools(stream: bool):
    calls, said = loop("What is the weather in Paris and Rome?", {}, stream=stream)
    assert calls == [{"city": "Paris"}, {"city": "Rome"}]
    assert said == "It is 18 degrees in Paris, and 21 degrees in Rome."


@pytest.mark.parametrize("choice", ["any", "get_weather"])
def test_forced_tool(choice: str):
    model = chat().bind_tools([tool(kit.get_weather)], tool_choice=choice, parallel_tool_calls=False)
    [call] = model.invoke("How is the weather in Oslo?").tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"})


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured(method: Any):
    found = chat().with_structured_output(Person, method=method).invoke("Describe Ada as JSON.")
    assert isinstance(found, Person) and (method == "function_calling" or found == Person(name="Ada", age=36))


def test_structured_responses():
    assert chat(RESPONSES).with_structured_output(Person).invoke("Describe Ada as JSON.") == Person(name="Ada", age=36)


def test_structured_stream():
    parts = list(chat().with_structured_output(PERSON | {"title": "person"}).stream("Describe Ada as JSON."))
    assert parts[-1] == {"name": "Ada", "age": 36}


def test_reasoning():
    answer = chat({"extra_body": None, "reasoning_effort": "high"}).invoke("Hello")
    assert answer.text == GREETING and answer.usage_metadata["output_token_details"]["reasoning"] > 0


def test_reasoning_responses():
    options = {"use_responses_api": True, "reasoning": {"effort": "high", "summary": "auto"}, "extra_body": None}
    blocks = chat(options).invoke("Hello").content_blocks
    assert [block["type"] for block in blocks] == ["reasoning", "text"]
    assert blocks[0]["reasoning"] == "The user greets me."


def test_reasoning_budget():
    answer = chat({"extra_body": {"thinking_budget": 2}}).invoke("Count to twenty.")
    assert 0 < answer.usage_metadata["output_token_details"]["reasoning"] <= 2 and answer.text


def test_reasoning_off():
    assert chat().invoke("Hello").usage_metadata["output_token_details"]["reasoning"] == 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_usage(stream: bool):
    text = "Tell me how the red dog sings three things about rain, and why the blue tree writes a book. " * 8
    model = chat({"max_tokens": 5, "stream_usage": True})

    def used() -> Any:
        if not stream:
            return model.invoke(text).usage_metadata
        first, *rest = model.stream(text)
        return sum(rest, first).usage_metadata

    first, second = used(), used()
    assert first["total_tokens"] == first["input_tokens"] + first["output_tokens"] and first["output_tokens"] <= 5
    assert 0 < second["input_token_details"]["cache_read"] < second["input_tokens"] == first["input_tokens"]


def test_logprobs():
    content = chat().bind(logprobs=True).invoke(FRANCE).response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in content).startswith(PARIS)


def test_several_replies():
    result = chat({"n": 2}).generate([[HumanMessage("Hello")]])
    assert [reply.text for reply in result.generations[0]] == [GREETING, GREETING]


def test_stop():
    assert chat().invoke("Count to twenty.", stop=["12"]).text.rstrip(", ").endswith("11")


def test_seed():
    def said(seed: int) -> str:
        return chat({"temperature": 2, "seed": seed, "extra_body": {**OFF, **kit.OPEN}}).invoke("Hello").text

    assert said(7) == said(7) != said(8)


def test_unknown_model():
    with pytest.raises(openai.NotFoundError, match="nobody"):
        chat({"model": "nobody"}).invoke("Hello")


def test_bad_field():
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat({"temperature": -3}).invoke("Hello")


def test_wrong_key():
    with pytest.raises(openai.AuthenticationError):
        chat({"api_key": "not-a-key"}).invoke("Hello")


def test_cancel():
    form = {"type": "json_schema", "json_schema": {"name": "long", "schema": LONG}}
    stream = chat({"max_tokens": 3500}).bind(response_format=form).stream("Hello")
    next(stream)
    assert kit.comes_to_work()
    stream.close()
    assert kit.comes_to_rest()


def test_remembered_reasoning():
    """A turn with its thinking is sent back without harm."""
    said = AIMessage(GREETING, additional_kwargs={"reasoning_content": "The user greets me."})
    assert chat().invoke([HumanMessage("Hello"), said, HumanMessage(FRANCE)]).text == PARIS


def test_embeddings():
    model = OpenAIEmbeddings(base_url=f"{URL}/v1", api_key=KEY, model=MODEL, check_embedding_ctx_length=False,
                             max_retries=0)  # fmt: skip
    first, second = model.embed_documents(["Hello", FRANCE])
    assert model.embed_query("Hello") == pytest.approx(first, abs=1e-4) and len(first) == len(second)
