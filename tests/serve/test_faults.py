"""What goes wrong, and what stays right: engines that die, clients that leave, servers that are told to stop."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from bench.storms import faults, storm
from tests.serve.mini import mini_random
from tests.serve.serving import Served, serving

LONG = {"model": "mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 600, "seed": 1,
        "temperature": 1, "logit_bias": {}, "stream": True}  # fmt: skip


def host_pid(served: Served) -> int:
    """The engine's process."""
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
    return int(children[0])


def events(response: httpx.Response) -> list[object]:
    return [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]


def test_an_engine_that_is_killed_is_missed_at_once_and_comes_again(tmp_path: Path):
    with serving([f"mini={mini_random()}"], folder=tmp_path) as served:
        first = host_pid(served)
        with served.client.stream("POST", "/v1/chat/completions", json=LONG) as response:
            lines = response.iter_lines()
            next(lines)
            os.kill(first, signal.SIGKILL)
            killed_s = time.monotonic()
            rest = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert rest[-1]["error"]["type"] == "server_error" and "again" in rest[-1]["error"]["message"]
        while served.client.get("/health/ready").status_code == 200:
            assert time.monotonic() - killed_s < 1
        served.ready(key={})
        assert host_pid(served) != first
        short = {**LONG, "stream": False, "max_tokens": 3}
        assert served.client.post("/v1/chat/completions", json=short).status_code == 200


def test_told_to_stop_it_finishes_what_it_began(tmp_path: Path):
    with serving([f"mini={mini_random()}"], folder=tmp_path) as served:
        ends: list[str] = []

        def ask() -> None:
            body = {**LONG, "max_tokens": 200}
            with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, timeout=60) as response:
                ends.append([line for line in response.iter_lines() if line][-1])

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert served.stop() == 0
        for thread in threads:
            thread.join()
        assert ends == ["data: [DONE]"] * 8


def test_clients_that_leave_at_any_moment_leave_nothing_behind(tmp_path: Path):
    """No job, page or descriptor; the same answer. `bench.storms` has a thousand leave, and looks at memory too."""
    with serving([f"mini={mini_random()}"], folder=tmp_path) as served:
        found = storm(served, 28)
    assert not set(faults(found)) - {"memory grew"}, found
    assert found["heard_something"]["in the answer"] == found["ways"]["in the answer"] == 4


def test_models_make_room_for_each_other(tmp_path: Path):
    names = [f"{name}={mini_random()}" for name in ("one", "two")]
    body = {"messages": LONG["messages"], "max_tokens": 2}
    with serving(names, folder=tmp_path, options=["--memory", "0.2"]) as served:
        states = lambda: {m["id"]: m["state"] for m in served.client.get("/v1/models").json()["data"]}  # noqa: E731
        assert states() == {"one": "ready", "two": "cold"}
        answer = served.client.post("/v1/chat/completions", json={**body, "model": "two"})
        assert answer.is_success, answer.text
        assert states() == {"one": "cold", "two": "ready"}
        assert served.client.post("/v1/chat/completions", json={**body, "model": "one"}).json()["model"] == "one"
        assert served.client.post("/v1/chat/completions", json={**body, "model": "three"}).status_code == 404


def test_a_model_that_nobody_asks_is_let_go_and_comes_again(tmp_path: Path):
    with serving([f"mini={mini_random()}"], folder=tmp_path, options=["--keep-alive", "0.3"]) as served:
        end_s = time.monotonic() + 10
        while served.client.get("/v1/models").json()["data"][0]["state"] != "cold":
            assert time.monotonic() < end_s
            time.sleep(0.05)
        assert served.client.post("/v1/chat/completions", json={**LONG, "stream": False, "max_tokens": 2}).is_success


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_behind_the_server_says_the_same(tmp_path: Path, stream: bool):
    (tmp_path / "far").mkdir()
    with serving([f"mini={mini_random()}"], folder=tmp_path / "far") as far:
        near_models = [f"near={mini_random()}", f"far={far.url}/v1"]
        with serving(near_models, folder=tmp_path) as served:
            said = []
            for model in ("near", "far"):
                body = {**LONG, "model": model, "max_tokens": 40, "thinking_budget": 5, "stream": stream,
                        "stream_options": {"include_usage": True}}  # fmt: skip
                answer = served.client.post("/v1/chat/completions", json=body)
                assert answer.is_success, answer.text
                said.append(told(answer.text) if stream else told_whole(answer.json()))
            assert said[0] == said[1] and said[0][2]["completion_tokens"] == 40


def told(text: str) -> tuple[str, str, dict[str, int]]:
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    thought = "".join(d.get("reasoning") or "" for d in deltas)
    return thought, "".join(d.get("content") or "" for d in deltas), counted(chunks[-1]["usage"])


def told_whole(body: dict) -> tuple[str, str, dict[str, int]]:
    message = body["choices"][0]["message"]
    return message.get("reasoning") or "", message["content"] or "", counted(body["usage"])


def counted(usage: dict) -> dict[str, int]:
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    return {**{key: usage[key] for key in ("prompt_tokens", "completion_tokens")}, "reasoning": reasoning}


def test_a_model_that_cannot_be_loaded_is_told_to_who_runs_the_server_and_no_path_to_clients(tmp_path: Path):
    with serving([f"gone={tmp_path}/gone", f"mini={mini_random()}"], folder=tmp_path, wait=False) as served:
        answer = served.client.post("/v1/chat/completions", json={**LONG, "model": "gone", "stream": False})
        assert answer.status_code == 500 and "its log" in answer.json()["error"]["message"]
        assert str(tmp_path) not in answer.text and f"{tmp_path}/gone" in served.log.read_text()
        other = served.client.post("/v1/chat/completions", json={**LONG, "stream": False, "max_tokens": 2})
        assert other.is_success, other.text
