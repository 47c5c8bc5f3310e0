"""Limits at a real server, from 64 threads at once; prices and rows in the ledger."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from octavo.serve.gateway.limits import Budget, Limits, Terms
from tests.serve.asking import without_end
from tests.serve.gateway.desk import Desk, chat
from tests.serve.serving import Served

CHAT = "/v1/chat/completions"


def at_once(served: Served, headers: dict[str, str], count: int, **more: Any) -> tuple[list[httpx.Response], float]:
    """So many requests from as many threads, and the seconds from the first to the last answer."""
    start = threading.Barrier(count)

    def one(number: int) -> httpx.Response:
        with httpx.Client(base_url=served.url, timeout=60) as client:
            start.wait()
            return client.post(CHAT, json=chat(f"Number {number}", **more), headers=headers)

    with ThreadPoolExecutor(count) as pool:
        begin_s = time.monotonic()
        return list(pool.map(one, range(count))), time.monotonic() - begin_s


def test_of_64_callers_at_once_exactly_as_many_come_in_as_the_limit_says(desk: Desk, served: Served):
    headers = desk.key("ten", terms=Terms(limits=Limits(rpm=10)))
    answers, took_s = at_once(served, headers, 64)
    good = [answer for answer in answers if answer.status_code == 200]
    assert 10 <= len(good) <= 10 + took_s * 10 / 60
    remaining = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in good]
    assert sorted(remaining)[-1] == 9 and {answer.headers["x-ratelimit-limit-requests"] for answer in good} == {"10"}
    for answer in answers:
        if answer.status_code != 200:
            assert answer.status_code == 429 and answer.json()["error"]["type"] == "rate_limit_error"
            assert 0 < int(answer.headers["retry-after-ms"]) <= 6000
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"


def test_a_budget_is_never_promised_twice_whoever_asks_at_once(desk: Desk, served: Served):
    headers = desk.key("poor", terms=Terms(total=Budget(tokens=300)))
    answers, _ = at_once(served, headers, 64, max_tokens=20)
    used = sum(answer.json()["usage"]["total_tokens"] for answer in answers if answer.status_code == 200)
    refused = [answer for answer in answers if answer.status_code != 200]
    estimate = 20 + 4 + len("Number 1") // 4 + 1  # at least: a reply, what is around a message, the message
    assert 0 < len(answers) - len(refused) <= 300 // estimate and used > 0
    for answer in refused:
        assert answer.status_code == 429 and answer.json()["error"]["code"] == "insufficient_quota"
        assert answer.headers["x-should-retry"] == "false"
    key = desk.rows("SELECT id FROM keys WHERE name = 'poor'")[0]["id"]
    assert desk.rows(f"SELECT sum(prompt + output) AS used FROM ledger WHERE key = '{key}'") == [{"used": used}]


def test_each_request_leaves_one_row_with_what_it_used_and_its_price(desk: Desk, served: Served):
    headers = desk.key("payer", workspace="team")
    whole = served.client.post(CHAT, json=chat("What does it cost?"), headers=headers)
    served.client.post(CHAT, json=chat("What does it cost?", stream=True), headers=headers).read()
    assert served.client.post(CHAT, json=chat(max_tokens=-1), headers=headers).status_code == 400
    used = whole.json()["usage"]
    key = desk.rows("SELECT id FROM keys WHERE name = 'payer'")[0]["id"]
    first, second = desk.rows(f"SELECT * FROM ledger WHERE key = '{key}' ORDER BY time")
    assert first["id"] == whole.headers["x-request-id"] and first["workspace"] == "team" and first["dialect"] == "chat"
    assert (first["prompt"], first["output"]) == (used["prompt_tokens"], used["completion_tokens"])
    assert first["cached"] == used["prompt_tokens_details"]["cached_tokens"] and second["output"] == first["output"]
    for row in (first, second):
        assert row["micro"] == (row["prompt"] - row["cached"]) * 2 + row["cached"] + row["output"] * 8
        assert row["finish"] in ("stop", "length") and 0 <= row["wait_ms"] <= row["first_ms"] <= row["total_ms"]
    shown = {row["key"]: row for row in json.loads(desk.octavo("usage", "--json"))}
    assert shown["payer"]["micro"] == first["micro"] + second["micro"] and shown["payer"]["requests"] == 2
    assert "payer" in desk.octavo("usage") and "mini" in desk.octavo("usage", "--by", "model")


def test_limits_change_while_the_server_runs(desk: Desk, served: Served):
    text = desk.octavo("keys", "create", "changing", "--rpm", "1", "--monthly", "5.00")
    headers = {"authorization": f"Bearer {text}"}
    assert [served.client.post(CHAT, json=chat(), headers=headers).status_code for _ in range(2)] == [200, 429]
    desk.octavo("keys", "limits", "changing", "--rpm", "100")
    time.sleep(1.1)
    assert served.client.post(CHAT, json=chat(), headers=headers).status_code == 200
    assert "100 rpm, 5.00 a month" in desk.octavo("keys", "list")


def test_a_client_that_leaves_pays_for_what_was_written_until_then(desk: Desk, served: Served):
    headers = desk.key("leaver")
    with httpx.Client(base_url=served.url, headers=headers) as client:
        body = chat("Tell me all", max_tokens=3000, logit_bias=without_end(client, "mini"))
        with client.stream("POST", CHAT, json={**body, "stream": True}) as answer:
            lines = answer.iter_lines()
            for _ in range(10):
                next(lines)
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=body, timeout=0.3)
    key = desk.rows("SELECT id FROM keys WHERE name = 'leaver'")[0]["id"]
    end_s = time.monotonic() + 10
    while time.monotonic() < end_s:
        rows = desk.rows(f"SELECT * FROM ledger WHERE key = '{key}'")
        if len(rows) == 2 and all(row["finish"] for row in rows):
            break
        time.sleep(0.1)
    assert [row["finish"] for row in rows] == ["cancelled"] * 2
    assert all(row["prompt"] > 0 and 0 < row["output"] < 3000 for row in rows)


def test_a_first_token_that_shows_nothing_yet_counts_as_one(desk: Desk, served: Served):
    """A tool call is told when it is whole: until then its tenant's next prompt need not wait."""
    headers = desk.key("caller")
    tool = {"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"x": {"type": "string", "minLength": 40}}, "required": ["x"]}}}  # fmt: skip
    body = chat(tools=[tool], tool_choice="required", max_tokens=400, enable_thinking=False)
    for _ in range(2):  # at the first, the grammar is compiled and the prompt computed
        assert served.client.post(CHAT, json=body, headers=headers).status_code == 200
    key = desk.rows("SELECT id FROM keys WHERE name = 'caller'")[0]["id"]
    _, row = desk.rows(f"SELECT * FROM ledger WHERE key = '{key}' ORDER BY time")
    assert row["output"] > 20 and row["first_ms"] < row["total_ms"] / 2


def test_prompts_that_are_shown_or_counted_are_requests_of_the_limit_too(desk: Desk, served: Served):
    headers = desk.key("counter", terms=Terms(limits=Limits(rpm=3)))
    bodies = {"/tokenize": {"model": "mini", "prompt": "Hello"}, "/detokenize": {"model": "mini", "tokens": [5]},
              f"{CHAT}/render": chat(), "/v1/messages/count_tokens": chat()}  # fmt: skip
    statuses = [served.client.post(path, json=body, headers=headers).status_code for path, body in bodies.items()]
    assert statuses == [200, 200, 200, 429]
    assert served.client.post(CHAT, json=chat(), headers=headers).status_code == 429
    key = desk.rows("SELECT id FROM keys WHERE name = 'counter'")[0]["id"]
    assert desk.rows(f"SELECT id FROM ledger WHERE key = '{key}'") == []
