"""What keys know of each other: nothing. Names of workspaces are free text."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request

from octavo.serve.asides import Control
from octavo.serve.errors import Refusal
from octavo.serve.gate import OpenGate, Tenant
from octavo.serve.gateway.gateway import INSIDE, Gateway, Options
from tests.serve.gateway.desk import Desk, chat, jsonl
from tests.serve.gateway.test_batches import CHAT, run
from tests.serve.serving import Served


def test_a_salt_reaches_into_no_other_workspace(desk: Desk, served: Served):
    inner, outer = desk.key("inner", workspace="acme/secret"), desk.key("outer", workspace="acme")
    words = "a very particular secret of ours, told nobody else " * 8

    def cached(key: dict[str, str], salt: str) -> int:
        used = served.client.post(CHAT, json=chat(words, cache_salt=salt), headers=key).json()["usage"]
        return used["prompt_tokens_details"]["cached_tokens"]

    assert cached(inner, "") == 0 and cached(inner, "") > 30
    assert cached(outer, "secret/") == 0 and cached(outer, "secret/") > 30


def test_spaces_and_salts_make_different_pairs():
    pairs = [("a", "b/c"), ("a/b", "c"), ("", "a/b/c"), ("1:a", "b"), ("a/b/c", "")]
    assert len({Tenant(space=space).within(salt) for space, salt in pairs}) == len(pairs)


@pytest.mark.parametrize("workspace", ["two words", "Käse 猫 %20", "100%"])
def test_batches_of_any_workspace_are_done(desk: Desk, served: Served, workspace: str):
    key = desk.key(f"of {workspace}", workspace=workspace)
    batch = run(served, key, jsonl(2))
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


def test_a_batch_without_keys_keeps_its_space(fresh: Desk):
    gateway = Gateway(Options(folder=fresh.folder), default="m")
    tenant = gateway.identify({INSIDE: f"{gateway.secret}  workspace:K%C3%A4se%20x"})
    assert tenant.space == "workspace:Käse x" and tenant.batch
    gateway.close()


def test_a_key_sees_its_own_tokens_in_the_metrics(desk: Desk, served: Served):
    one, other = desk.key("m1"), desk.key("m2")
    for key in (one, other):
        assert served.client.post(CHAT, json=chat(), headers=key).status_code == 200
    pages = [served.client.get("/metrics", headers=key).text for key in (one, other)]
    shown = [{line.split('"')[1] for line in page.splitlines() if line.startswith("octavo:tenant_tokens_total")}
             for page in pages]  # fmt: skip
    assert len(shown[0]) == len(shown[1]) == 1 and shown[0] != shown[1]
    assert served.client.get("/metrics").status_code == 401


def test_embeddings_are_counted(desk: Desk, served: Served):
    key = desk.key("embedder")
    used = served.client.post("/v1/embeddings", json={"input": "Hello there"}, headers=key).json()["usage"]
    question = {"type": "predicate", "instructions": "It is a greeting."}
    asked = {"input": "Hello", "questions": [question]}
    used_too = served.client.post("/v1/decisions", json=asked, headers=key).json()["usage"]
    page = served.client.get("/metrics", headers=key).text
    (prompt,) = [line.split()[-1] for line in page.splitlines()
                 if line.startswith("octavo:tenant_tokens_total") and 'kind="prompt"' in line]  # fmt: skip
    assert float(prompt) == used["prompt_tokens"] + used_too["input_tokens"]


def test_a_model_is_not_read_again_while_others_use_it():
    """The requests that run on it would end."""
    seen: list[str] = []

    async def reload(name: str) -> Any:
        seen.append(name)
        return SimpleNamespace(name=name, state="ready", facts={})

    def find(name: str) -> Any:
        return SimpleNamespace(name=name)

    models = SimpleNamespace(find=find, reload=reload)
    running = SimpleNamespace(tenant=Tenant(key="a"), job=SimpleNamespace(model="m"))
    desk = SimpleNamespace(models=models, gate=OpenGate(), doing={"1": running})
    control = Control(cast(Any, desk))
    request = Request({"type": "http", "path_params": {"name": "m"}, "headers": []})
    with pytest.raises(Refusal) as refused:
        asyncio.run(control.reload(request, Tenant(key="b")))
    assert refused.value.status == 503 and not seen
    assert asyncio.run(control.reload(request, Tenant(key="a")))["id"] == "m"
    running.job.model = "other"
    asyncio.run(control.reload(request, Tenant(key="b")))
    assert seen == ["m", "m"]
