"""The chat as a person has it: a real pseudo-terminal, a terminal emulator that reads it, a scripted chat behind it."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.cli.terminal import ALT_ENTER, CTRL_C, CTRL_D, ENTER, Terminal, scripted

Start = Callable[..., Terminal]
WORDS = " ".join(f"w{i}" for i in range(60))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a chat with these options; ends it after the test."""
    begun: list[Terminal] = []

    def begin(
        *, columns: int = 80, lines: int = 24, env: Mapping[str, str] = {}, wait: bool = True, **options
    ) -> Terminal:
        options.setdefault("log", str(tmp_path / "log"))
        state = tmp_path / "state"
        begun.append(Terminal(scripted(options), state=state, columns=columns, lines=lines, env=env))
        if wait:
            begun[-1].prompt(1)
        return begun[-1]

    yield begin
    for terminal in begun:
        terminal.child.close(force=True)


def asked(tmp_path: Path) -> list:
    """What the chat was asked: [messages, thinking mode, budget, temperature], request by request."""
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def test_two_turns_and_out(start: Start, tmp_path: Path):
    chat = start()
    chat.send("first" + ENTER)
    chat.prompt(2)
    chat.send("second" + ENTER)
    chat.prompt(3)
    assert "turn 1: 'first'" in chat.text and "turn 3: 'second'" in chat.text
    footer = re.sub(r"\s+", " ", chat.text)
    assert "prompt 30 tokens, 60/s · generated 3 tokens, 1.0/s · first token after 0.50 s" in footer
    assert "context 33 of 1,000 (3.3%)" in footer
    chat.send(CTRL_D)
    assert chat.exit_code() == 0
    assert [role for role, _ in asked(tmp_path)[1][0]] == ["user", "assistant", "user"]
    assert asked(tmp_path)[0][3] is None  # nothing was set, so the model's own sampling is used


def test_ctrl_c_stops_the_answer_and_not_the_program(start: Start, tmp_path: Path):
    chat = start(pause_s=0.05, replies={"long": ["", WORDS]})
    chat.send("long" + ENTER)
    chat.wait("w5")
    chat.send(CTRL_C)
    chat.prompt(2)
    assert "Stopped." in chat.text and "w59" not in chat.text
    chat.send("and?" + ENTER)
    chat.prompt(3)
    kept = asked(tmp_path)[1][0][1][1]
    assert kept.startswith("w0 w1 w2 w3 w4 w5") and "w59" not in kept  # the part that was said is in the conversation
    chat.send("/quit" + ENTER)
    assert chat.exit_code() == 0


def test_thinking_is_shown_and_folds_into_one_line(start: Start):
    chat = start(pause_s=0.03, replies={"why": ["alpha beta gamma " * 8, "Because."]})
    chat.send("why" + ENTER)
    chat.wait(lambda text: "alpha beta gamma" in text and "Ctrl-C: answer now" in text)
    assert re.search(r"thinking … \d+\.\d s, \d+ tokens", chat.text)
    chat.prompt(2)
    assert "alpha" not in chat.text and "answer now" not in chat.text
    # 25 pieces were seen, at least 0.03 s apart; usage counts the tags too, and has the last word
    assert re.search(r"^thought for (0\.[7-9]|[1-9]\.\d) s, 28 tokens$", chat.text, re.MULTILINE)
    assert "Because." in chat.text
    dim = [line for line in chat.raw.split("\r\n") if "alpha beta" in line]
    assert dim and all("\x1b[2" in line for line in dim)


def test_ctrl_c_in_thinking_goes_on_to_the_answer_and_once_more_stops_it(start: Start, tmp_path: Path):
    chat = start(pause_s=0.05, replies={"why": ["hmm " * 200, WORDS]})
    chat.send("why" + ENTER)
    chat.wait("Ctrl-C: answer now")
    chat.send(CTRL_C)
    chat.wait("w3")
    assert "thought for" in chat.text
    chat.send(CTRL_C)
    chat.prompt(2)
    assert "w59" not in chat.text and "ended by you" in chat.text
    chat.send("go on" + ENTER)
    chat.prompt(3)
    assert asked(tmp_path)[1][0][1][1].startswith("w0 w1 w2 w3")


def test_ctrl_c_at_an_empty_prompt_says_how_to_leave(start: Start):
    chat = start()
    chat.send("half a message" + CTRL_C)
    chat.read(seconds=0.2)
    assert "Ctrl-D" not in chat.text.split("> ")[-1]
    chat.send(CTRL_C)
    chat.wait("Ctrl-D or /quit leaves.")
    chat.send("still here" + ENTER)
    chat.wait("turn 1: 'still here'")


