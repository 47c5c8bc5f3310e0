"""What the server counts, for Prometheus: vLLM's names after the prefix `octavo:`, so that its dashboards fit.

Counters, histograms, and gauges of the present; no averages. Labels are bounded: models, ends, kinds, and the first
MOST_KEYS keys. Nothing is counted per token but one gap between tokens.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from starlette.requests import Request
from starlette.responses import Response

from octavo import __version__
from octavo.serve import events
from octavo.serve.errors import Refusal
from octavo.serve.http import Desk, Doing, as_json, id_of, refused
from octavo.serve.models import Model

PREFIX = "octavo:"
MOST_KEYS = 200  # keys with a label of their own; further ones are counted as "other"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
FEW = (1, 2, 4, 8, 16, 32, 64, 128)
HISTOGRAMS = {
    "time_to_first_token_seconds": ("From a request's coming to its first token.", SECONDS),
    "e2e_request_latency_seconds": ("From a request's coming to its end.", SECONDS),
    "request_queue_time_seconds": ("Waiting to be admitted.", SECONDS),
    "request_prefill_time_seconds": ("From submission to the engine to the first token.", SECONDS),
    "request_decode_time_seconds": ("From the first token to the last.", SECONDS),
    "inter_token_latency_seconds": ("Between two tokens of a reply.", GAPS),
    "request_time_per_output_token_seconds": ("Mean time between a request's tokens.", GAPS),
    "request_prompt_tokens": ("Tokens of a prompt.", TOKENS),
    "request_generation_tokens": ("Tokens of a reply.", TOKENS),
    "request_params_n": ("Replies asked for.", FEW),
    "request_params_max_tokens": ("Tokens asked for at most.", TOKENS),
}  # fmt: skip
COUNTERS = {
    "prompt_tokens": "Tokens of prompts.",
    "prompt_tokens_cached": "Tokens of prompts that had been computed before.",
    "prefix_cache_queries": "Tokens looked up in the prefix cache.",
    "prefix_cache_hits": "Tokens found in the prefix cache.",
    "generation_tokens": "Tokens of replies, reasoning included.",
    "reasoning_tokens": "Tokens of reasoning.",
    "thinking_budget_forced": "Replies whose thinking ended because its budget was used up.",
}
OF_ENGINE = {  # name -> field of the engine's stats, help
    "num_preemptions": ("preemptions", "Requests that had to give up their pages and start again."),
    "spec_decode_num_draft_tokens": ("drafted", "Tokens that were drafted."),
    "spec_decode_num_accepted_tokens": ("accepted", "Drafted tokens that came true."),
}


class Buckets:
    """A histogram of one label: counts per bucket, and the sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """One value more; it counts in the first bucket whose bound is not below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """As Prometheus wants them: (bound, values at or below it)."""
        found, below = list[tuple[str, float]](), 0
        for bound, count in zip([*map(str, map(float, self.bounds)), "+Inf"], self.counts, strict=True):
            below += count
            found.append((bound, below))
        return found


class Metrics:
    """Watches jobs, and answers `/metrics`, `/load` and `/version`."""

    def __init__(self) -> None:
        self.desk: Desk | None = None  # whose models and jobs are counted: it comes after its watches
        self.counted = Counter[tuple[str, str]]()  # (name, model)
        self.finished = Counter[tuple[str, str]]()  # (model, finish)
        self.turned_away = Counter[str]()  # kind of refusal
        self.tokens = Counter[tuple[str, str]]()  # (key, kind)
        self.keys = set[str]()
        self.buckets: dict[tuple[str, str], Buckets] = {}  # (name, model)

    def began(self, doing: Doing) -> None:
        """Counted when it ends."""

    def refused(self, kind: str) -> None:
        """The gate let a job not in."""
        self.turned_away[kind] += 1

    def gap(self, doing: Doing, seconds: float) -> None:
        """Between two tokens."""
        self._observe(doing.job.model, "inter_token_latency_seconds", seconds)

    def ended(self, doing: Doing, usage: events.Usage, *, finish: str) -> None:
        """A job is over."""
        model, u, now_s = doing.job.model, usage, time.perf_counter()
        self.finished[model, finish] += 1
        counts = (u.prompt_tokens, u.cached_tokens, u.prompt_tokens, u.cached_tokens, u.completion_tokens,
                  u.reasoning_tokens, int(u.thinking_stop == "budget"))  # fmt: skip
        for name, count in zip(COUNTERS, counts, strict=True):
            self.counted[name, model] += count
        self._observe(model, "request_queue_time_seconds", doing.queued_s)
        self._observe(model, "e2e_request_latency_seconds", now_s - doing.started_s + doing.queued_s)
        self._observe(model, "request_params_n", doing.job.replies)
        if doing.first_s:
            self._observe(model, "time_to_first_token_seconds", doing.first_s - doing.started_s + doing.queued_s)
        if (most := doing.job.sampling.get("max_tokens")) is not None:
            self._observe(model, "request_params_max_tokens", most)
        if u.completion_tokens:
            self._observe(model, "request_prompt_tokens", u.prompt_tokens)
            self._observe(model, "request_generation_tokens", u.completion_tokens)
            self._observe(model, "request_prefill_time_seconds", u.prefill_s)
            self._observe(model, "request_decode_time_seconds", u.decode_s)
            per_token_s = u.decode_s / max(1, u.completion_tokens - doing.job.replies)
            self._observe(model, "request_time_per_output_token_seconds", per_token_s)
        self._bill(doing.tenant.key, u)

    def _bill(self, key: str, u: events.Usage) -> None:
        if len(self.keys) < MOST_KEYS:
            self.keys.add(key)
        label = key if key in self.keys else "other"
        for kind, count in (("prompt", u.prompt_tokens), ("cached", u.cached_tokens),
                            ("completion", u.completion_tokens), ("reasoning", u.reasoning_tokens)):  # fmt: skip
            self.tokens[label, kind] += count

    def _observe(self, model: str, name: str, value: float) -> None:
        if (name, model) not in self.buckets:
            self.buckets[name, model] = Buckets(HISTOGRAMS[name][1])
        self.buckets[name, model].add(value)

    def collect(self, key: str) -> Iterator[Metric]:
        """All metrics as they are now.   key   whose tokens are told, "": all keys'"""
        assert self.desk is not None
        yield from self._counters(key)
        for name, (text, _) in HISTOGRAMS.items():
            family = HistogramMetricFamily(PREFIX + name, text, labels=["model_name"])
            for (named, model), bucket in self.buckets.items():
                if named == name:
                    family.add_metric([model], bucket.cumulative(), bucket.total)
            yield family
        models = list(self.desk.models.all.values())
        yield from self._gauges(models)
        yield from of_engines(models)

    def _counters(self, key: str) -> Iterator[Metric]:
        for name, text in COUNTERS.items():
            values = {(model,): count for (named, model), count in self.counted.items() if named == name}
            yield counter(name, text, labels=["model_name"], values=values.items())
        yield counter("request_success", "Requests that ended, by how.", labels=["model_name", "finished_reason"],
                      values=self.finished.items())  # fmt: skip
        away = {(kind,): count for kind, count in self.turned_away.items()}
        yield counter("admission_rejections", "Requests that were not admitted.", labels=["reason"],
                      values=away.items())  # fmt: skip
        own = {labels: count for labels, count in self.tokens.items() if key in ("", labels[0])}
        yield counter("tenant_tokens", "Tokens by API key.", labels=["key_id", "kind"], values=own.items())

    def _gauges(self, models: Sequence[Model]) -> Iterator[Metric]:
        assert self.desk is not None
        text = "Requests that wait, by what for: the gate, or the engine's pages."
        by_reason = GaugeMetricFamily(PREFIX + "num_requests_waiting_by_reason", text, labels=["reason"])
        in_engines = sum(m.stats.get("waiting", 0.0) for m in models)
        by_reason.add_metric(["admission"], self.desk.waiting)
        by_reason.add_metric(["capacity"], in_engines)
        yield by_reason
        total = self.desk.waiting + in_engines
        yield GaugeMetricFamily(PREFIX + "num_requests_waiting", "Requests that wait.", value=total)

    async def metrics(self, request: Request) -> Response:
        """`/metrics`. Of the tokens by key, who asks with a key sees its own."""
        assert self.desk is not None
        try:
            key = self.desk.gate.identify(request.headers).key
        except Refusal as refusal:
            return refused(refusal, request_id=id_of(request))
        return Response(generate_latest(_Seen(self, key)), headers={"content-type": CONTENT_TYPE_LATEST})

    async def load(self, request: Request) -> Response:
        """`/load`: requests in the server now, waiting or running."""
        assert self.desk is not None
        return as_json({"server_load": self.desk.waiting + len(self.desk.doing)})

    async def version(self, request: Request) -> Response:
        """`/version`."""
        return as_json({"version": __version__})


