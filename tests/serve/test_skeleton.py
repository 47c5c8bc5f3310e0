"""One request through everything: a real server, a real model, HTTP."""

import json
from pathlib import Path

from tests.serve.mini import mini_random
from tests.serve.serving import serving

BODY = {
    "model": "mini",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 12,
    "seed": 1,
    "temperature": 1,
}


def test_a_stream_says_what_the_whole_answer_says(tmp_path: Path):
    with serving([f"mini={mini_random()}"], folder=tmp_path) as served:
        whole = served.client.post("/v1/chat/completions", json=BODY).json()
        lines = served.client.post(
            "/v1/chat/completions", json={**BODY, "stream": True, "stream_options": {"include_usage": True}}
        ).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    said = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert said == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] > 0
    assert lines[-2] == "data: [DONE]"
