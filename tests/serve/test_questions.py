"""Embeddings and decisions over HTTP: shapes, exactness, refusals, and that jobs go on beside them."""

import base64
import math
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.serve.mini import mini_qwen3
from tests.serve.serving import Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving([f"mini={mini_qwen3()}"], folder=tmp_path_factory.mktemp("questions")) as one:
        yield one


def embed(served: Served, input: Any, **more: Any) -> Any:
    return served.client.post("/v1/embeddings", json={"model": "mini", "input": input, **more}).json()


def vectors(answer: Any) -> list[list[float]]:
    return [one["embedding"] for one in answer["data"]]


def ask(served: Served, input: Any, *questions: Any) -> Any:
    return served.client.post("/v1/decisions", json={"model": "mini", "input": input, "questions": questions}).json()


def test_vectors_have_length_one_and_do_not_depend_on_what_else_is_asked(served: Served):
    texts = ["What is the capital of France?", "Count to twenty.", "rain " * 300, "猫"]
    together = embed(served, texts)
    assert [one["index"] for one in together["data"]] == [0, 1, 2, 3]
    assert [vectors(embed(served, text))[0] for text in texts] == vectors(together)
    assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-9) for vector in vectors(together))
    with ThreadPoolExecutor(4) as pool:
        crowd = list(pool.map(lambda text: vectors(embed(served, text))[0], texts * 3))
    assert crowd == vectors(together) * 3


def test_tokens_are_as_good_as_their_text_and_are_counted(served: Served):
    tokens = served.client.post("/tokenize", json={"prompt": "Hello there", "add_special_tokens": False}).json()
    text, one, many = (
        embed(served, "Hello there"),
        embed(served, tokens["tokens"]),
        embed(served, [tokens["tokens"]] * 2),
    )
    assert vectors(text) == vectors(one) == vectors(many)[:1] == vectors(many)[1:]
    assert many["usage"] == {"prompt_tokens": 2 * tokens["count"], "total_tokens": 2 * tokens["count"]}


def test_fewer_dimensions_are_the_first_ones_made_whole_again_and_base64_is_float32(served: Served):
    (whole,), (short,) = vectors(embed(served, "Hello")), vectors(embed(served, "Hello", dimensions=8))
    length = math.hypot(*whole[:8])
    assert short == pytest.approx([x / length for x in whole[:8]], abs=1e-12)
    (packed,) = vectors(embed(served, "Hello", encoding_format="base64"))
    assert array("f", base64.b64decode(packed)).tolist() == array("f", whole).tolist()


@pytest.mark.parametrize("body, param", [
    ({"input": ""}, "input"), ({"input": []}, "input"), ({"input": ["a", ""]}, "input"), ({"input": ["a", 1]}, "input"),
    ({"input": "a", "dimensions": 0}, "dimensions"), ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ({}, "input"), ({"input": "a", "dimensions": 1 << 20}, ""), ({"input": [1 << 30]}, ""), ({"input": [-1]}, ""),
    ({"input": ["a"] * 2049}, "input"), ({"input": "word " * 9000}, ""),
])  # fmt: skip
def test_what_cannot_be_embedded_is_refused(served: Served, body: Any, param: str):
    answer = served.client.post("/v1/embeddings", json=body)
    assert answer.status_code == 400 and param in (answer.json()["error"]["param"] or "")
    assert vectors(embed(served, "Hello"))


PREDICATE = {"type": "predicate", "name": "p", "instructions": "The text is a greeting."}
CHOICE = {"type": "choice", "instructions": "What is it?", "choices": [
    {"value": "Paris"}, {"value": True, "description": "it is"}, {"value": "true"},
    {"value": "The capital of France is Paris."}]}  # fmt: skip
SCORE = {"type": "score", "name": "s", "instructions": [{"type": "input_text", "text": "How warm is it?"}],
         "levels": [{"label": "cold"}, {"label": "warm", "description": "20 degrees"}, {"label": "hot"}]}  # fmt: skip


def test_each_kind_of_question_is_answered_with_probabilities_that_add_up(served: Served):
    answer = ask(served, "Hello", PREDICATE, CHOICE, SCORE)
    predicate, choice, score = answer["answers"]
    assert predicate["type"] == "predicate" and predicate["name"] == "p" and 0 <= predicate["probability"] <= 1
    values = [one["value"] for one in choice["probabilities"]]
    assert values == ["Paris", True, "true", "The capital of France is Paris."] and values[1] is True
    for one in (choice, score):
        assert math.fsum(each["probability"] for each in one["probabilities"]) == pytest.approx(1)
        assert one["confidence"] == max(each["probability"] for each in one["probabilities"])
    mean = sum(each["value"] * each["probability"] for each in score["probabilities"])
    assert score["score"] == pytest.approx(mean) and [e["label"] for e in score["probabilities"]] == [
        "cold",
        "warm",
        "hot",
    ]
    assert answer["usage"]["total_tokens"] == answer["usage"]["input_tokens"] > 30


