"""An OpenAI-compatible endpoint as a `Chat`: a real server on loopback answers with our own models, or breaks."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from octavo.chat import load
from octavo.chat.remote import END, DataLines
from octavo.chat.token_server import TokenServer
from octavo.core.chat import complete
from octavo.core.deltas import Delta, Finished
from octavo.core.errors import ConfigError, HubError, RequestError
from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.core.sampling import Sampling, Thinking

ASK = [Message(role="user", content="Grüße?")]


class Server(ThreadingHTTPServer):
    """Says the chunks it was given; keeps what it was asked."""

    def __init__(self, chunks: list[Any], *, models: int = 1, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.chunks, self.models, self.status, self.asked = chunks, models, status, list[dict[str, Any]]()
        self.keys = list[str | None]()
        self.address = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        models = [{"id": f"m{i}", "max_model_len": 4096} for i in range(self.server.models)]
        self.reply(json.dumps({"data": models}).encode(), "application/json", 200)

    def do_POST(self) -> None:
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        lines = [
            c if isinstance(c, str) else f"data: {json.dumps(c, ensure_ascii=False)}\n\n" for c in self.server.chunks
        ]
        self.reply("".join(lines).encode(), "text/event-stream", self.server.status)

    def reply(self, body: bytes, kind: str, status: int) -> None:
        self.server.keys.append(self.headers.get("Authorization"))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture
def serve() -> Iterator[Any]:
    running: list[Server] = []

    def start(chunks: list[Any], **settings: Any) -> Server:
        running.append(Server(chunks, **settings))
        Thread(target=running[-1].serve_forever, daemon=True).start()
        return running[-1]

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def said(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def test_thinking_text_calls_and_usage_arrive(serve):
    server = serve([
        said(role="assistant", content=""), said(reasoning_content="Hm"), said(reasoning=" ja"),
        said(content="Grüße, "), said(content="猫!"),
        said(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"x"'}}]),
        said(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]), said(finish="tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 7,
                                  "completion_tokens_details": {"reasoning_tokens": 2}}},
        "data: [DONE]\n\n",
    ])  # fmt: skip
    chat = load(server.address)
    assert chat.name == "m0" and chat.context_tokens == 4096
    tool = ToolSpec(name="f", parameters={"type": "object"})
    sampling = Sampling(temperature=0.5, top_k=3, stop=("x",), schema={"type": "object"}, max_tokens=5)
    end = complete(chat, ASK, tools=[tool], sampling=sampling, thinking=Thinking(mode="off"))[0]
    assert end.message.thinking == "Hm ja" and end.message.text == "Grüße, 猫!" and end.reason == "tool_calls"
    assert end.message.tool_calls == (ToolCall(name="f", arguments='{"x": 1}', id="c1"),)
    assert (end.usage.prompt_tokens, end.usage.completion_tokens, end.usage.thinking_tokens) == (9, 7, 2)
    asked = server.asked[0]
    assert asked["messages"] == [{"role": "user", "content": "Grüße?"}] and asked["temperature"] == 0.5
    assert asked["top_k"] == 3 and asked["stop"] == ["x"] and asked["max_tokens"] == 5 and "seed" not in asked
    assert asked["chat_template_kwargs"] == {"enable_thinking": False} and asked["tools"] == [tool.as_openai()]
    assert asked["response_format"]["json_schema"]["schema"] == {"type": "object"}


ODD = "a\u2028b\u2029c\x85d"  # line ends of Unicode that JSON may hold as they are


def test_line_ends_of_unicode_are_text(serve):
    chat = load(serve([said(content=ODD), said(finish="stop")]).address)
    assert complete(chat, ASK)[0].message.text == ODD


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_events_do_not_depend_on_how_the_stream_is_cut(ending: str):
    """At every byte, in the midst of a line's end and of a character too."""
    held = ["1", ODD, "Grüße 猫", "[DONE]", "last"]
    lines = [": ping", f"data:{held[0]}", "", f"data: {held[1]} ", "event: data: x", *(f"data: {d}" for d in held[2:])]
    stream = ending.join(lines).encode()
    for cuts in [[i] for i in range(len(stream))] + [list(range(1, len(stream)))]:
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        reader = DataLines()
        assert [data for piece in (*pieces, END) for data in reader.push(piece)] == held, cuts


