"""Rollouts by a real server that reads the weights again before each: what is learnt is what was sampled there."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from octavo.chat.token_server import TokenServer
from octavo.core.errors import HubError, OctavoError
from octavo.core.sampling import Sampling, Thinking
from octavo.train.curriculum import Curriculum
from octavo.train.far import FarChat, Reload
from octavo.train.models import write_model
from octavo.train.policy import Asking, Policy
from octavo.train.recipes import recipe
from octavo.train.rollout import How, rollout, to_sample
from octavo.train.run import Run, Silent, read_log
from octavo.train.settings import read_settings
from octavo.train.trainer import Trainer
from tests.serve.mini import config
from tests.serve.serving import Served, serving
from tests.train.guesses import TASKS, guesser, problems, words
from tests.train.test_rl import HOW, pose, red


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    folder = tmp_path_factory.mktemp("far")
    write_model(folder / "rl.served", guesser(), config=config(), tokenizer=words()[0])
    with serving([f"{folder}/rl.served"], folder=folder, options=["--reload"]) as server:
        yield server, folder


def far(served: tuple[Served, Path]) -> FarChat:
    (tokenizer, form), (server, folder) = words(), served
    return FarChat(guesser(), tokenizer=tokenizer, form=form, config=config(), folder=folder / "rl.served",
                   servers=[f"{server.url}/v1#rl.served"])  # fmt: skip


def test_reward_rises_as_with_our_own_engine(served: tuple[Served, Path], tmp_path: Path):
    mine = far(served)
    asking = Asking(queries=12, how=How(replies=8, sampling=Sampling(max_tokens=24), seed=3), tokens=8192)
    policy = Policy(mine, Curriculum({"say": [1]}), clipping="dapo", asking=asking, tasks=TASKS, pose=pose, reward=red)
    run = Run(tmp_path / "run", Trainer(mine.model, policy, HOW, bf16=False), settings={})
    run.go(lambda step: policy.batches(step, run.told), steps=8)
    figures = [line.figures for line in run.told]
    assert figures[-1]["reward"] > figures[0]["reward"] + 0.3
    # had the server not read the weights again, its probabilities would be those of the first step
    assert max(line["gap"] for line in figures) < 0.03 and abs(figures[-1]["ratio"] - 1) < 0.03


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_budgets_are_kept_here_whatever_the_server_does(budget: int, served: tuple[Served, Path]):
    chat = far(served).refresh()
    asked = [replace(one, thinking=Thinking(mode="on", budget_tokens=budget)) for one in problems(12)]
    done = rollout(chat, asked, tasks=TASKS, how=How(replies=2, sampling=Sampling(max_tokens=60)))
    cut = 0
    for one in done:
        for turn in one.turns:
            assert turn.usage.thinking_tokens - turn.usage.closing_tokens <= budget
            assert sum(p != p for p in turn.logprobs) == turn.usage.forced_tokens
            cut += turn.usage.thinking_stop == "budget"
    assert cut or budget == 0
    assert to_sample(done[0]).weights.any()


def test_only_a_server_that_was_told_so_reads_a_model_again(served: tuple[Served, Path], tmp_path: Path):
    server, folder = served
    again = server.client.post("/v1/models/rl.served/reload", json={})
    assert again.status_code == 200 and again.json()["state"] == "ready"
    assert server.client.post("/v1/models/other/reload", json={}).status_code == 404
    with serving([f"{folder}/rl.served"], folder=tmp_path, wait=False) as another:
        refused = another.client.post("/v1/models/rl.served/reload", json={})
        assert refused.status_code == 403 and "--reload" in refused.json()["error"]["message"]


def test_one_seed_gives_the_same_replies_whatever_the_order(served: tuple[Served, Path]):
    chat, asked = far(served).refresh(), problems(8)
    how = How(sampling=Sampling(max_tokens=24), seed=5)
    once = rollout(chat, asked, tasks=TASKS, how=how)
    again = rollout(chat, asked[::-1], tasks=TASKS, how=how)[::-1]
    assert [[t.tokens for t in one.turns] for one in once] == [[t.tokens for t in one.turns] for one in again]


def test_the_recipe_asks_servers_and_goes_on_with_others(served: tuple[Served, Path], tmp_path: Path):
    server, folder = served
    write_model(folder / "model", guesser(), config=config(), tokenizer=words()[0])

    def go(*more: str) -> Path:
        told = [f"model={folder}/model", f"out={folder}/rl", "longest=24", 'tasks={"retrieval": [1], "tools": [1]}',
                "queries=3", "replies=4", *more]  # fmt: skip
        return recipe("rl").run(read_settings(recipe("rl").Settings, told, recipe="rl"), progress=Silent())

    with pytest.raises(HubError, match="cannot be reached"):
        go("steps=2", 'servers=["http://127.0.0.1:9/v1#rl.served"]')
    with serving([f"{folder}/rl.served"], folder=tmp_path, options=["--reload"]) as other:
        out = go("steps=2", f'servers=["{server.url}/v1#rl.served", "{other.url}/v1#rl.served"]')
        assert all("/v1/completions" in one.log.read_text() for one in (server, other))
    assert len(read_log(folder / "rl.run")) == 2 and go("steps=2") == out


@pytest.mark.parametrize("address", ["http://127.0.0.1:8000/v1", "127.0.0.1:8000/v1#a", "http://[::1/v1#a", ""])
def test_an_address_that_is_none_is_refused_with_what_one_looks_like(address: str):
    with pytest.raises(HubError, match=r"write http://HOST:PORT/v1#NAME"):
        TokenServer(address)


@contextmanager
def saying(choice: dict[str, Any]) -> Iterator[str]:
    """A server that answers everything with one choice."""

    class Says(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            body = json.dumps({"choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Says)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1#any"
    finally:
        server.shutdown()


@pytest.mark.parametrize(("choice", "found"), [
    ({"text": "red"}, "0 token ids and 0 log-probabilities"),
    ({"text": "red", "token_ids": [5, 6], "logprobs": {"token_logprobs": [-1.0]}}, "2 token ids and 1"),
    ({"token_ids": [5], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "stop"}, "token that ends"),
])  # fmt: skip
def test_a_server_that_leaves_out_what_is_needed_is_refused(choice: dict[str, Any], found: str, tmp_path: Path):
    (tokenizer, form) = words()
    with saying(choice) as address:
        chat = FarChat(guesser(), tokenizer=tokenizer, form=form, config=config(), folder=tmp_path / "served",
                       servers=[address], reload=Reload(path="/anything")).refresh()  # fmt: skip
        with pytest.raises(OctavoError, match=found):
            rollout(chat, problems(1), tasks=TASKS, how=How(sampling=Sampling(max_tokens=24)))
