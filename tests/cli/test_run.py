"""One prompt, one answer: what `octavo run` asks of the chat, and the JSON that it prints."""

import json
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.cli.exchange import Outcome
from octavo.cli.run import as_json, prompt_text, read_schema, say
from octavo.cli.screen import PlainAnswer, footer, stopped, thought
from octavo.cli.settings import Settings
from octavo.core.chat import ScriptedChat
from octavo.core.deltas import Finished, Usage
from octavo.core.errors import RequestError
from octavo.core.messages import Message, ToolCall

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def outcome(text: str, thinking: str | None = None) -> Outcome:
    message = Message(role="assistant", content=text, thinking=thinking, tool_calls=(ToolCall(name="f"),))
    finished = Finished(message=message, reason="stop", usage=Usage(prompt_tokens=3, completion_tokens=4))
    return Outcome(message=message, finished=finished, interrupted=False)


@given(text=TEXT, thinking=st.none() | TEXT)
def test_json_holds_exactly_what_was_said_and_nothing_that_a_terminal_obeys(text: str, thinking: str | None):
    line = as_json("m", outcome(text, thinking))
    found = json.loads(line)
    assert (found["text"], found["thinking"], found["model"], found["finish"]) == (text, thinking, "m", "stop")
    assert found["usage"]["prompt_tokens"] == 3 and found["tool_calls"][0]["name"] == "f"
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in line)


def test_the_answer_goes_to_stdout(capsys: pytest.CaptureFixture[str]):
    chat = ScriptedChat([Message(role="assistant", content="one\ntwo", thinking="hmm")])
    assert say(chat, "question", settings=Settings(system="Be brief.")) == 0
    assert capsys.readouterr() == ("one\ntwo\n", "")
    assert [(m.role, m.text) for m in chat.asked[0]] == [("system", "Be brief."), ("user", "question")]


def test_json_goes_to_stdout_alone(capsys: pytest.CaptureFixture[str]):
    chat = ScriptedChat([Message(role="assistant", content="one\ntwo", thinking="hmm")])
    assert say(chat, "question", json=True) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["text"] == "one\ntwo" and json.loads(out)["thinking"] == "hmm" and not err
    assert out.count("\n") == 1


def test_an_error_of_the_model_comes_through():
    with pytest.raises(RequestError, match="no more messages"):
        say(ScriptedChat([]), "question")


class Broken(ScriptedChat):
    """A chat with a bug."""

    def stream(self, messages, **options):
        raise ZeroDivisionError("a bug")


def test_a_bug_of_ours_comes_through_from_the_model_and_from_the_screen(monkeypatch: pytest.MonkeyPatch):
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        say(Broken([]), "question")

    def draw(answer: PlainAnswer) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(PlainAnswer, "draw", draw)
    monkeypatch.setattr(PlainAnswer, "wait_s", lambda answer: 0.001)
    with pytest.raises(ZeroDivisionError):
        say(Slow([Message(role="assistant", content="text")]), "question")
    assert threading.active_count() == before


class Slow(ScriptedChat):
    """Takes a while to begin."""

    def stream(self, messages, **options):
        time.sleep(0.1)
        return super().stream(messages, **options)


def test_the_prompt_comes_from_the_argument_or_stdin(monkeypatch: pytest.MonkeyPatch):
    import io

    assert prompt_text("hello") == "hello"
    for argument in (None, "-"):
        monkeypatch.setattr(sys, "stdin", io.StringIO("piped\nlines"))
        assert prompt_text(argument) == "piped\nlines"
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    with pytest.raises(RequestError, match="empty"):
        prompt_text("-")


@given(st.dictionaries(TEXT, st.none() | st.integers(-9, 9) | TEXT, max_size=3) | st.booleans())
def test_a_schema_file_is_read_as_it_is(tmp_path_factory: pytest.TempPathFactory, schema):
    path: Path = tmp_path_factory.mktemp("schema") / "s.json"
    path.write_bytes(msgspec.json.encode(schema))
    assert read_schema(path) == schema


@given(st.builds(
    Usage, prompt_tokens=st.integers(0, 10**6), cached_tokens=st.integers(0, 10**6), prefill_s=st.floats(0, 1e4),
    completion_tokens=st.integers(0, 10**6), forced_tokens=st.integers(0, 99), decode_s=st.floats(0, 1e4),
), st.integers(0, 10**6))  # fmt: skip
def test_a_footer_can_be_made_of_any_usage(usage: Usage, context: int):
    line = footer(usage, context)
    assert f"{usage.prompt_tokens + usage.completion_tokens:,}" in line and "\n" not in line and "-" not in line


def test_the_footer_counts_what_was_computed():
    usage = Usage(prompt_tokens=1100, cached_tokens=1000, prefill_s=0.5, completion_tokens=125, forced_tokens=24,
                  decode_s=2.0)  # fmt: skip
    assert footer(usage, 40960) == (
        "prompt 1,100 tokens (1,000 of them cached), 200/s · generated 125 tokens, 50/s · first token after 0.50 s · "
        "context 1,225 of 40,960 (3.0%)"
    )


def test_lines_about_thinking_and_stopping():
    assert thought(3.21, 214) == "thought for 3.2 s, 214 tokens"
    assert thought(0.1, 1, stop="budget") == "thought for 0.1 s, 1 token, ended by the budget"
    ended = outcome("x").finished
    assert ended and stopped(ended, typed=True) == ""
    assert "/retry" in stopped(None, typed=True) and stopped(None, typed=False) == "Stopped."


@pytest.mark.parametrize(
    ("text", "thinking", "thinking_tokens", "thought_only"),
    [("x", None, 0, False), ("x", "hmm", 3, False), ("", "hmm", 3, True), ("", None, 3, True), ("", "hmm", 0, True),
     ("", None, 0, False)],
)  # fmt: skip
def test_what_is_said_of_an_answer_cut_short_can_be_done_where_it_is_said(
    text: str, thinking: str | None, thinking_tokens: int, thought_only: bool
):
    message = Message(role="assistant", content=text, thinking=thinking)
    ended = Finished(message=message, reason="length", usage=Usage(thinking_tokens=thinking_tokens))
    in_chat, in_run = stopped(ended, typed=True), stopped(ended, typed=False)
    assert ("All tokens went into thinking" in in_chat) == ("All tokens went into thinking" in in_run) == thought_only
    assert ("/budget" in in_chat) == ("--budget" in in_run) == thought_only
    assert "/set max_tokens" in in_chat and "--max-tokens" in in_run and "/" not in in_run
