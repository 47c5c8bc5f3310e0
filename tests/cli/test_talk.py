"""What does not need a terminal to be seen: suggestions, and a conversation that outlives a bug."""

from pathlib import Path

import pytest

from octavo.cli.chat import larger_than, talk
from octavo.cli.keys import LineReader, state_file
from octavo.cli.screen import PlainAnswer, PlainScreen
from octavo.cli.session import load
from octavo.core.chat import ScriptedChat
from octavo.core.messages import Message

GIGABYTE = 10**9


@pytest.mark.parametrize(
    ("name", "gigabytes", "suggested"),
    [
        ("SmolLM2-135M-Instruct.Q4_1", 16, "Qwen/Qwen3-0.6B"),
        ("Qwen3-0.6B", 16, "Qwen/Qwen3-1.7B"),
        ("Qwen3-0.6B-Q8_0", 16, "Qwen/Qwen3-1.7B"),
        ("Qwen/Qwen3-8B", 64, "Qwen/Qwen3-14B"),
        ("Qwen/Qwen3-8B", 16, ""),
        ("Qwen/Qwen3-32B", 999, ""),
        ("SmolLM2-135M-Instruct.Q4_1", 1, ""),
    ],
)
def test_the_next_larger_model_that_memory_holds_is_suggested(name: str, gigabytes: int, suggested: str):
    lines = larger_than(name, gigabytes * GIGABYTE)
    assert [f"octavo chat {suggested}, " in line for line in lines] == [True] * bool(suggested)


class BrokenScreen(PlainScreen):
    """Has a bug that shows at the second answer."""

    answers = 0

    def answer(self) -> PlainAnswer:
        self.answers += 1
        if self.answers > 1:
            raise IndexError("a bug")
        return PlainAnswer(self.out)


def test_a_bug_of_ours_does_not_take_the_conversation_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    chat = ScriptedChat([Message(role="assistant", content="one"), Message(role="assistant", content="two")])
    with pytest.raises(IndexError):
        talk(chat, screen=BrokenScreen(), reader=LineReader(["first", "second"]))
    assert [message.text for message in load(state_file("rescued.json")).messages] == ["first", "one"]
    assert "/load" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("home", "expected"), [("/state", "/state"), ("", "~/.local/state"), ("rel", "~/.local/state")]
)
def test_state_lies_where_the_xdg_specification_says(home: str, expected: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", home)  # a relative path is to be ignored
    assert state_file("history") == Path(expected).expanduser() / "octavo" / "history"


def test_lines_of_a_pipe_become_messages():
    reader = LineReader(["a\n", "b\\\n", "c\r\n", "\n", "end\\"])
    found = [reader.read() for _ in range(6)]
    assert found == ["a", "b\nc", "", "end", None, None]