def test_history_goes_out_whole(serve):
    server = serve([said(content="ok"), said(finish="stop")])
    call = ToolCall(name="f", arguments="{}", id="c")
    talk = [*ASK, Message(role="assistant", thinking="t", tool_calls=(call,)),
            Message(role="tool", content="r", tool_call_id="c")]  # fmt: skip
    complete(load(server.address), talk)
    _, assistant, tool = server.asked[0]["messages"]
    assert assistant["reasoning_content"] == "t" and assistant["tool_calls"][0]["function"] == {
        "name": "f",
        "arguments": "{}",
    }
    assert tool == {"role": "tool", "content": "r", "tool_call_id": "c"}


def test_several_replies_are_told_apart(serve):
    server = serve([said(1, content="b"), said(0, content="a"), said(0, "stop"), said(1, "length")])
    ends = complete(load(server.address), ASK, sampling=Sampling(n=2))
    assert [(end.index, end.message.text, end.reason) for end in ends] == [(0, "a", "stop"), (1, "b", "length")]


def test_a_cancelled_reply_keeps_what_came(serve):
    reply = load(serve([said(content=str(i)) for i in range(50)]).address).stream(ASK)
    deltas = list[Delta]()
    for delta in reply:
        deltas.append(delta)
        reply.cancel()
    end = deltas[-1]
    assert isinstance(end, Finished) and end.reason == "cancelled" and end.message.text == "0"


@pytest.mark.parametrize("chunks, words", [
    ([said(content="a")], "ended in the middle"), (["data: {nonsense\n\n"], "no chat completion"),
    (['data: {"x": ' + "[" * 100_000 + "\n\n"], "no chat completion"),
])  # fmt: skip
def test_a_reply_that_breaks_is_an_error(serve, chunks, words):
    with pytest.raises(HubError, match=words):
        complete(load(serve(chunks).address), ASK)


def test_what_an_endpoint_refuses_is_said_in_its_words(serve):
    server = serve([json.dumps({"error": {"message": "no such luck"}})], status=400)
    with pytest.raises(RequestError, match=r"400.*no such luck"):
        load(server.address).stream(ASK)
    with pytest.raises(RequestError, match="stopped with an error: overloaded"):
        complete(load(serve([{"error": "overloaded"}]).address), ASK)


def test_nothing_is_left_out_silently(serve):
    chat = load(serve([]).address)
    for asked in (
        {"thinking": Thinking(budget_tokens=5)},
        {"sampling": Sampling(regex="a")},
        {"sampling": Sampling(logprobs=1)},
    ):
        with pytest.raises(RequestError, match="leave"):
            chat.stream(ASK, **asked)


@pytest.mark.parametrize("settings", [{"kind": "w4"}, {"draft": "org/small"}])
def test_what_only_this_machine_decides_is_not_asked_of_an_endpoint(serve, settings: dict[str, Any]):
    with pytest.raises(ConfigError, match="is an endpoint"):
        load(serve([]).address, **settings)


def test_one_of_several_models_must_be_named(serve):
    server = serve([], models=3)
    assert load(f"{server.address}#m2").name == "m2"
    for address in (server.address, f"{server.address}#other"):
        with pytest.raises(HubError, match="m0, m1, m2"):
            load(address)


def test_a_key_goes_only_where_it_is_safe(serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "another program's")
    server = serve([said(content="ok"), said(finish="stop")])
    complete(load(server.address), ASK)
    assert server.keys == [None, None]
    monkeypatch.setenv("OCTAVO_API_KEY", "ours")
    complete(load(server.address), ASK)
    assert server.keys[2:] == ["Bearer ours"] * 2
    with pytest.raises(HubError, match="not https"):
        load("http://192.0.2.1/v1")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/v1", "http://", "https://[/v1", "http://my..host:8000/v1",
                                     f"http://{'a' * 64}.example/v1"])  # fmt: skip
def test_an_address_where_nobody_answers_is_one_clear_error(address):
    with pytest.raises(HubError, match="does not answer"):
        load(address)


def test_a_server_of_tokens_needs_a_host_that_can_be():
    for address in ("http://my..host:8000/v1#m", f"https://{'a' * 64}/v1#m", "https://h:port/v1#m"):
        with pytest.raises(HubError, match="is no address"):
            TokenServer(address)