def test_save_leave_come_back_load_and_go_on(start: Start, tmp_path: Path):
    file = tmp_path / "talk.json"
    chat = start()
    for line in ("/set temperature 0.5", "/system Be brief.", "/budget 77", "my name is Ada", f"/save {file}"):
        chat.send(line + ENTER)
        chat.read(seconds=0.3)
    chat.wait("Saved 2 messages")
    chat.send(f"/save {file}" + ENTER)
    chat.wait("exists: /save!")
    chat.send("/quit" + ENTER)
    assert chat.exit_code() == 0

    chat = start(name="other")
    chat.send(f"/load {tmp_path}/nothing.json" + ENTER)
    chat.wait("cannot be read")
    chat.send(f"/load {file}" + ENTER)
    chat.wait("Loaded 2 messages")
    chat.wait("held with slow")
    chat.wait("user: my name is Ada")
    chat.send("what is my name?" + ENTER)
    chat.wait("turn 4:")
    messages, mode, budget, temperature = asked(tmp_path)[-1]
    assert [text for _, text in messages] == ["Be brief.", "my name is Ada", messages[2][1], "what is my name?"]
    assert (mode, budget, temperature) == ("auto", 77, 0.5)


def test_a_failed_load_keeps_the_conversation(start: Start, tmp_path: Path):
    (tmp_path / "bad.json").write_text('{"octavo_chat": 1, "messages": [{"role": "robot"}]}')
    chat = start()
    chat.send("remember me" + ENTER)
    chat.prompt(2)
    chat.send(f"/load {tmp_path / 'bad.json'}" + ENTER)
    chat.wait("robot")
    chat.send("and now" + ENTER)
    chat.wait("turn 3:")


def test_a_message_of_several_lines(start: Start, tmp_path: Path):
    chat = start()
    chat.send("one" + ALT_ENTER + "two\\" + ENTER + "three" + ENTER)
    chat.wait("turn 1:")
    chat.send("\x1b[200~pasted a\npasted b\n/quit\x1b[201~" + ENTER)
    chat.wait("turn 3:")
    said = [request[0][-1][1] for request in asked(tmp_path)]
    assert said == ["one\ntwo\nthree", "pasted a\npasted b\n/quit"]


def test_history_survives_a_restart(start: Start, tmp_path: Path):
    chat = start()
    chat.send("a question to repeat" + ENTER)
    chat.prompt(2)
    chat.send(CTRL_D)
    assert chat.exit_code() == 0
    assert (tmp_path / "state/octavo/history").stat().st_mode & 0o077 == 0
    chat = start()
    chat.send("\x1b[A" + ENTER)
    chat.wait("turn 1: 'a question to repeat'")


def test_retry_asks_the_same_again(start: Start, tmp_path: Path):
    chat = start()
    chat.send("/retry" + ENTER)
    chat.wait("no message to answer")
    chat.send("same" + ENTER)
    chat.prompt(3)
    chat.send("/retry" + ENTER)
    chat.prompt(4)
    requests = asked(tmp_path)
    assert len(requests) == 2 and requests[0] == requests[1]


def test_bad_input_is_answered_and_changes_nothing(start: Start, tmp_path: Path):
    chat = start(never_thinks=True)
    lines = {"/set temperature hot": "needs a number", "/set temperature 101": "out of range", "/qiut": "/quit?",
             "/budget x": "/budget needs", "/model missing": "missing is not here",
             "/model": "/model NAME"}  # fmt: skip
    for count, (line, answer) in enumerate(lines.items(), 2):
        chat.send(line + ENTER)
        chat.prompt(count)
        assert answer in chat.text
    chat.send("/think" + ENTER)
    chat.wait("Thinking is on.")
    chat.send("a long question" + ENTER)
    chat.wait("cannot think")
    chat.wait(lambda text: text.endswith("> a long question"))  # and the message is there to be sent again
    chat.send("\x15/nothink" + ENTER)
    chat.wait("Thinking is off.")
    chat.send("a long question" + ENTER)
    chat.wait("turn 1:")
    assert "Traceback" not in chat.text


def test_model_text_cannot_drive_the_terminal(start: Start):
    evil = "ok \x1b]0;pwned\x07 \x1b[2J\x1b[31mred \x9b5n \x1bP1$r\x1b\\ \x1b[?1049h &#27;[8m `\x1b[H` end"
    chat = start(replies={"x": [evil, evil], "y": ["", f"```\n{evil}\n```"]}, name="m\x1b]0;name\x07")
    for count, line in enumerate(("x", "y"), 2):
        chat.send(line + ENTER)
        chat.prompt(count)
    assert "\x1b]" not in chat.raw and "\x07" not in chat.raw and "\x9b" not in chat.raw
    assert not re.search(r"\x1b\[2J|\x1b\[31m|\x1b\[\?1049|\x1b\[H|\x1b\[8m|\x1bP", chat.raw)
    assert chat.screen.title == "" and chat.text.count("end") >= 2 and "Talking to" in chat.text


