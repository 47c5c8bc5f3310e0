"""What the server counts agrees with what it answered."""

import re
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from octavo.serve.metrics import Buckets
from tests.serve.mini import mini_qwen3
from tests.serve.serving import Served, serving

BODY = {"model": "mini", "messages": [{"role": "user", "content": "Hello"}], "seed": 1, "temperature": 1}
VLLM = """num_requests_running num_requests_waiting num_requests_waiting_by_reason kv_cache_usage_perc
prefix_cache_queries prefix_cache_hits prompt_tokens prompt_tokens_cached generation_tokens num_preemptions
request_success time_to_first_token_seconds inter_token_latency_seconds request_time_per_output_token_seconds
e2e_request_latency_seconds request_queue_time_seconds request_prefill_time_seconds request_decode_time_seconds
request_prompt_tokens request_generation_tokens request_params_n request_params_max_tokens iteration_tokens_total
spec_decode_num_draft_tokens spec_decode_num_accepted_tokens admission_rejections cache_config"""
OURS = [
    "reasoning_tokens",
    "thinking_budget_forced",
    "tenant_tokens",
    "engine_step_seconds",
    "engine_heartbeat_age_seconds",
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving([f"mini={mini_qwen3()}"], folder=tmp_path_factory.mktemp("served")) as one:
        yield one


def counted(served: Served) -> dict[str, float]:
    """All samples, by name and labels."""
    families = text_string_to_metric_families(served.client.get("/metrics").text)
    return {s.name.removeprefix("octavo:") + "".join(f"|{v}" for _, v in sorted(s.labels.items())): s.value
            for family in families for s in family.samples}  # fmt: skip


def test_the_names_are_vllms_after_the_prefix(served: Served):
    served.client.post("/v1/chat/completions", json={**BODY, "max_tokens": 3})
    time.sleep(0.6)  # two beats of the engine
    text = served.client.get("/metrics").text
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {f"octavo:{name}" for name in [*VLLM.split(), *OURS]} - families - {"octavo:cache_config"} == set()
    assert re.search(r'octavo:cache_config_info\{.*num_gpu_blocks="\d+"', text)


def test_counts_are_the_sums_of_the_answers_usage(served: Served):
    before, used = counted(served), []
    for fields in ({"max_tokens": 9}, {"max_tokens": 5, "n": 3}, {"max_tokens": 30, "thinking_budget": 4},
                   {"max_tokens": 6, "enable_thinking": False}):  # fmt: skip
        used.append(served.client.post("/v1/chat/completions", json={**BODY, **fields}).json()["usage"])
    streamed = {**BODY, "max_tokens": 7, "stream": True}
    assert served.client.post("/v1/chat/completions", json=streamed).text.endswith("[DONE]\n\n")
    after = counted(served)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown["generation_tokens_total|mini"] == sum(u["completion_tokens"] for u in used) + 7
    reasoning = sum(u["completion_tokens_details"]["reasoning_tokens"] for u in used)
    assert reasoning <= grown["reasoning_tokens_total|mini"] <= reasoning + 7
    assert grown["e2e_request_latency_seconds_count|mini"] == grown["time_to_first_token_seconds_count|mini"] == 5
    assert grown["request_params_n_sum|mini"] == 1 + 3 + 1 + 1 + 1
    ended = [value for name, value in grown.items() if name.startswith("request_success_total")]
    assert sum(ended) == 5
    assert grown["tenant_tokens_total||completion"] == grown["generation_tokens_total|mini"]


def test_a_load_and_a_version_are_told(served: Served):
    assert served.client.get("/load").json() == {"server_load": 0}
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", served.client.get("/version").json()["version"])


def test_a_value_falls_into_the_first_bucket_that_holds_it():
    buckets = Buckets((1, 2))
    for value in (0.5, 1, 1.5, 2, 9):
        buckets.add(value)
    assert buckets.cumulative() == [("1.0", 2), ("2.0", 4), ("+Inf", 5)] and buckets.total == 14
