"""Legacy Completions of several prompts, and prompts that are scored: what evaluation harnesses ask for."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.mini import mini_random
from tests.serve.serving import Served, serving

TEXTS = ["Hello there", "1, 2, 3,", "ünïcode 猫"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving([f"mini={mini_random()}"], folder=tmp_path_factory.mktemp("prompts")) as one:
        yield one


def complete(served: Served, prompt: Any, **more: Any) -> dict[str, Any]:
    body = {"model": "mini", "prompt": prompt, "max_tokens": 6, "temperature": 1, "seed": 3, **more}
    answer = served.client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_prompts_together_say_what_each_says_alone(served: Served):
    alone = [complete(served, text, n=2) for text in TEXTS]
    together = complete(served, TEXTS, n=2)
    assert [c["index"] for c in together["choices"]] == list(range(6))
    assert [c["text"] for c in together["choices"]] == [c["text"] for one in alone for c in one["choices"]]
    for key in ("prompt_tokens", "completion_tokens"):
        assert together["usage"][key] == sum(one["usage"][key] for one in alone)


def test_a_stream_of_prompts_says_what_the_whole_answer_says(served: Served):
    body = {"model": "mini", "prompt": TEXTS, "max_tokens": 6, "temperature": 1, "seed": 3, "logprobs": 1, "echo": True}
    whole, said = complete(served, TEXTS, logprobs=1, echo=True), [""] * 3
    for line in served.client.post("/v1/completions", json={**body, "stream": True}).text.splitlines():
        for choice in json.loads(line[6:])["choices"] if line.startswith("data: {") else ():
            said[choice["index"]] += choice["text"]
    assert said == [choice["text"] for choice in whole["choices"]]
    assert all(text.startswith(prompt) for text, prompt in zip(said, TEXTS, strict=True))


@pytest.mark.parametrize("prompt", TEXTS)
def test_a_prompt_that_is_scored_has_the_scores_that_writing_it_would_have(served: Served, prompt: str):
    ids = served.client.post("/tokenize", json={"model": "mini", "prompt": prompt}).json()["tokens"]
    scored = complete(served, prompt, echo=True, logprobs=5)["choices"][0]["logprobs"]
    assert "".join(scored["tokens"][: len(ids)]).replace("�", "") in prompt or "�" in "".join(scored["tokens"])
    assert scored["token_logprobs"][0] is None and scored["top_logprobs"][0] is None
    for i in range(1, len(ids)):  # the next token after i tokens, by the distribution that sampling reports
        asked = complete(served, ids[:i], max_tokens=1, temperature=0, logprobs=5)["choices"][0]["logprobs"]
        assert scored["top_logprobs"][i] == pytest.approx(asked["top_logprobs"][0], abs=1e-4)
        assert scored["token_logprobs"][i] <= max(scored["top_logprobs"][i].values()) + 1e-6
        if "�" in scored["tokens"][i]:  # part of a character: others are spelled the same
            continue
        value = scored["top_logprobs"][i].get(scored["tokens"][i])
        assert value is None or math.isclose(value, scored["token_logprobs"][i], abs_tol=1e-4)


@pytest.mark.parametrize("prompt", [[], "", ["a", ""], [1, "a"], [[]], ["a"] * 129])
def test_prompts_that_are_none_are_refused_by_name(served: Served, prompt: Any):
    answer = served.client.post("/v1/completions", json={"model": "mini", "prompt": prompt})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "prompt"
