"""The dialects on a real server: the same seed says the same in all of them, and requests obey while they run."""

import json
import time
from collections.abc import Iterator
from shutil import copytree
from threading import Thread
from typing import Any

import pytest

from octavo.serve import events
from octavo.serve.asides import running
from octavo.serve.errors import Refusal
from octavo.serve.gate import OpenGate, OpenTicket, Tenant
from octavo.serve.http import Desk, Doing
from octavo.serve.job import Job
from octavo.serve.link import Open
from octavo.serve.models import Models
from octavo.serve.stream import Stream
from tests.serve.accumulate import sent
from tests.serve.asking import Case, ask, cases, without_end
from tests.serve.mini import mini_random
from tests.serve.serving import Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server: "mini" thinks when it likes, "mini-thinking" always."""
    folder = tmp_path_factory.mktemp("dialects")
    copytree(mini_random(), folder / "mini-thinking")
    with serving([f"mini={mini_random()}", str(folder / "mini-thinking")], folder=folder) as found:
        yield found


@pytest.mark.parametrize("case", cases(4, seed=1), ids=str)
def test_one_seed_says_the_same_in_every_dialect_streamed_or_not(served: Served, case: Case):
    answers = {(dialect, stream): ask(served.client, case, dialect=dialect, stream=stream)
               for dialect in case.dialects for stream in (False, True)}  # fmt: skip
    first = next(iter(answers.values()))
    assert first.usage[2] > 0
    assert all(answer == first for answer in answers.values()), answers


def test_a_budget_holds_in_every_dialect(served: Served):
    for case in cases(4, seed=2, thinking=True):
        for dialect in case.dialects:
            reasoning = ask(served.client, case, dialect=dialect, stream=True).usage[3]
            assert reasoning <= case.most_reasoning, (case, dialect)


@pytest.mark.parametrize(("switch", "most"), [({"enable_thinking": False}, 0), ({"thinking_budget": 5}, 5)])
def test_a_model_that_wants_to_think_is_held_to_what_it_may(served: Served, switch: dict[str, Any], most: int):
    opening = served.client.post("/tokenize", json={"model": "mini", "prompt": "<think>"}).json()["tokens"]
    wish = {**without_end(served.client, "mini"), **{str(id): 100.0 for id in opening}}
    body = {"model": "mini", "messages": LONG["messages"], "max_tokens": 60, "logit_bias": wish, **switch}
    answer = served.client.post("/v1/chat/completions", json=body).json()
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == most
    assert answer["usage"]["completion_tokens"] == 60


LONG: dict[str, Any] = {"model": "mini-thinking", "messages": [{"role": "user", "content": "hi"}], "stream": True,
                        "max_tokens": 400, "seed": 3, "temperature": 1}  # fmt: skip
ORDERS = [("/v1/requests/{id}/end_thinking", None), ("/v1/chat/completions/control", "reasoning_end"),
          ("/v1/requests/{id}/cancel", None), ("/v1/responses/{id}/cancel", None)]  # fmt: skip


@pytest.mark.parametrize(("path", "action"), ORDERS)
def test_a_running_request_obeys(served: Served, path: str, action: str | None):
    responses = "responses" in path
    body = (
        LONG
        | {"logit_bias": without_end(served.client, "mini-thinking")}
        | ({"input": "hi", "max_output_tokens": 400} if responses else {})
    )
    url = "/v1/responses" if responses else "/v1/chat/completions"
    thought, told, orders = 0, list[dict[str, Any]](), list[Thread]()
    with served.client.stream("POST", url, json={**body, "stream_options": {"include_usage": True}}) as answer:
        for line in answer.iter_lines():
            told += sent(line.encode())
            text = json.dumps(told[-1]) if told else ""
            thought += "reasoning" in text and "delta" in text
            if thought == 5 and not orders:
                id = told[0]["response"]["id"] if responses else told[0]["id"]
                order = {"id": id, "action": action} if action else None
                orders.append(Thread(target=served.client.post, args=(path.format(id=id),), kwargs={"json": order}))
                orders[0].start()
    orders[0].join()
    if responses:
        assert told[-1]["response"]["status"] == "cancelled"
        kept = served.client.get(f"/v1/responses/{told[-1]['response']['id']}").json()
        assert kept["usage"]["output_tokens"] < 300
        return
    used = told[-1]["usage"]
    assert used["completion_tokens_details"]["reasoning_tokens"] < 300
    ended = used["completion_tokens"] == used["completion_tokens_details"]["reasoning_tokens"]
    assert ended == path.endswith("cancel")


def test_only_who_sent_a_request_may_stop_it():
    desk = Desk(Models([Open("nowhere", "mini")]), OpenGate())
    stream = Stream("a" * 32, stop=lambda id: None, end_thinking=lambda id: None)
    doing = Doing(stream, OpenTicket(), Tenant(key="me"), Job(model="mini"), "chat", 0.0)
    desk.doing[stream.id] = doing
    for id in (stream.id, f"chatcmpl-{stream.id}", f"resp_{stream.id}", f"msg_{stream.id}"):
        assert running(desk, id, Tenant(key="me")) is doing
        with pytest.raises(Refusal, match="no request"):
            running(desk, id, Tenant(key="you"))
    stream.push(events.Usage())


def test_what_is_rendered_is_what_is_counted_tokenized_and_run(served: Served):
    post = lambda path, body: served.client.post(path, json={"model": "mini", **body}).json()  # noqa: E731
    talk = {"messages": [{"role": "user", "content": "hi <|im_end|>"}], "max_tokens": 1}
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
        rendered = post(f"{path}/render", {**talk, "input": talk["messages"]})
        assert rendered["prompt"] == "<|im_start|>user\nhi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
        assert post("/detokenize", {"tokens": rendered["token_ids"]})["prompt"] == rendered["prompt"]
        assert post("/tokenize", talk)["tokens"] == rendered["token_ids"]
    count = len(rendered["token_ids"])
    assert post("/v1/messages/count_tokens", {"messages": talk["messages"]}) == {"input_tokens": count}
    assert post("/v1/responses/input_tokens", {"input": talk["messages"]})["input_tokens"] == count
    assert post("/v1/chat/completions", talk)["usage"]["prompt_tokens"] == count
    spelled = post("/tokenize", {"prompt": rendered["prompt"]})["tokens"]  # here control tokens may be spelled
    assert len(spelled) < count and post("/v1/completions", {"prompt": spelled, "max_tokens": 1})["usage"][
        "prompt_tokens"] == len(spelled)  # fmt: skip


def test_a_response_is_kept_listed_and_deleted(served: Served):
    client, body = served.client, {"model": "mini", "max_output_tokens": 3, "metadata": {"a": "b"}}
    first = client.post("/v1/responses", json={**body, "input": "one"}).json()
    assert client.get(f"/v1/responses/{first['id']}").json() == first
    items = client.get(f"/v1/responses/{first['id']}/input_items").json()
    assert items["data"][0]["content"] == "one" and not items["has_more"]
    again = {**body, "input": "two", "previous_response_id": first["id"], "store": False}
    second = client.post("/v1/responses", json=again).json()
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    assert client.get(f"/v1/responses/{second['id']}").status_code == 404
    assert client.delete(f"/v1/responses/{first['id']}").json()["deleted"]
    assert client.post("/v1/responses", json=again).status_code == 404


def test_a_response_in_the_background_is_looked_for_and_cancelled(served: Served):
    client, asked = served.client, {"model": "mini", "input": "one", "background": True, "temperature": 0}

    def ended(id: str) -> dict[str, Any]:
        for _ in range(1000):
            found = client.get(f"/v1/responses/{id}").json()
            if found["status"] != "in_progress":
                return found
            time.sleep(0.01)
        raise AssertionError(f"{id} did not end")

    begun = client.post("/v1/responses", json={**asked, "max_output_tokens": 5}).json()
    assert begun["status"] == "in_progress" and begun["background"] and begun["usage"] is None
    found = ended(begun["id"])
    assert found["status"] == "incomplete" and found["usage"]["output_tokens"] == 5
    bias = without_end(client, "mini")
    begun = client.post("/v1/responses", json={**asked, "max_output_tokens": 3000, "logit_bias": bias}).json()
    stopped = client.post(f"/v1/responses/{begun['id']}/cancel").json()
    assert stopped["status"] == "cancelled" and stopped["usage"]["output_tokens"] < 3000
    assert client.get(f"/v1/responses/{begun['id']}").json() == stopped


def test_models_are_listed_as_each_client_reads_them(served: Served):
    openai = served.client.get("/v1/models").json()
    anthropic = served.client.get("/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
    assert [m["id"] for m in openai["data"]] == [m["id"] for m in anthropic["data"]] == ["mini", "mini-thinking"]
    assert openai["object"] == "list" and anthropic["data"][0]["type"] == "model" and anthropic["has_more"] is False
    missing = served.client.get("/v1/models/none", headers={"anthropic-version": "2023-06-01"})
    assert missing.status_code == 404 and missing.json()["type"] == "error"


def test_errors_have_the_dialects_shape(served: Served):
    for path, what in (("chat/completions", "user"), ("completions", "prompt"), ("responses", "input")):
        answer = served.client.post(f"/v1/{path}", json={"model": "none", "messages": LONG["messages"], what: "x"})
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"
    answer = served.client.post("/v1/messages", json={"model": "mini", "messages": LONG["messages"]})
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"response_format": {"type": "json_object"}}], ids=str)
def test_a_prompt_that_is_too_long_is_told_by_the_code_that_clients_look_for(served: Served, more: dict[str, Any]):
    """Both where its tokens are counted and where it is so long that nobody cuts it into tokens."""
    context = served.client.get("/v1/models").json()["data"][0]["max_model_len"]
    for text in ("a b" * context, "a b" * 40 * context):
        for path, asked in (
            ("chat/completions", {"messages": [{"role": "user", "content": text}], **more}),
            ("completions", {"prompt": text, "stream": "stream" in more}),
            ("responses", {"input": text, "stream": "stream" in more}),
        ):
            answer = served.client.post(f"/v1/{path}", json={"model": "mini", **asked})
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["code"] == "context_length_exceeded"
