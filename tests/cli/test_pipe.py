"""Without a terminal: plain text in, plain text out; and what every verb does with bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.terminal import ROOT, scripted

ENV = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
OCTAVO = [sys.executable, "-c", "from octavo.cli.main import run; run()"]


def piped(command: list[str], text: str | bytes = "", **env: str) -> subprocess.CompletedProcess:
    data = text.encode() if isinstance(text, str) else text
    return subprocess.run(command, input=data, capture_output=True, env={**ENV, **env}, cwd=ROOT, timeout=60)


def test_lines_come_in_and_answers_go_out(tmp_path: Path):
    done = piped(scripted({"replies": {"x": ["secret", "**bold** 日本"]}}), "x\none\\\ntwo\n\n/think\nlast")
    assert done.returncode == 0, done.stderr
    answers = done.stdout.decode().splitlines()
    assert [line.strip() for line in answers] == ["**bold** 日本", "turn 3: 'one\\ntwo'", "turn 5: 'last'"]
    assert b"\x1b" not in done.stdout + done.stderr and b"secret" not in done.stdout + done.stderr
    assert b"Thinking is on." in done.stderr


def test_a_pipe_gets_no_control_characters():
    evil = "\x1b]0;t\x07 \x9b2J \r\n end\u202e"
    done = piped(scripted({"replies": {"x": ["", evil]}}), "x\n")
    assert "end" in done.stdout.decode() and not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.stdout.decode())


def test_a_message_that_fails_is_said_and_counted():
    done = piped(scripted({"never_thinks": True}), "/think\nx\n/nothink\ny\n/nonsense\n")
    assert done.returncode == 1
    assert done.stderr.count(b"octavo: ") == 2 and b"cannot think" in done.stderr and b"/nonsense" in done.stderr
    assert done.stdout.decode().strip() == "turn 1: 'y'"


def test_bytes_that_are_no_text_are_taken_as_well_as_they_can_be():
    done = piped(scripted({}), b"\xff\xfe caf\xc3\n")
    assert done.returncode == 0 and done.stdout.startswith(b"turn 1:"), done.stderr


def test_a_terminal_that_knows_only_ascii_gets_question_marks():
    done = piped(scripted({"replies": {"x": ["", "日本"]}}), "x\n", PYTHONIOENCODING="ascii:replace")
    assert done.returncode == 0 and b"??" in done.stdout


def test_ctrl_c_ends_a_piped_chat_with_130():
    options = {"pause_s": 0.05, "replies": {"x": ["", "word " * 200]}}
    with subprocess.Popen(scripted(options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENV, cwd=ROOT) as chat:
        assert chat.stdin and chat.stdout
        chat.stdin.write(b"x\n")
        chat.stdin.flush()
        assert chat.stdout.read(10) == b"word word "
        chat.send_signal(signal.SIGINT)
        rest = chat.stdout.read()
        assert len(rest) < 800 and chat.wait(10) in (130, -signal.SIGINT)


def test_a_reader_that_goes_away_is_no_crash():
    command = " ".join(f"'{part}'" for part in scripted({"replies": {"x": ["", "word " * 9000]}}))
    done = piped(["sh", "-c", f"{command} | head -c 5"], "x\n")
    assert done.stdout == b"word "


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["chat", "no/such/model/at/all", "--offline"], 1, "octavo: "),
        (["run", "missing.gguf", "hi"], 1, "missing.gguf"),
        (["run", "m", ""], 1, "prompt is empty"),
        (["run", "m", "hi", "--schema", "none.json"], 1, "none.json"),
        (["run", "m", "hi", "--temperature", "1000"], 1, "temperature=1000"),
        (["run", "m", "hi", "--temperature", "hot"], 2, "--temperature"),
        (["run", "m", "hi", "--budget", "-5"], 2, "--budget"),
        (["run", "m", "hi", "--stop", "\udcff"], 1, "not UTF-8"),
        (["run"], 2, ""),
        (["chat", "--hub", "elsewhere"], 2, "--hub"),
        (["nonsense"], 2, "nonsense"),
        (["models", "show", "no-such"], 1, "no-such"),
        (["models", "rm", "a/b"], 2, "--yes"),
        (["models", "rm", "a/b", "--yes"], 1, "a/b"),
        (["models", "rm", "../../x", "--yes"], 1, "no model of the hub cache"),
    ],
)
def test_bad_input_gives_one_message_and_never_a_stack_trace(arguments: list[str], code: int, says: str):
    done = piped([*OCTAVO, *arguments], HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout if code == 1 else b"") == (code, b"")
    assert says in done.stderr.decode() and b"Traceback" not in done.stderr + done.stdout
    if code == 1:
        assert done.stderr.count(b"octavo: ") == 1


def test_a_schema_that_is_none_is_refused(tmp_path: Path):
    for content in (b"[]", b"{", b"\xff", b'{"a":' * 100_000, b"3"):
        (tmp_path / "s.json").write_bytes(content)
        done = piped([*OCTAVO, "run", "m", "hi", "--schema", str(tmp_path / "s.json")])
        assert (done.returncode, done.stdout) == (1, b"") and b"s.json" in done.stderr
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("closed", "arguments", "code", "says"),
    [
        ("<&-", ["run", "octavo-mini"], 1, "prompt is empty"),
        ("<&-", ["models", "rm", "a/b"], 2, "--yes"),
        ("<&-", ["chat", "octavo-mini", "--offline"], 0, "Talking to"),
        (">&-", ["run", "octavo-mini", "hi", "--max-tokens", "1"], 0, ""),
        ("2>&-", ["run", "octavo-mini", "hi", "--max-tokens", "1"], 0, ""),
        ("<&- >&- 2>&-", ["run", "octavo-mini", "hi", "--max-tokens", "1"], 0, ""),
    ],
)
def test_a_closed_stream_leads_nowhere(closed: str, arguments: list[str], code: int, says: str):
    done = piped(["sh", "-c", f'exec "$@" {closed}', "sh", *OCTAVO, *arguments])
    assert done.returncode == code, done.stderr
    assert says in done.stderr.decode() and b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("arguments", [["--version"], ["models", "list"],
                                       ["run", "octavo-mini", "hi", "--max-tokens", "1", "--json"]])  # fmt: skip
def test_output_that_cannot_be_written_gives_one_line(arguments: list[str]):
    done = piped(["sh", "-c", 'exec "$@" >/dev/full', "sh", *OCTAVO, *arguments])
    lines = [line for line in done.stderr.decode().splitlines() if not line.startswith("Beside these")]
    assert done.returncode == 1 and len(lines) == 1, done.stderr
    assert lines[0].startswith("octavo: ") and "No space left" in lines[0]


def test_help_of_every_verb():
    for verb in ([], ["chat"], ["run"], ["doctor"], ["models"], ["models", "list"], ["models", "pull"]):
        done = piped([*OCTAVO, *verb, "--help"])
        assert done.returncode == 0 and b"Usage: octavo" in done.stdout and not done.stderr
    assert piped([*OCTAVO, "--version"]).stdout.startswith(b"octavo ")


HEAVY = (
    "torch",
    "rich",
    "prompt_toolkit",
    "huggingface_hub",
    "tokenizers",
    "numpy",
    "markdown_it",
    "pygments",
    "jinja2",
)


def test_help_imports_nothing_heavy_and_comes_at_once():
    code = f"""import atexit, json, sys
atexit.register(lambda: print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr))
from octavo.cli.main import run
run()"""
    done = piped([sys.executable, "-c", code, "--help"])
    assert json.loads(done.stderr.decode()) == []
    seconds = list[float]()
    while len(seconds) < 30 and (len(seconds) < 5 or min(seconds) >= 0.3):  # another test has the cores, for some time
        began_s = time.perf_counter()
        piped([*OCTAVO, "--help"])
        seconds.append(time.perf_counter() - began_s)
    assert min(seconds) < 0.3, seconds  # measured 0.08 alone on a fast machine
