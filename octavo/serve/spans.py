"""A trace of every job for OpenTelemetry, by its conventions for generative AI (0.66b2); no prompt, no answer.

An extra, `octavo[otel]`: its packages are looked for when spans are asked for, and nothing else imports them.
"""

import time
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from octavo import __version__
from octavo.core.errors import ConfigError
from octavo.serve import events
from octavo.serve.http import Doing

TRACEPARENT: ContextVar[str] = ContextVar("traceparent", default="")  # of the request at work: set by the guard
OPERATIONS = {"completions": "text_completion", "embed": "embeddings"}  # by dialect; else: chat
SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")


class Spans:
    """Watches jobs: one span each, as a part of the trace that the client's `traceparent` names (W3C).

    tracer   OpenTelemetry's;   parent   a traceparent header's value -> OpenTelemetry's context
    """

    def __init__(self, tracer: Any, parent: Any) -> None:
        self.tracer, self.parent = tracer, parent
        self.running: dict[str, Any] = {}

    def began(self, doing: Doing) -> None:
        """A span begins, when the job came."""
        s, operation = doing.job.sampling, OPERATIONS.get(doing.dialect, "chat")
        came_s = time.time() - (time.perf_counter() - doing.started_s) - doing.queued_s
        span = self.tracer.start_span(f"{operation} {doing.job.model}", context=self.parent(TRACEPARENT.get()),
                                      start_time=int(came_s * 1e9))  # fmt: skip
        given = {f"gen_ai.request.{name}": s[name] for name in SAMPLING if s.get(name) is not None}
        given |= {
            "gen_ai.operation.name": operation, "gen_ai.provider.name": "octavo", "gen_ai.response.id": doing.stream.id,
            "gen_ai.request.model": doing.job.model, "gen_ai.request.choice.count": doing.job.replies,
        }  # fmt: skip
        span.set_attributes(given)
        self.running[doing.stream.id] = span

    def refused(self, kind: str) -> None:
        """No span: there was no job."""

    def gap(self, doing: Doing, seconds: float) -> None:
        """Nothing."""

    def ended(self, doing: Doing, usage: events.Usage, *, finish: str) -> None:
        """The span ends, with what the job used."""
        span = self.running.pop(doing.stream.id)
        span.set_attributes({
            "gen_ai.response.model": doing.job.model, "gen_ai.response.finish_reasons": [finish],
            "gen_ai.usage.input_tokens": usage.prompt_tokens, "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        })  # fmt: skip
        if doing.first_s:
            first_s = doing.first_s - doing.started_s + doing.queued_s
            span.set_attribute("gen_ai.response.time_to_first_chunk", first_s)
        if finish == "error":
            span.set_attribute("error.type", "server_error")
        span.end()


def spans_to(endpoint: str) -> Spans:
    """Spans that are sent to an OTLP endpoint, in batches, by a thread. Raises ConfigError without the extra."""
    try:
        resources = import_module("opentelemetry.sdk.resources")
        sdk, export = import_module("opentelemetry.sdk.trace"), import_module("opentelemetry.sdk.trace.export")
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as cause:
        raise ConfigError(
            f"--otel needs packages that are not here ({cause.name}): pip install 'octavo[otel]'"
        ) from cause
    about = {"service.name": "octavo", "service.version": __version__}
    provider = sdk.TracerProvider(resource=resources.Resource.create(about))
    address = endpoint.rstrip("/")
    address = address if address.endswith("/v1/traces") else f"{address}/v1/traces"
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter(endpoint=address)))
    return spans_of(provider)


def spans_of(provider: Any) -> Spans:
    """Spans that go where an OpenTelemetry provider of tracers sends them."""
    carrier = import_module("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()

    def parent(given: str) -> Any:
        return carrier.extract({"traceparent": given})

    return Spans(provider.get_tracer("octavo", __version__), parent)
