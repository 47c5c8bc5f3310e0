"""Files and batches over HTTP: OpenAI's shapes, half the price, each tenant for itself."""

import json
import time
from pathlib import Path
from typing import Any

from tests.serve.gateway.desk import Desk, chat, jsonl
from tests.serve.serving import Served

CHAT = "/v1/chat/completions"


def run(served: Served, key: dict[str, str], data: bytes, *, endpoint: str = CHAT) -> dict[str, Any]:
    """A batch, once it is over."""
    form = {"purpose": (None, "batch"), "file": ("in.jsonl", data, "application/jsonl")}
    file = served.client.post("/v1/files", files=form, headers=key)
    assert file.status_code == 200, file.text
    asked = {
        "input_file_id": file.json()["id"],
        "endpoint": endpoint,
        "completion_window": "24h",
        "metadata": {"a": "b"},
    }
    batch = served.client.post("/v1/batches", json=asked, headers=key).json()
    end_s = time.monotonic() + 60
    while batch["status"] not in ("completed", "failed", "cancelled"):
        assert time.monotonic() < end_s, batch
        time.sleep(0.05)
        batch = served.client.get(f"/v1/batches/{batch['id']}", headers=key).json()
    return batch


def lines_of(served: Served, key: dict[str, str], file: str) -> list[Any]:
    return [json.loads(line) for line in served.client.get(f"/v1/files/{file}/content", headers=key).text.splitlines()]


def test_a_batch_gives_what_single_requests_give_at_half_the_price(desk: Desk, served: Served):
    key, single = desk.key("batcher"), desk.key("single")
    bad = {"custom_id": "bad", "method": "POST", "url": CHAT, "body": chat(temperature=-1)}
    batch = run(served, key, jsonl(5) + json.dumps(bad).encode())
    assert batch["request_counts"] == {"total": 6, "completed": 5, "failed": 1} and batch["metadata"] == {"a": "b"}
    results = lines_of(served, key, batch["output_file_id"])
    for i, result in enumerate(results):
        alone = served.client.post(CHAT, json=chat(f"Number {i}"), headers=single).json()
        body = result["response"]["body"]
        assert result["custom_id"] == f"c{i}" and result["error"] is None and result["response"]["status_code"] == 200
        assert body["choices"] == alone["choices"] and body["usage"]["total_tokens"] == alone["usage"]["total_tokens"]
    (failed,) = lines_of(served, key, batch["error_file_id"])
    assert failed["custom_id"] == "bad" and failed["response"]["status_code"] == 400
    for row in desk.rows("SELECT * FROM ledger WHERE batch"):
        assert row["micro"] == round(((row["prompt"] - row["cached"]) * 2 + row["cached"] + row["output"] * 8) / 2)


def test_a_file_that_is_no_batch_fails_with_the_line_and_why(desk: Desk, served: Served):
    key = desk.key("wrong")
    lines = [
        {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {}},
        {"custom_id": "b", "method": "GET", "url": CHAT, "body": {}},
        {"custom_id": "c", "method": "POST", "url": CHAT, "body": {"stream": True}},
        {"custom_id": "d", "method": "POST", "url": CHAT, "body": {}},
        {"custom_id": "d", "method": "POST", "url": CHAT, "body": {}},
    ]
    batch = run(served, key, b"".join(json.dumps(line).encode() + b"\n" for line in lines) + b"{")
    assert batch["status"] == "failed" and batch["output_file_id"] is None
    found = [(error["line"], error["code"]) for error in batch["errors"]["data"]]
    assert found == [(1, "mismatched_endpoint"), (2, "invalid_json_line"), (3, "invalid_request"),
                     (5, "duplicate_custom_id"), (6, "invalid_json_line")]  # fmt: skip
    assert run(served, key, b"\n\n")["errors"]["data"][0]["code"] == "invalid_line_count"


