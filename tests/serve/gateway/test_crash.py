"""kill -9 of a real server: the ledger is exact afterwards, and batches go on where they were."""

import json
import signal
import threading
import time

import httpx

from octavo.serve.gateway.state import State
from tests.serve.gateway.desk import Desk, chat, jsonl
from tests.serve.mini import mini_random
from tests.serve.serving import serving

CHAT = "/v1/chat/completions"


def ask_until_it_falls(url: str, key: dict[str, str], seen: list[tuple[str, int]], began: list[str]) -> None:
    """Notes every id whose response began, and (id, tokens) of those whose end was seen."""
    with httpx.Client(base_url=url, timeout=30, headers=key) as client:
        for number in range(10_000):
            body = chat(f"Number {number}", max_tokens=1 + number % 9, stream=True, seed=number,
                        stream_options={"include_usage": True})  # fmt: skip
            try:
                with client.stream("POST", CHAT, json=body) as answer:
                    began.append(answer.headers["x-request-id"])
                    lines = [line for line in answer.iter_lines() if line.startswith("data: {")]
                seen.append((began[-1], json.loads(lines[-1][6:])["usage"]["completion_tokens"]))
            except httpx.HTTPError:
                return


def test_after_kill_9_each_request_is_in_the_ledger_once_and_none_whose_end_was_seen_is_lost(fresh: Desk):
    keys, seen, began = [fresh.key(f"k{i}") for i in range(6)], [[] for _ in range(6)], [[] for _ in range(6)]
    model = [f"mini={mini_random()}"]
    with serving(model, folder=fresh.folder, key=keys[0]) as served:
        threads = [
            threading.Thread(target=ask_until_it_falls, args=(served.url, *one))
            for one in zip(keys, seen, began, strict=True)
        ]
        for thread in threads:
            thread.start()
        time.sleep(1.5)
        served.stop(sign=signal.SIGKILL)
        for thread in threads:
            thread.join()
    assert sum(map(len, seen)) > 20
    with serving(model, folder=fresh.folder, wait=False) as served:
        rows = {row["id"]: row for row in fresh.rows("SELECT * FROM ledger")}
        assert all(row["finish"] for row in rows.values()), "what was open is closed when a server starts"
        for id, tokens in (one for some in seen for one in some):
            assert rows[id]["finish"] in ("stop", "length") and rows[id]["output"] == tokens
        ended = {id for some in seen for id, _ in some}
        cut = {id for some in began for id in some} - ended
        assert all(id in rows for id in cut), "of what had begun to be answered there is a row"
        lost = [row for row in rows.values() if row["finish"] == "lost"]
        assert all(row["output"] == 0 and row["micro"] == 0 for row in lost) and len(rows) <= len(ended) + 6
        served.stop()
    assert {row["id"]: row for row in fresh.rows("SELECT * FROM ledger")} == rows, "a clean end changes nothing"


def test_a_batch_goes_on_after_kill_9_and_no_line_that_was_done_is_done_again(fresh: Desk):
    key, model = fresh.key("owner"), [f"mini={mini_random()}"]
    with serving(model, folder=fresh.folder, key=key) as served:
        file = served.client.post("/v1/files?purpose=batch", content=jsonl(120), headers=key).json()["id"]
        asked = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        id = served.client.post("/v1/batches", json=asked, headers=key).json()["id"]
        while len(fresh.rows("SELECT 1 FROM lines")) < 20:
            time.sleep(0.01)
        served.stop(sign=signal.SIGKILL)
    done = {row["line"]: row["result"] for row in fresh.rows("SELECT * FROM lines")}
    assert 20 <= len(done) < 120
    with serving(model, folder=fresh.folder, key=key) as served:
        end_s = time.monotonic() + 60
        while (batch := served.client.get(f"/v1/batches/{id}", headers=key).json())["status"] != "completed":
            assert time.monotonic() < end_s, batch
            time.sleep(0.05)
        result = served.client.get(f"/v1/files/{batch['output_file_id']}/content", headers=key).content
    lines = result.splitlines(keepends=True)
    assert [json.loads(line)["custom_id"] for line in lines] == [f"c{i}" for i in range(120)]
    assert all(lines[number - 1] == kept for number, kept in done.items()), "what was done stayed as it was"
    assert batch["request_counts"] == {"total": 120, "completed": 120, "failed": 0}
    settled = fresh.rows("SELECT count(*) AS n FROM ledger WHERE batch AND finish IN ('stop', 'length')")[0]["n"]
    assert 120 <= settled <= 128, "only lines that were on their way were asked twice"


def test_sigterm_under_load_loses_no_accepted_request_and_no_row(fresh: Desk):
    keys, seen, began = [fresh.key(f"k{i}") for i in range(4)], [[] for _ in range(4)], [[] for _ in range(4)]
    with serving([f"mini={mini_random()}"], folder=fresh.folder, key=keys[0]) as served:
        threads = [
            threading.Thread(target=ask_until_it_falls, args=(served.url, *one))
            for one in zip(keys, seen, began, strict=True)
        ]
        for thread in threads:
            thread.start()
        time.sleep(1)
        served.stop()
        for thread in threads:
            thread.join()
    rows = {row["id"]: row for row in fresh.rows("SELECT * FROM ledger")}
    assert {id for some in began for id in some} == {id for some in seen for id, _ in some}, (
        "all that began came to an end"
    )
    assert {id: row["output"] for id, row in rows.items()} == dict(one for some in seen for one in some)


def test_a_batch_whose_window_is_over_gives_what_was_done_and_says_so_of_the_rest(fresh: Desk):
    key, model = fresh.key("late"), [f"mini={mini_random()}"]
    with serving(model, folder=fresh.folder, key=key) as served:
        form = {"purpose": (None, "batch"), "file": ("in.jsonl", jsonl(3), "application/jsonl")}
        file = served.client.post("/v1/files", files=form, headers=key).json()["id"]
        asked = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        wrong = served.client.post("/v1/batches", json={**asked, "completion_window": "1h"}, headers=key)
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "completion_window"
        batch = served.client.post("/v1/batches", json=asked, headers=key).json()
        assert batch["expires_at"] == batch["created_at"] + 24 * 3600
        served.stop(sign=signal.SIGKILL)
    db = State(fresh.folder).connect()
    db.execute("DELETE FROM lines")
    late = {**batch, "status": "in_progress", "expires_at": batch["created_at"] - 1}
    db.execute("UPDATE batches SET state = 'in_progress', value = ?", (json.dumps(late),))
    db.execute("INSERT INTO lines VALUES (?, 2, 1, ?)", (batch["id"], b'{"custom_id": "done"}\n'))
    db.close()
    with serving(model, folder=fresh.folder, key=key) as served:
        end_s = time.monotonic() + 20
        while (found := served.client.get(f"/v1/batches/{batch['id']}", headers=key).json())["status"] != "expired":
            assert time.monotonic() < end_s, found
            time.sleep(0.05)
        assert found["expired_at"] and found["request_counts"] == {"total": 0, "completed": 1, "failed": 2}
        left = served.client.get(f"/v1/files/{found['error_file_id']}/content", headers=key).text.splitlines()
        assert [json.loads(line)["error"]["code"] for line in left] == ["batch_expired"] * 2
        assert [json.loads(line)["custom_id"] for line in left] == ["c0", "c2"]
