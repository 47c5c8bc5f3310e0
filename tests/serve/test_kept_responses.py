"""Responses that are kept: what cannot be kept is refused, what was deleted stays so, items are listed."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.mini import mini_random
from tests.serve.serving import Served, serving

PATH = "/v1/responses"
BODY: dict[str, Any] = {"model": "mini", "input": "Hello", "max_output_tokens": 4}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving([f"mini={mini_random()}"], folder=tmp_path_factory.mktemp("kept")) as one:
        yield one


@pytest.mark.parametrize("more", [
    {"input": [{"role": "user", "content": "hi", "x": 10**30}]}, {"reasoning": {"summary": 10**30}},
])  # fmt: skip
@pytest.mark.parametrize("background", [True, False])
def test_what_cannot_be_kept_is_refused_and_holds_no_place(served: Served, more: dict[str, Any], background: bool):
    answer = served.client.post(PATH, json={**BODY, **more, "background": background})
    assert answer.status_code == 400 and "64 bits" in answer.text
    assert served.client.get("/load").json() == {"server_load": 0}


def test_a_response_that_was_deleted_while_it_ran_stays_deleted(served: Served):
    asked = {**BODY, "background": True, "max_output_tokens": 400}
    id = served.client.post(PATH, json=asked).json()["id"]
    assert served.client.delete(f"{PATH}/{id}").json()["deleted"]
    end_s = time.monotonic() + 60
    while served.client.get("/load").json() != {"server_load": 0}:
        assert time.monotonic() < end_s
        time.sleep(0.02)
    time.sleep(0.2)
    assert served.client.get(f"{PATH}/{id}").status_code == 404


def test_items_without_an_id_have_one(served: Served):
    given = [{"role": "user", "content": "one", "id": None}, {"role": "user", "content": "two", "id": "mine"}]
    id = served.client.post(PATH, json={**BODY, "input": given}).json()["id"]
    listed = served.client.get(f"{PATH}/{id}/input_items").json()
    assert [item["id"] for item in listed["data"]] == ["mine", "in_0"]
    after = served.client.get(f"{PATH}/{id}/input_items?after=mine").json()
    assert [item["id"] for item in after["data"]] == ["in_0"]


@pytest.mark.parametrize("path", ["/v1/models/none", "/static/none.js"])
def test_an_error_says_its_request(served: Served, path: str):
    assert served.client.get(path).headers["x-request-id"]