def test_files_and_batches_are_for_their_owner_alone(desk: Desk, served: Served):
    one, mate, other = desk.key("w1", workspace="w"), desk.key("w2", workspace="w"), desk.key("z")
    batch = run(served, one, jsonl(1))
    places = [f"/v1/files/{batch['input_file_id']}", f"/v1/files/{batch['output_file_id']}/content",
              f"/v1/batches/{batch['id']}"]  # fmt: skip
    for place in places:
        assert served.client.get(place, headers=one).status_code == 200
        assert served.client.get(place, headers=mate).status_code == 200, "a workspace shares"
        assert served.client.get(place, headers=other).status_code == 404
        assert served.client.get(place).status_code == 401
    assert served.client.delete(places[0], headers=other).status_code == 404
    assert served.client.get("/v1/files", headers=other).json()["data"] == []
    assert served.client.get("/v1/batches", headers=other).json()["data"] == []
    asked = {"input_file_id": batch["input_file_id"], "endpoint": CHAT}
    assert served.client.post("/v1/batches", json=asked, headers=other).status_code == 404
    assert served.client.delete(places[0], headers=one).json()["deleted"]
    assert served.client.get(places[0], headers=one).status_code == 404


def test_lists_come_in_pages(desk: Desk, served: Served):
    key = desk.key("pages")
    made = [served.client.post("/v1/files?purpose=p", content=b"x", headers=key).json()["id"] for _ in range(5)]
    first = served.client.get("/v1/files?limit=3", headers=key).json()
    rest = served.client.get(f"/v1/files?limit=3&after={first['last_id']}", headers=key).json()
    assert [f["id"] for f in first["data"] + rest["data"]] == made[::-1] and (first["has_more"], rest["has_more"]) == (
        True,
        False,
    )
    for wrong in ("0", "x", "-1", "9" * 30):
        assert served.client.get(f"/v1/files?limit={wrong}", headers=key).status_code in (200, 400)


def test_uploads_that_are_broken_leave_nothing_behind(desk: Desk, served: Served):
    key, before = desk.key("breaker"), sorted((desk.folder / "files").iterdir())
    form = {"content-type": "multipart/form-data; boundary=b", **key}
    for body in (b"", b"--b", b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nhalf', b"--b--"):
        assert served.client.post("/v1/files", content=body, headers=form).status_code == 400
    assert served.client.post("/v1/files", content=b"x", headers=key).status_code == 400, "a purpose is needed"
    name = {"file": ("../../evil", b"x", "text/plain"), "purpose": (None, "batch")}
    made = served.client.post("/v1/files", files=name, headers=key).json()
    left = set((desk.folder / "files").iterdir()) - set(before)
    assert left == {desk.folder / "files" / made["id"]}, "a name names no place"


def test_a_batch_is_cancelled_and_keeps_what_it_did(desk: Desk, served: Served):
    key = desk.key("canceller")
    file = served.client.post("/v1/files?purpose=batch", content=jsonl(300, max_tokens=60), headers=key).json()["id"]
    id = served.client.post("/v1/batches", json={"input_file_id": file, "endpoint": CHAT}, headers=key).json()["id"]
    while not desk.rows(f"SELECT 1 FROM lines WHERE batch = '{id}'"):
        time.sleep(0.01)
    assert served.client.post(f"/v1/batches/{id}/cancel", headers=key).json()["status"] == "cancelling"
    while (batch := served.client.get(f"/v1/batches/{id}", headers=key).json())["status"] == "cancelling":
        time.sleep(0.02)
    assert batch["status"] == "cancelled" and 0 < batch["request_counts"]["completed"] < 300
    assert len(lines_of(served, key, batch["output_file_id"])) == batch["request_counts"]["completed"]
    assert served.client.post(f"/v1/batches/{id}/cancel", headers=key).status_code == 400


def test_the_verbs_submit_wait_and_print(desk: Desk, served: Served, tmp_path: Path):
    key = desk.key("verbs")["authorization"].removeprefix("Bearer ")
    file = tmp_path / "in.jsonl"
    file.write_bytes(jsonl(3))
    printed = desk.octavo("batch", "submit", str(file), "--url", served.url, "--wait", key=key)
    assert [json.loads(line)["custom_id"] for line in printed.splitlines()] == ["c0", "c1", "c2"]
    id = desk.octavo("batch", "submit", str(file), "--url", served.url, key=key)
    assert "of 3 done" in desk.octavo("batch", "status", id, "--url", served.url, key=key)
    assert "there is no batch" in desk.octavo("batch", "status", "batch_x", "--url", served.url, key=key, code=1)
