"""What a typed line means, and which settings and sampling follow from it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.cli.commands import COMMANDS, Command, Say, changed, help_lines, parse, told
from octavo.cli.settings import SETTABLE, Settings, describe, sampling_for, thinking_of, with_value
from octavo.core.chat import ScriptedChat
from octavo.core.errors import RequestError
from octavo.core.messages import Message
from octavo.core.sampling import Sampling, Thinking

ASK = (Message(role="user", content="hi"),)
LINES = st.text() | st.builds("/{} {}".format, st.sampled_from([*COMMANDS, "save!", "tihnk", "?"]), st.text())


@given(LINES)
def test_every_line_is_a_message_a_command_nothing_or_one_clear_error(line: str):
    try:
        found = parse(line)
    except RequestError as error:
        assert line.startswith("/") and "/" in str(error)
        return
    assert (found is None) == (not line.strip())
    if isinstance(found, Say):
        assert found.text == line.strip()
    elif found:
        assert found.name in COMMANDS and line.startswith("/")


@given(st.text().filter(lambda text: not text.startswith("/")))
def test_what_does_not_begin_with_a_slash_is_never_a_command(text: str):
    assert not isinstance(parse(text), Command)


@pytest.mark.parametrize("line", ["/etc/hosts is what?", " /quit", "/think why is the sky blue?", "/no_think 2+2",
                                  "/usr/bin", "a\n/quit", "//"])  # fmt: skip
def test_messages_that_look_like_commands(line: str):
    assert parse(line) == Say(line.strip())


@pytest.mark.parametrize(("line", "hint"), [("/qiut", "/quit"), ("/tink", "/think"), ("/sav x", "/save"),
                                            ("/hepl", "/help"), ("/temprature 1", "/help"), ("/budget", "/budget N"),
                                            ("/clear all", "'all'"), ("/load! f", "/save!")])  # fmt: skip
def test_a_wrong_command_says_what_was_meant(line: str, hint: str):
    with pytest.raises(RequestError, match=hint.replace("!", "[!]")):
        parse(line)


@pytest.mark.parametrize(
    ("lines", "thinking"),
    [
        (["/think"], Thinking(mode="on")),
        (["/nothink"], Thinking(mode="off")),
        (["/no_think"], Thinking(mode="off")),
        (["/think", "/think auto"], Thinking()),
        (["/budget 512", "/think"], Thinking(mode="on", budget_tokens=512)),
        (["/think", "/budget 0"], Thinking(mode="on", budget_tokens=0)),
        (["/budget 512", "/budget off"], Thinking()),
    ],
)
def test_thinking_follows_the_commands(lines: list[str], thinking: Thinking):
    assert after(*lines).thinking == thinking


def after(*lines: str) -> Settings:
    settings = Settings()
    for line in lines:
        command = parse(line)
        assert isinstance(command, Command)
        found = changed(settings, command)
        assert found is not None and told(found, command)
        settings = found
    return settings


@pytest.mark.parametrize("text", ["-1", "1.5", "many", "²", "1e3", "99999999999999999999"])
def test_a_wrong_budget_is_refused(text: str):
    with pytest.raises(RequestError, match="budget"):
        after(f"/budget {text}")


@pytest.mark.parametrize("name", SETTABLE)
@given(value=st.text(min_size=1) | st.floats().map(str) | st.integers().map(str))
def test_a_setting_is_either_one_that_sampling_takes_or_an_error_that_names_it(name: str, value: str):
    try:
        settings = with_value(Settings(), name, value)
    except RequestError as error:
        assert name in str(error) or "stop" in str(error)
        return
    sampling = sampling_for(ScriptedChat([]), ASK, settings)
    assert sampling is None if value == "default" else isinstance(sampling, Sampling)
    again = msgspec.json.decode(msgspec.json.encode(settings), type=Settings)
    assert sampling_for(ScriptedChat([]), ASK, again) == sampling  # and it survives a saved file


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("/set temperature 0.25", "temperature", 0.25),
        ("/set temperature\t0.5", "temperature", 0.5),
        ("/set top_k 40", "top_k", 40),
        ("/set seed 7", "seed", 7),
        ("/set max_tokens null", "max_tokens", None),
        ("/set stop END", "stop", ("END",)),
        ('/set stop ["a", "\\n"]', "stop", ("a", "\n")),
        ("/set stop 42", "stop", ("42",)),
        (r"/set regex [0-9]+ \w", "regex", r"[0-9]+ \w"),
        ('/set choice ["yes", "no"]', "choice", ("yes", "no")),
        ('/set schema {"type": "object"}', "schema", {"type": "object"}),
    ],
)
def test_set_takes_the_value_meant(line: str, field: str, value: object):
    sampling = sampling_for(ScriptedChat([]), ASK, after(line))
    assert getattr(sampling, field) == value


class Recommending(ScriptedChat):
    """A chat whose format recommends, as LocalChat's does."""

    @property
    def form(self):
        return self

    def effective_thinking(self, messages, thinking):
        return thinking.mode == "on"

    def recommended(self, thinking_on):
        return Sampling(temperature=0.6 if thinking_on else 0.7, top_k=20)


def test_what_the_user_set_stands_and_the_model_recommends_the_rest():
    chat = Recommending([])
    assert sampling_for(chat, ASK, after("/think")) is None
    assert sampling_for(chat, ASK, after("/think", "/set top_p 0.5")) == Sampling(temperature=0.6, top_k=20, top_p=0.5)
    assert sampling_for(chat, ASK, after("/set top_p 0.5")) == Sampling(temperature=0.7, top_k=20, top_p=0.5)
    assert sampling_for(chat, ASK, after("/set top_p 0.5", "/set top_p default")) is None


@pytest.mark.parametrize("line", ["/set temperature hot", "/set temperature 101", "/set temperature NaN", "/set n 2",
                                  "/set top_k 1.5", "/set temperature", "/set tmp 1", "/set stop \"\"",
                                  "/set schema nope"])  # fmt: skip
def test_a_wrong_setting_changes_nothing(line: str):
    before = after("/set temperature 0.5")
    with pytest.raises(RequestError):
        command = parse(line)
        assert isinstance(command, Command)
        changed(before, command)


def test_settings_are_shown_with_who_chose_them():
    lines = "\n".join(describe(after("/set top_k 5", "/budget 9", "/system Be brief."), Sampling(temperature=0.6)))
    assert "0.6  (as the model recommends)" in lines and "5  (set by you)" in lines
    assert "9 tokens" in lines and "Be brief." in lines


def test_help_names_every_command():
    lines = "\n".join(help_lines())
    assert all(f"/{name}" in lines for name in COMMANDS)


def test_options_of_the_command_line_mean_what_the_commands_mean():
    assert thinking_of(None, None) == Thinking() == after("/think auto").thinking
    assert thinking_of(True, 5) == after("/think", "/budget 5").thinking
    assert thinking_of(False, None) == after("/nothink").thinking
    with pytest.raises(RequestError, match="-1"):
        thinking_of(True, -1)