def test_probabilities_are_the_models_own(served: Served):
    """By the log-probabilities that Chat Completions reports for each option, forced by a choice of one."""
    choice = {"type": "choice", "instructions": "Which?", "choices": [{"value": "Hello!"}, {"value": "I do not know."}]}
    shown = "Hi\n\nWhich?\n\nAnswer with one of these, word for word, and nothing else:\n- Hello!\n- I do not know."
    logs = []
    for value in ("Hello!", "I do not know."):
        tokens = served.client.post("/tokenize", json={"prompt": value, "add_special_tokens": False}).json()["tokens"]
        body = {"model": "mini", "messages": [{"role": "user", "content": shown}], "enable_thinking": False,
                "temperature": 0, "logprobs": True, "top_logprobs": 20, "max_tokens": 1}  # fmt: skip
        total = 0.0
        for i, token in enumerate([*tokens, None]):
            begun = served.client.post("/detokenize", json={"tokens": tokens[:i]}).json()["prompt"]
            more = [{"role": "assistant", "content": begun}] if begun else []
            bias = {} if token is None else {"logit_bias": {str(token): 100}}
            one = {**body, **bias, "messages": body["messages"] + more, "continue_final_message": bool(begun)}
            reply = served.client.post("/v1/chat/completions", json=one).json()["choices"][0]
            if token is not None:
                total += reply["logprobs"]["content"][0]["logprob"]
            else:
                ends = [top["logprob"] for top in reply["logprobs"]["content"][0]["top_logprobs"]
                        if top["token"] == "<|im_end|>"]  # fmt: skip
                total += ends[0] if ends else -math.inf
        logs.append(total)
    (answer,) = ask(served, "Hi", choice)["answers"]
    first = 1 / (1 + math.exp(logs[1] - logs[0]))
    assert answer["probabilities"][0]["probability"] == pytest.approx(first, abs=1e-3)


def test_input_may_be_a_conversation_and_is_shared_by_the_questions(served: Served):
    data = {"type": "input_json", "data": [{"city": "Paris"}]}
    talk = [
        {"role": "developer", "content": "Be brief."}, {"role": "user", "content": [data]},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": 1, "b": 2}'},
        {"type": "function_call_output", "call_id": "c", "output": "3"}, {"role": "user", "content": "rain " * 50},
    ]  # fmt: skip
    answer = ask(served, talk, *[{**PREDICATE, "instructions": f"Statement {i}."} for i in range(4)])
    assert len(answer["answers"]) == 4, answer
    assert answer["usage"]["input_tokens_details"]["cached_tokens"] > answer["usage"]["input_tokens"] / 2


@pytest.mark.parametrize("questions", [
    [], [{"type": "riddle", "instructions": "x"}], [{**CHOICE, "choices": [{"value": "a"}]}],
    [{**CHOICE, "choices": [{"value": "a"}, {"value": "a"}]}], [{"type": "score", "instructions": "x"}],
    [{**PREDICATE, "instructions": [{"type": "input_image", "image_url": "x"}]}], [PREDICATE] * 401,
])  # fmt: skip
def test_what_cannot_be_decided_is_refused(served: Served, questions: Any):
    assert ask(served, "Hello", *questions)["error"]["type"] == "invalid_request_error"


def test_replies_go_on_beside_many_texts_and_who_goes_away_is_forgotten(served: Served):
    body = {
        "model": "mini",
        "messages": [{"role": "user", "content": "Count to twenty."}],
        "temperature": 0,
        "enable_thinking": False,
    }
    alone = served.client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    with ThreadPoolExecutor(2) as pool, httpx.Client(base_url=served.url, timeout=0.3) as hasty:
        crowd = pool.submit(embed, served, ["rain sing blue " * 40] * 60)
        beside = served.client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        assert not crowd.done(), "the texts were done too soon to say anything"
        with pytest.raises(httpx.TimeoutException):
            hasty.post("/v1/embeddings", json={"input": ["rain sing blue " * 40] * 2000})
        crowd.result(timeout=60)
    assert beside == alone
    pages = served.client.get("/metrics").text
    assert vectors(embed(served, "Hello")) and pages
