"""Each dialect's fields on their way in and events on their way out, without a server."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.core.deltas import TokenLogprob
from octavo.core.messages import Message, ToolCall
from octavo.core.sampling import Thinking
from octavo.serve import events
from octavo.serve.dialects import chat, completions, items, messages, responses
from octavo.serve.errors import Refusal
from octavo.serve.gate import Tenant
from octavo.serve.job import ToolChoice
from octavo.serve.shelf import Store, TenantShelf
from octavo.serve.stream import Collected
from octavo.serve.wire import Asked, Head
from tests.serve.accumulate import Said, said_in_stream, said_in_whole

HEAD = Head("0" * 32, 1_700_000_000, "mini")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def shelf(store: Store | None = None, *, key: str = "") -> TenantShelf:
    return TenantShelf(store or Store(), Tenant(key=key))


def decode(dialect: str, body: dict[str, Any], *, on: TenantShelf | None = None) -> Asked:
    data = json.dumps({"model": "mini", **body}).encode()
    match dialect:
        case "chat":
            return chat.decode(data)
        case "responses":
            return responses.decode(data, on or shelf())
        case "messages":
            return messages.decode(data)
        case _:
            return completions.decode(data)


USER = {"role": "user", "content": "hi"}
LEAST: dict[str, dict[str, Any]] = {
    "chat": {"messages": [USER]}, "responses": {"input": "hi"}, "messages": {"messages": [USER], "max_tokens": 9},
    "completions": {"prompt": "hi"},
}  # fmt: skip
TOOL = {"name": "weather", "description": "d", "parameters": SCHEMA}
TOOLS: dict[str, list[dict[str, Any]]] = {
    "chat": [{"type": "function", "function": {**TOOL, "strict": True}}],
    "responses": [{"type": "function", **TOOL, "strict": True}],
    "messages": [{"name": "weather", "description": "d", "input_schema": SCHEMA, "strict": True}],
}
# One conversation in three dialects: thinking, text and a call are one turn.
TALK: dict[str, dict[str, Any]] = {
    "chat": {"messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Rain?"}]},
        {"role": "assistant", "content": "Let me see.", "reasoning": "hm", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "wet"}, {"role": "user", "content": "So?"}]},
    "responses": {"instructions": "Be brief.", "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Rain?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Ulm"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "wet"}, {"role": "user", "content": "So?"}]},
    "messages": {"system": [{"type": "text", "text": "Be brief."}], "messages": [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Ulm"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "wet"}]},
            {"type": "text", "text": "So?"}]}]},
}  # fmt: skip


@pytest.mark.parametrize("dialect", TALK)
def test_a_conversation_is_the_same_in_every_dialect(dialect: str):
    call = ToolCall(name="weather", arguments='{"city": "Ulm"}', id="c1")
    job = decode(dialect, {**LEAST[dialect], **TALK[dialect], "tools": TOOLS[dialect]}).job
    assert job.messages == (
        Message(role="system", content="Be brief."), Message(role="user", content="Rain?"),
        Message(role="assistant", content="Let me see.", thinking="hm", tool_calls=(call,)),
        Message(role="tool", content="wet", tool_call_id="c1"), Message(role="user", content="So?"),
    )  # fmt: skip
    assert job.tools[0].name == "weather" and job.tools[0].parameters == SCHEMA
    assert job.choice == ToolChoice(strict=("weather",))


CHOICES: list[tuple[str, dict[str, Any], ToolChoice]] = [
    ("chat", {"tool_choice": "required"}, ToolChoice(mode="required")),
    ("chat", {"tool_choice": "none"}, ToolChoice(mode="none")),
    ("chat", {"parallel_tool_calls": False}, ToolChoice(parallel=False)),
    ("chat", {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
     ToolChoice(mode="required", only=("weather",), parallel=False)),
    ("chat", {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
        {"type": "function", "function": {"name": "weather"}}]}}}, ToolChoice(mode="required", only=("weather",))),
    ("responses", {"tool_choice": {"type": "function", "name": "weather"}},
     ToolChoice(mode="required", only=("weather",), parallel=False)),
    ("responses", {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [
        {"type": "function", "name": "weather"}]}}, ToolChoice(only=("weather",))),
    ("messages", {"tool_choice": {"type": "any"}}, ToolChoice(mode="required")),
    ("messages", {"tool_choice": {"type": "none"}}, ToolChoice(mode="none")),
    ("messages", {"tool_choice": {"type": "tool", "name": "weather"}},
     ToolChoice(mode="required", only=("weather",), parallel=False)),
    ("messages", {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, ToolChoice(parallel=False)),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "fields", "choice"), CHOICES)
def test_every_way_to_choose_tools_is_understood(dialect: str, fields: dict[str, Any], choice: ToolChoice):
    found = decode(dialect, {**LEAST[dialect], "tools": TOOLS[dialect], **fields}).job.choice
    assert found == msgspec.structs.replace(choice, strict=("weather",))


SAMPLINGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("responses", {"max_output_tokens": 5, "top_p": 0.5}, {"max_tokens": 5, "top_p": 0.5}),
    ("responses", {"top_logprobs": 2}, {"logprobs": 2}),
    ("chat", {"logit_bias": {"7": -100}}, {"logit_bias": {7: -100.0}}),
    ("responses", {"include": ["message.output_text.logprobs"]}, {"logprobs": 0}),
    ("responses", {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}}, {"schema": SCHEMA}),
    ("responses", {"text": {"format": {"type": "json_object"}}}, {"schema": {"type": "object"}}),
    ("messages", {"stop_sequences": ["a"], "top_k": 3}, {"max_tokens": 9, "stop": ("a",), "top_k": 3}),
    ("messages", {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
     {"max_tokens": 9, "schema": SCHEMA}),
    ("completions", {"logprobs": 2, "stop": "x", "n": 2}, {"max_tokens": 16, "logprobs": 2, "stop": ("x",), "n": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "fields", "sampling"), SAMPLINGS)
def test_every_dialects_names_for_sampling_are_understood(dialect: str, fields: Any, sampling: Any):
    assert decode(dialect, {**LEAST[dialect], **fields}).job.sampling == sampling


THOUGHTS: list[tuple[str, dict[str, Any], Thinking]] = [
    ("responses", {"reasoning": {"effort": "none"}}, Thinking(mode="off")),
    ("responses", {"reasoning": {"effort": "low", "max_tokens": 7}}, Thinking(mode="on", budget_tokens=7)),
    ("messages", {"thinking": {"type": "enabled", "budget_tokens": 8}}, Thinking(mode="on", budget_tokens=8)),
    ("messages", {"thinking": {"type": "disabled"}}, Thinking(mode="off")),
    ("messages", {"output_config": {"effort": "low"}}, Thinking(mode="on", budget_tokens=1024)),
    ("messages", {}, Thinking()), ("responses", {}, Thinking()),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "fields", "thinking"), THOUGHTS)
def test_every_dialects_switch_for_thinking_is_understood(dialect: str, fields: Any, thinking: Thinking):
    assert decode(dialect, {**LEAST[dialect], **fields}).job.thinking == thinking


def said(role: str, block: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": [block]}]}


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("chat", {"model": None}, "model"), ("responses", {"model": None}, "model"), ("messages", {"model": None}, "model"),
    ("messages", {"max_tokens": None}, "max_tokens"), ("messages", {"max_tokens": 0}, "max_tokens"),
    ("messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ("messages", said("user", {"type": "image", "source": {}}), "messages[0].content[0].type"),
    ("messages", said("user", {"type": "tool_result"}), "messages[0].content[0].tool_use_id"),
    ("messages", said("assistant", {"type": "thinking"}), "messages[0].content[0].thinking"),
    ("messages", {"tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
    ("responses", {"input": []}, "input"), ("responses", {"input": ""}, "input"),
    ("responses", {"input": [{"type": "computer_call"}]}, "input[0].type"),
    ("responses", {"input": [{"type": "function_call", "name": "x"}]}, "input[0].call_id"),
    ("responses", {"background": True, "stream": True}, "background"),
    ("responses", {"background": True, "store": False}, "background"),
    ("responses", {"conversation": "c"}, "conversation"),
    ("responses", {"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ("responses", {"tool_choice": {"type": "allowed_tools", "tools": [3]}}, "tool_choice.tools[0]"),
    ("chat", {"tool_choice": {"type": "function", "function": 3}}, "tool_choice"),
    ("responses", {"temperature": -1}, "temperature"), ("responses", {"metadata": {"a": 1}}, "metadata[...]"),
    ("responses", {"input": [{"type": "reasoning", "encrypted_content": "?"}]}, "input[0].encrypted_content"),
    ("completions", {"prompt": ["a", ""]}, "prompt"), ("completions", {"prompt": []}, "prompt"),
    ("completions", {"suffix": "x"}, "suffix"), ("completions", {"prompt": [1], "echo": True}, "echo"),
    ("chat", {"logit_bias": {"x": 1}}, "logit_bias"), ("chat", {"stop": ""}, "stop"),
    ("chat", said("user", {"type": "text", "text": None}), "messages[0].content[0].text"),
    ("completions", {"best_of": 3}, "best_of"), ("completions", {"max_tokens": 0}, "max_tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "fields", "param"), REFUSED)
def test_what_cannot_be_done_is_refused_by_name(dialect: str, fields: dict[str, Any], param: str):
    with pytest.raises(Refusal) as refused:
        decode(dialect, {**LEAST[dialect], **fields})
    assert refused.value.param == param and refused.value.status in (400, 404)


def test_tokens_are_a_prompt():
    assert decode("completions", {"prompt": [5, 6]}).job.prompts == ((5, 6),)
    assert decode("completions", {"prompt": [[5, 6]]}).job.prompts == ((5, 6),)
    assert decode("completions", {"prompt": ["a"]}).job.prompts == ("a",)
    assert decode("completions", {"prompt": ["a", "b"], "n": 2}).job.replies == 4


def tokens(texts: Sequence[str]) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(token=1, data=text.encode(), logprob=-1.0) for text in texts)


@st.composite
def replies(draw: st.DrawFn, *, plain: bool) -> list[events.Event]:
    """All events of a job: what an engine or a remote may send, with interleaved thinking. plain: text only."""
    text, found = st.text(max_size=5), list[events.Event]([events.Start(7)])
    for call in range(draw(st.integers(0, 4))):
        kinds = ["text"] if plain else ["text", "thinking", "call"]
        match draw(st.sampled_from(kinds)):
            case "text":
                many = draw(st.lists(text, max_size=3))
                found += [events.Text(part, 0, tokens([part]) if draw(st.booleans()) else ()) for part in many]
            case "thinking":
                found += [events.Reasoning(part) for part in draw(st.lists(text, max_size=3))]
            case _:
                number = sum(isinstance(one, events.ToolStart) for one in found)
                arguments = json.dumps({"a": draw(text)})
                cut = draw(st.integers(0, len(arguments)))
                found += [events.ToolStart(f"call_{call}", "f", number), events.ToolArgs(arguments[:cut], number),
                          events.ToolArgs(arguments[cut:], number), events.ToolEnd(number)]  # fmt: skip
    called = any(isinstance(one, events.ToolStart) for one in found)
    reason = draw(st.sampled_from(["length", "cancelled", "tool_calls" if called else "stop"]))
    stop = draw(st.sampled_from(["", "END"])) if reason == "stop" else ""
    found.append(events.Finish(reason, 0, stop))
    return [*found, events.Usage(7, draw(st.integers(0, 7)), 9, draw(st.integers(0, 9)))]


@given(data=st.data())
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("dialect", LEAST)
def test_a_stream_says_what_the_whole_answer_says(dialect: str, data: st.DataObject):
    told = data.draw(replies(plain=dialect == "completions"))
    cuts = sorted(data.draw(st.lists(st.integers(1, len(told)), max_size=4)))
    batches = [told[a:b] for a, b in zip([0, *cuts], [*cuts, len(told)], strict=True) if told[a:b]]
    asked = decode(dialect, {**LEAST[dialect], "stream": True, "stream_options": {"include_usage": True}})
    streamed = asked.writer(HEAD)
    stream = said_in_stream(dialect, b"".join(streamed.write(batch) for batch in batches))
    collected = Collected(replies=1)
    collected.add(told)
    whole = said_in_whole(dialect, json.loads(msgspec.json.encode(asked.writer(HEAD).whole(collected))))
    assert stream == whole
    assert whole == expected(dialect, told)


def expected(dialect: str, told: Sequence[events.Event]) -> Said:
    used = next(one for one in told if isinstance(one, events.Usage))
    found = Said(usage=(used.prompt_tokens, used.cached_tokens, used.completion_tokens, used.reasoning_tokens))
    for one in told:
        match one:
            case events.Reasoning():
                found.thinking += one.text
            case events.Text():
                found.text += one.text
            case events.ToolStart():
                found.calls.append((one.id, one.name, ""))
            case events.ToolArgs():
                id, name, arguments = found.calls[one.call]
                found.calls[one.call] = (id, name, arguments + one.text)
            case events.Finish():
                found.end = ENDS[dialect][one.reason] if not (one.stop and dialect == "messages") else "stop_sequence"
            case _:
                continue
    return found


OPENAI = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "cancelled": "stop"}
ENDS = {"chat": OPENAI, "completions": OPENAI, "messages": messages.STOPS, "responses": responses.ENDS}


@pytest.mark.parametrize("dialect", LEAST)
def test_an_error_in_a_stream_is_one_event_of_the_dialect(dialect: str):
    writer = decode(dialect, {**LEAST[dialect], "stream": True}).writer(HEAD)
    last = writer.write([events.Start(1), events.Error("gone", "overloaded")]).decode().rstrip().split("\n\n")
    body = json.loads([part for part in last if "[DONE]" not in part][-1].split("data: ", 1)[1])
    problem = body["response"]["error"] if dialect == "responses" else body["error"]
    assert problem["message"] == "gone"
    assert body.get("type") == {"responses": "response.failed", "messages": "error"}.get(dialect)


def test_numbers_of_response_events_go_up_by_one():
    writer = decode("responses", {"input": "hi", "reasoning": {"summary": "auto"}}).writer(HEAD)
    told = [events.Start(1), events.Reasoning("a"), events.Text("b"), events.Finish("stop"), events.Usage()]
    stream = b"".join(writer.write([one]) for one in told).decode()
    found = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    assert "response.reasoning_summary_text.delta" in [one["type"] for one in found]
    assert found[-1]["response"]["output"][0]["summary"] == [{"type": "summary_text", "text": "a"}]


def test_no_line_of_a_stream_breaks_where_only_unicode_breaks_lines():
    told = [events.Text("a\x85b\u2028c\u2029d\u2019e"), events.Finish("stop"), events.Usage()]
    for dialect, least in LEAST.items():
        stream = decode(dialect, least).writer(HEAD).write(told).decode()
        assert all(line.startswith(("data: ", "event: ")) for line in stream.splitlines() if line)
        assert said_in_stream(dialect, stream.encode()).text == told[0].text


def test_a_response_is_gone_on_from_with_its_thinking():
    on = shelf()
    first = decode("responses", {"input": "one", "include": ["reasoning.encrypted_content"]}, on=on)
    collected = Collected(replies=1)
    call = [events.ToolStart("c1", "f"), events.ToolArgs("{}"), events.ToolEnd()]
    collected.add([events.Reasoning("hm"), events.Text("ok"), *call, events.Finish("tool_calls"), events.Usage()])
    response = first.writer(HEAD).whole(collected)
    reply = Message(role="assistant", content="ok", thinking="hm", tool_calls=(ToolCall(name="f", id="c1"),))
    result = {"type": "function_call_output", "call_id": "c1", "output": "r"}
    told = (Message(role="user", content="one"), reply, Message(role="tool", content="r", tool_call_id="c1"))
    by_id = decode("responses", {"input": [result], "previous_response_id": response["id"]}, on=on)
    again = decode("responses", {"input": [USER | {"content": "one"}, *response["output"], result]})
    references = [{"type": "item_reference", "id": item["id"]} for item in response["output"]]
    referred = decode("responses", {"input": [USER | {"content": "one"}, *references, result]}, on=on)
    assert by_id.job.messages == again.job.messages == referred.job.messages == told
    sealed = {k: v for k, v in response["output"][0].items() if k != "content"}
    assert items.messages([sealed], lambda id: {})[0].thinking == "hm"


def test_a_store_keeps_what_was_used_last_and_each_tenants_apart():
    store = Store(tenant_bytes=1000, all_bytes=1500)
    mine, yours = shelf(store, key="me"), shelf(store, key="you")
    for name in ("a", "b", "c"):
        mine.keep(responses.Kept(response={"id": name, "pad": "x" * 400}, given=[], talk=()))
        mine.find(name)
    assert not mine.drop("a") and mine.find("b") and mine.find("c")
    with pytest.raises(Refusal, match="no response 'c'"):
        yours.find("c")
    yours.keep(responses.Kept(response={"id": "d", "pad": "x" * 900}, given=[], talk=()))
    assert yours.find("d") and sum(map(len, store.held.values())) <= 1500
    yours.keep(responses.Kept(response={"id": "e", "pad": "x" * 1100}, given=[], talk=()))  # more than fits
    assert list(store.sizes) == ["/me"]