MARKDOWN = """# Head

日本語のテキスト and 😀 emoji, **bold** and `code` in a paragraph that is long enough to be wrapped.

- item one
- item two

| name | value |
|------|-------|
| a    | 1     |

```python
def answer():
    return 42
```

The end of it."""


@pytest.mark.parametrize("columns", [80, 40, 20, 8])
def test_narrow_terminals_show_everything_once(start: Start, columns: int):
    chat = start(columns=columns, lines=12, replies={"md": ["think " * 30, MARKDOWN]}, pause_s=0.01)
    chat.send("md" + ENTER)
    chat.wait(lambda text: "(" in text.rsplit("context", 1)[-1] and text.endswith(">"))
    text = re.sub(r"\s", "", chat.text)
    for part in ("Head", "日本語", "😀", "itemone", "itemtwo", "return42"):
        assert text.count(part) == 1 or columns < 12, part  # narrower than 12, rows are cut while they grow
    assert "think think" not in chat.text


def test_an_answer_longer_than_the_screen_scrolls_by_whole(start: Start):
    lines = [f"line number {i} of many" for i in range(90)]
    code = "```\n" + "\n".join(f"code {i}" for i in range(60)) + "\n```"
    chat = start(replies={"long": ["", "\n\n".join(lines) + "\n\n" + code]}, pause_s=0.001, lines=10)
    chat.send("long" + ENTER)
    chat.prompt(2)
    seen = [line.strip() for line in chat.text.split("\n")]
    assert [line for line in seen if line.startswith("line number")] == lines
    assert [line for line in seen if line.startswith("code")] == [f"code {i}" for i in range(60)]


def test_drawing_never_clears_the_screen_and_writes_little(start: Start):
    chat = start(replies={"long": ["", WORDS * 10]}, pause_s=0.002)
    chat.send("long" + ENTER)
    chat.prompt(2)
    assert "\x1b[2J" not in chat.raw.split("long", 1)[1]
    assert len(chat.raw) < 40 * len(WORDS * 10)


def test_no_color_means_none(start: Start):
    chat = start(env={"NO_COLOR": "1"}, replies={"md": ["hm", MARKDOWN]})
    chat.send("md" + ENTER)
    chat.prompt(2)
    styles = {code for group in re.findall(r"\x1b\[([0-9;]*)m", chat.raw) for code in group.split(";")}
    assert styles <= {"", "0", "1", "2", "3", "4", "7", "9", "22", "23", "24", "27"}


def test_keys_pressed_during_an_answer_wait_for_the_prompt(start: Start, tmp_path: Path):
    chat = start(pause_s=0.03, replies={"long": ["", WORDS]})
    chat.send("long" + ENTER)
    chat.wait("w9")
    chat.send("early\n")
    chat.wait("turn 3: 'early'")
    assert "early" not in chat.text.split("w59")[0].split("> long")[-1]


def test_another_model_goes_on_with_the_conversation(start: Start, tmp_path: Path):
    chat = start()
    for count, line in enumerate(("hello", "/model big/model", "again", "/clear", "anew", "/help", "/set"), 2):
        chat.send(line + ENTER)
        chat.prompt(count)
    assert "Talking to big/model" in chat.text and "turn 3: 'again'" in chat.text and "turn 1: 'anew'" in chat.text
    assert "/retry" in chat.text and "Alt-Enter" in chat.text and "temperature" in chat.text


def test_a_resize_in_the_middle_of_an_answer(start: Start):
    chat = start(pause_s=0.02, replies={"long": ["", WORDS + "\n\nlast words"]})
    chat.send("long" + ENTER)
    chat.wait("w20")
    chat.resize(50, 20)
    chat.wait(lambda text: "(7.1%)" in text and text.endswith(">"))
    assert "last words" in chat.text and "w59" in chat.text


def test_a_history_that_cannot_be_written_is_no_obstacle(start: Start, tmp_path: Path):
    (tmp_path / "state").write_text("a file where a folder should be")
    chat = start()
    assert "cannot be written" in re.sub(r"\s+", " ", chat.text)
    chat.send("hello" + ENTER)
    chat.wait("turn 1: 'hello'")


def test_a_terminal_that_can_do_nothing_gets_plain_text(start: Start):
    chat = start(env={"TERM": "dumb"}, replies={"md": ["hm", MARKDOWN]}, wait=False)
    chat.wait("/help")
    chat.send("md\n")
    chat.wait("The end of it.")
    assert "\x1b" not in chat.raw
    os.write(chat.child.child_fd, CTRL_D.encode())
    assert chat.exit_code() == 0