class _Seen:
    """What one key may see of the metrics: `prometheus_client` asks."""

    def __init__(self, metrics: Metrics, key: str) -> None:
        self.metrics, self.key = metrics, key

    def collect(self) -> Iterator[Metric]:
        return self.metrics.collect(self.key)


def counter(name: str, text: str, *, labels: Sequence[str],
            values: Iterable[tuple[Sequence[str], float]]) -> CounterMetricFamily:  # fmt: skip
    """One family of counters."""
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in values:
        family.add_metric(list(key), value)
    return family


def of_engines(models: Sequence[Model]) -> Iterator[Metric]:
    """What the engines' processes said of themselves with their last beat. A process that is new counts from 0."""
    running = GaugeMetricFamily(PREFIX + "num_requests_running", "Replies that are computed.", labels=["model_name"])
    usage = GaugeMetricFamily(PREFIX + "kv_cache_usage_perc", "Share of pages in use, 0..1.", labels=["model_name"])
    age = GaugeMetricFamily(PREFIX + "engine_heartbeat_age_seconds", "Since the engine's process was heard last.",
                            labels=["model_name"])  # fmt: skip
    step = SummaryMetricFamily(PREFIX + "engine_step_seconds", "Steps of the engine.", labels=["model_name"])
    tokens = SummaryMetricFamily(PREFIX + "iteration_tokens_total", "Tokens computed in steps.", labels=["model_name"])
    config = InfoMetricFamily(PREFIX + "cache_config", "Pages of the cache.", labels=["model_name"])
    alive = [m for m in models if m.stats]
    for m in alive:
        s, steps = m.stats, int(m.stats["forwards"])
        running.add_metric([m.name], s["running"])
        usage.add_metric([m.name], 1 - s["pages_unused"] / max(1.0, s["pages"]))
        age.add_metric([m.name], time.monotonic() - m.beat_s)
        step.add_metric([m.name], steps, s.get("stepped_s", 0.0))
        tokens.add_metric([m.name], steps, s["computed_tokens"])
        sizes = {"block_size": m.facts.get("page_tokens", 0), "num_gpu_blocks": int(s["pages"])}
        config.add_metric([m.name], {name: str(value) for name, value in sizes.items()})
    yield from (running, usage, age, step, tokens, config)
    for name, (field, text) in OF_ENGINE.items():
        yield counter(name, text, labels=["model_name"], values=[([m.name], m.stats[field]) for m in alive])
