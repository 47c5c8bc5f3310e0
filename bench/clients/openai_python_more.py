"""openai-python: legacy completions, embeddings, decisions, files and batches."""

import io
import json
import math
import time
from typing import Any

import openai
import pytest
from kit import FRANCE, KEY, MODEL, PARIS, TIMEOUT_S, URL


@pytest.fixture
def ai() -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0, timeout=TIMEOUT_S)


def test_completion(ai: openai.OpenAI):
    answer = ai.completions.create(model=MODEL, prompt="1, 2, 3, 4,", max_tokens=8, temperature=0)
    assert answer.object == "text_completion" and answer.choices[0].finish_reason == "length"
    assert answer.choices[0].text and answer.usage.completion_tokens == 8


def test_completion_stream(ai: openai.OpenAI):
    options: Any = {"model": MODEL, "prompt": "1, 2, 3, 4,", "max_tokens": 8, "temperature": 0}
    whole = ai.completions.create(**options).choices[0].text
    chunks = list(ai.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole


def test_completion_prompts(ai: openai.OpenAI):
    answer = ai.completions.create(model=MODEL, prompt=["Hello", "1, 2,"], max_tokens=3, temperature=0, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == answer.choices[1].text


def test_completion_echo_and_logprobs(ai: openai.OpenAI):
    answer = ai.completions.create(model=MODEL, prompt="1, 2,", max_tokens=4, temperature=0, logprobs=2, echo=True)
    choice = answer.choices[0]
    assert choice.text.startswith("1, 2,") and len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs)


def test_completion_stop(ai: openai.OpenAI):
    free = ai.completions.create(model=MODEL, prompt="1, 2, 3,", max_tokens=12, temperature=0).choices[0].text
    stop = free[len(free) // 2 :][:2]
    held = ai.completions.create(model=MODEL, prompt="1, 2, 3,", max_tokens=12, temperature=0, stop=stop).choices[0]
    assert held.text == free[: free.index(stop)] and held.finish_reason == "stop"


def test_embeddings(ai: openai.OpenAI):
    answer = ai.embeddings.create(model=MODEL, input=["Hello", FRANCE, "Hello"])
    assert [one.index for one in answer.data] == [0, 1, 2] and answer.usage.prompt_tokens > 0
    first, other, same = (one.embedding for one in answer.data)
    assert cosine(first, same) > 0.999 > cosine(first, other) and len(first) == len(other)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def test_embeddings_as_floats(ai: openai.OpenAI):
    packed = ai.embeddings.create(model=MODEL, input="Hello").data[0].embedding  # the client asks for base64
    plain = ai.embeddings.create(model=MODEL, input="Hello", encoding_format="float").data[0].embedding
    assert packed == pytest.approx(plain, rel=1e-5)


def test_decisions(ai: openai.OpenAI):
    questions: Any = [
        {"type": "predicate", "name": "french", "instructions": "Is it about France?"},
        {"type": "choice", "name": "city", "instructions": "Which city?", "choices": [{"value": "Paris"},
                                                                                      {"value": "Rome"}]},
        {"type": "score", "name": "good", "instructions": "How good is it?", "levels": [{"label": "bad"},
                                                                                        {"label": "good"}]},
    ]  # fmt: skip
    answer = ai.decisions.create(model=MODEL, input=FRANCE, questions=questions)
    french, city, good = answer.answers
    assert [one.name for one in answer.answers] == ["french", "city", "good"] and answer.usage.input_tokens > 0
    assert 0 <= french.probability <= 1 and city.choice in ("Paris", "Rome") and 0 <= good.score <= 1
    for one in (city, good):
        assert sum(each.probability for each in one.probabilities) == pytest.approx(1, abs=1e-3)


def lines(*bodies: dict[str, Any]) -> bytes:
    asked = [{"custom_id": f"ask-{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
             for i, body in enumerate(bodies)]  # fmt: skip
    return "\n".join(map(json.dumps, asked)).encode()


def test_files(ai: openai.OpenAI):
    data = lines({"model": MODEL, "messages": [{"role": "user", "content": FRANCE}]})
    file = ai.files.create(file=("asks.jsonl", io.BytesIO(data)), purpose="batch")
    assert file.bytes == len(data) and file.filename == "asks.jsonl" and file.purpose == "batch"
    assert ai.files.content(file.id).read() == data and ai.files.retrieve(file.id).id == file.id
    assert file.id in [one.id for one in ai.files.list()]
    assert ai.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        ai.files.retrieve(file.id)


def test_batches(ai: openai.OpenAI):
    body: Any = {"model": MODEL, "messages": [{"role": "user", "content": FRANCE}], "temperature": 0,
                 "enable_thinking": False}  # fmt: skip
    file = ai.files.create(file=("asks.jsonl", lines(body, {**body, "temperature": "hot"})), purpose="batch")
    batch = ai.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    end_s = time.monotonic() + TIMEOUT_S
    while (batch := ai.batches.retrieve(batch.id)).status not in ("completed", "failed"):
        assert time.monotonic() < end_s, batch.status
        time.sleep(0.1)
    assert batch.status == "completed" and batch.request_counts.completed == 1 and batch.request_counts.failed == 1
    [done] = [json.loads(line) for line in ai.files.content(batch.output_file_id).text.splitlines()]
    assert done["custom_id"] == "ask-0" and done["response"]["status_code"] == 200
    assert done["response"]["body"]["choices"][0]["message"]["content"] == PARIS
    [wrong] = [json.loads(line) for line in ai.files.content(batch.error_file_id).text.splitlines()]
    assert wrong["custom_id"] == "ask-1" and wrong["response"]["status_code"] == 400
    assert batch.id in [one.id for one in ai.batches.list()]
