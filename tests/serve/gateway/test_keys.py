"""Who may come in: by key, by session, from where."""

import time
from pathlib import Path

import pytest

from octavo.serve.errors import Refusal
from octavo.serve.gateway import keys
from octavo.serve.gateway.limits import Limits, Terms
from octavo.serve.gateway.state import State
from tests.serve.gateway.desk import Desk, chat
from tests.serve.mini import mini_random
from tests.serve.serving import Served

CHAT = "/v1/chat/completions"


def test_of_a_key_only_the_hash_is_kept_and_it_is_known_until_revoked_or_expired(tmp_path: Path):
    state = State(tmp_path)
    db = state.connect()
    ring = keys.Keyring(state.connect())
    assert ring.empty
    terms = Terms(limits=Limits(rpm=5), priority=2)
    key, text = keys.create(db, "a", workspace="w", terms=terms)
    old, old_text = keys.create(db, "b", expires=time.time() - 1)
    assert not ring.empty and ring.find(text).terms == terms and ring.find(text).space == "workspace:w"
    for wrong in (text[:-1], text + "x", "", old_text, old.id):
        with pytest.raises(Refusal):
            ring.find(wrong)
    keys.revoke(db, key)
    time.sleep(keys.CHECK_S * 1.1)
    with pytest.raises(Refusal, match="revoked"):
        ring.find(text)
    assert not ring.empty, "with its last key revoked a server does not open"
    secret = text.removeprefix(keys.PREFIX).encode()
    assert all(secret not in path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


def test_without_keys_all_may_come_and_with_one_only_who_has_it(desk: Desk, served: Served):
    assert served.client.post(CHAT, json=chat()).status_code == 200
    bearer = desk.key("first")
    time.sleep(0.2)
    refused = served.client.post(CHAT, json=chat())
    assert refused.status_code == 401 and refused.json()["error"]["code"] == "missing_api_key"
    assert served.client.post(CHAT, json=chat(), headers={"x-api-key": "ok-wrong"}).status_code == 401
    assert served.client.post(CHAT, json=chat(), headers=bearer).status_code == 200
    anthropic = {"x-api-key": bearer["authorization"].removeprefix("Bearer ")}
    assert served.client.post(CHAT, json=chat(), headers=anthropic).status_code == 200
    desk.octavo("keys", "revoke", "first")
    time.sleep(1.2)
    assert served.client.post(CHAT, json=chat(), headers=bearer).status_code == 401


def test_a_page_logs_in_with_a_key_and_other_sites_cannot_use_its_session(desk: Desk, served: Served):
    key = desk.key("page")["authorization"].removeprefix("Bearer ")
    time.sleep(0.2)
    assert served.client.get("/session").json() == {"open": False, "logged_in": False}
    assert served.client.post("/session", json={"key": "ok-wrong"}).status_code == 401
    foreign = {"origin": "https://evil.example"}
    assert served.client.post("/session", json={"key": key}, headers=foreign).status_code == 403
    answer = served.client.post("/session", json={"key": key}, headers={"origin": served.url})
    cookie = answer.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/")) and key not in cookie
    assert served.client.get("/session").json()["logged_in"]
    assert served.client.post(CHAT, json=chat(), headers={"origin": served.url}).status_code == 200
    assert served.client.post(CHAT, json=chat(), headers=foreign).status_code == 403
    kept = dict(served.client.cookies)
    assert served.client.delete("/session").status_code == 200
    again = served.client.post(CHAT, json=chat(), headers={"cookie": f"octavo_session={kept['octavo_session']}"})
    assert again.status_code == 401, "a cookie that was copied is worth nothing after logging out"
    served.client.cookies.clear()


@pytest.mark.parametrize("words", [("\udcff",), ("a", "--workspace", "\udcff"),
                                   ("a", "--model", "\udcff", "--rpm", "5")])  # fmt: skip
def test_a_key_of_bytes_that_are_no_text_is_refused(words: tuple[str, ...], fresh: Desk):
    why = fresh.octavo("keys", "create", *words, code=1)
    assert "not UTF-8" in why and why.count("\n") == 0
    assert fresh.octavo("keys", "list") == ""


def test_a_public_bind_without_keys_is_refused_and_says_what_to_do(fresh: Desk):
    words = ("serve", f"mini={mini_random()}", "--port", "0", "--host", "0.0.0.0")
    why = fresh.octavo(*words, code=1)
    assert "octavo keys create" in why and "--insecure" in why
