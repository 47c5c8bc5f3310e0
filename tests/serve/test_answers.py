"""How long a prompt may be is known before it is cut into tokens."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.serve.answers import characters
from octavo.serve.job import Job
from tests.serve.mini import mini_random
from tests.serve.serving import Served, serving

HUGE = "hello you there " * 750_000
PREDICATE = {"type": "predicate", "instructions": "The text is a greeting."}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving([f"mini={mini_random()}"], folder=tmp_path_factory.mktemp("answers")) as one:
        yield one


def vectors(served: Served, input: Any) -> list[list[float]]:
    return [one["embedding"] for one in served.client.post("/v1/embeddings", json={"input": input}).json()["data"]]


def test_all_that_will_stand_in_a_prompt_is_counted():
    call = ToolCall(id="1", name="n" * 10, arguments="a" * 1000)
    said = Message(role="assistant", content="c" * 100, thinking="t" * 10, tool_calls=(call,))
    assert characters(Job(model="m", messages=(said,))) == 1120
    tool = ToolSpec(name="f", description="d" * 500, parameters={"x": "y" * 500})
    assert characters(Job(model="m", messages=(said,), tools=(tool,))) > 2120


def test_megabytes_hold_up_nobody(served: Served):
    """Cut into tokens by the engine's own thread they took 20 s, in which nobody else was served."""
    function = {"name": "f", "arguments": '{"a": "' + HUGE + '"}'}
    called = [{"role": "user", "content": "hi"},
              {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]},
              {"role": "tool", "tool_call_id": "1", "content": "2"}]  # fmt: skip
    asks: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"model": "mini", "messages": called, "max_tokens": 1}),
        ("/v1/decisions", {"model": "mini", "input": HUGE, "questions": [PREDICATE]}),
        ("/v1/embeddings", {"model": "mini", "input": HUGE[:1_000_000]}),
    ]
    for path, body in asks:
        began_s = time.perf_counter()
        answer = served.client.post(path, json=body)
        assert answer.status_code == 400 and "characters" in answer.text, path
        assert time.perf_counter() - began_s < 5


def test_long_questions_are_answered_in_other_threads_as_short_ones_are(served: Served):
    inputs = ["rain sing blue " * 100] * 20
    alone = vectors(served, inputs[0])[0]
    with ThreadPoolExecutor(6) as pool:
        crowd = [pool.submit(vectors, served, inputs) for _ in range(6)]
    assert all(one.result() == [alone] * 20 for one in crowd)
    choice = {"type": "choice", "instructions": "Which?", "choices": [{"value": "a" * 99}, {"value": "b" * 99}]}
    talk = {"input": [{"role": "user", "content": "rain sing blue " * 60}] * 2, "questions": [choice]}
    short = served.client.post("/v1/decisions", json=talk).json()["answers"]
    long = served.client.post("/v1/decisions", json={**talk, "questions": [choice] * 100}).json()["answers"]
    assert long == short * 100
