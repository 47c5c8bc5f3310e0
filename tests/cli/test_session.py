"""A saved conversation comes back as it was, or not at all; nothing that is there is lost."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.cli.session import Session, file_named, load, save
from octavo.cli.settings import Settings
from octavo.core.errors import OctavoError, RequestError
from octavo.core.messages import Message, Part, ToolCall
from octavo.core.sampling import Thinking

KEPT = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
CALLS = st.lists(st.builds(ToolCall, name=TEXT, arguments=TEXT, id=TEXT), max_size=2).map(tuple)
CONTENT = TEXT | st.lists(st.builds(Part, text=TEXT), max_size=2).map(tuple)
MESSAGES = st.builds(
    Message, role=st.sampled_from(["user", "assistant", "tool"]), content=CONTENT, thinking=st.none() | TEXT,
    tool_calls=CALLS, tool_call_id=TEXT,
)  # fmt: skip
SETTINGS = st.builds(
    Settings, system=TEXT,
    thinking=st.builds(Thinking, mode=st.sampled_from(["auto", "on", "off"]), budget_tokens=st.none() | st.just(9)),
    sampling=st.sampled_from([{}, {"temperature": 0.5}, {"seed": 3, "stop": ["a"]}]),
)  # fmt: skip
SESSIONS = st.builds(Session, model=TEXT, settings=SETTINGS, messages=st.lists(MESSAGES, max_size=5).map(tuple))


@KEPT
@given(session=SESSIONS)
def test_what_is_saved_is_what_is_loaded(session: Session, tmp_path: Path):
    size = save(session, tmp_path / "a.json", replacing=True)
    assert load(tmp_path / "a.json") == session
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").stat().st_size == size


@KEPT
@given(session=SESSIONS, where=st.floats(0, 1, exclude_max=True))
def test_half_a_file_is_refused(session: Session, where: float, tmp_path: Path):
    path = tmp_path / "half.json"
    save(session, path, replacing=True)
    whole = path.read_bytes().rstrip()
    path.write_bytes(whole[: int(where * len(whole))])
    with pytest.raises(RequestError, match=r"half\.json"):
        load(path)


@KEPT
@given(session=SESSIONS, edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_changed_file_gives_a_conversation_or_one_clear_error(session: Session, edits, tmp_path: Path):
    path = tmp_path / "changed.json"
    save(session, path, replacing=True)
    data = bytearray(path.read_bytes())
    for where, byte in edits:
        data[min(len(data) - 1, int(where * len(data)))] = byte
    path.write_bytes(data)
    try:
        found = load(path)
    except OctavoError as error:
        assert "changed.json" in str(error)
    else:
        save(found, path, replacing=True)
        assert load(path) == found


def test_a_file_that_exists_is_replaced_only_on_demand(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("precious")
    with pytest.raises(RequestError, match="/save!"):
        save(Session(), path, replacing=False)
    assert path.read_text() == "precious"
    save(Session(model="m"), path, replacing=True)
    assert load(path).model == "m"


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.json"
    save(Session(model="old"), path, replacing=False)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match="No space left"):
        save(Session(model="new"), path, replacing=True)
    assert load(path).model == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no saved conversation"),
        (b"[]", "no saved conversation"),
        (b'{"octavo_chat": 2}', "layout 2"),
        (b'{"octavo_chat": 1, "mesages": []}', "mesages"),
        (b'{"octavo_chat": 1, "settings": {"sampling": {"heat": 1}}}', "heat"),
        (b'{"octavo_chat": 1, "settings": {"sampling": {"temperature": "x"}}}', "temperature"),
        (b'{"octavo_chat": 1, "messages": [{"role": "robot"}]}', "robot"),
        (b'{"octavo_chat": 1, "messages": [{"role": "system", "content": "x"}]}', "settings.system"),
        (b'{"octavo_chat": 1, "model": ' + b"[" * 100_000, "no saved|damaged|nested"),
        (b'{"octavo_chat": 1, "settings": {"sampling": {"schema": ' + b"[" * 100_000, "damaged|nested"),
    ],
)
def test_what_is_no_conversation_is_refused(content: bytes, says: str, tmp_path: Path):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(RequestError, match=says):
        load(tmp_path / "f")


def test_places_where_no_file_can_be(tmp_path: Path):
    for path in (tmp_path / "none" / "a.json", tmp_path):
        with pytest.raises(RequestError, match=r"cannot be|exists"):
            save(Session(), path, replacing=False)
        with pytest.raises(RequestError, match="cannot be read"):
            load(path)
    with pytest.raises(RequestError, match="cannot be written"):
        save(Session(), tmp_path, replacing=True)
    for name in ("a\0b", "", "~nobody-of-that-name/x"):
        with pytest.raises(RequestError):
            file_named(name)
    assert file_named("~/x") == Path.home() / "x"


def test_the_file_is_json_that_people_can_read(tmp_path: Path):
    save(Session(messages=(Message(role="user", content="hällo"),)), tmp_path / "a", replacing=False)
    assert json.loads((tmp_path / "a").read_text())["messages"][0]["content"] == "hällo"
    assert "hällo" in (tmp_path / "a").read_text()


@given(SESSIONS)
def test_the_prompt_is_the_system_message_and_all_that_was_said(session: Session):
    prompt = session.prompt()
    assert prompt[len(prompt) - len(session.messages) :] == session.messages
    assert [m.text for m in prompt[: len(prompt) - len(session.messages)]] == [session.settings.system] * bool(
        session.settings.system
    )


@given(SESSIONS)
def test_reopening_goes_back_to_the_last_message_of_the_user(session: Session):
    if all(message.role != "user" for message in session.messages):
        with pytest.raises(RequestError, match="no message"):
            session.reopened()
        return
    kept = session.reopened().messages
    assert kept[-1].role == "user" and session.messages[: len(kept)] == kept
    assert all(message.role != "user" for message in session.messages[len(kept) :])
