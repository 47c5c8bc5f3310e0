"""Spans say what a job used and belong to the client's trace; without the extra the server says what is missing."""

import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from octavo.serve import events
from octavo.serve.gate import OpenTicket, Tenant
from octavo.serve.http import Doing
from octavo.serve.job import Job
from octavo.serve.spans import TRACEPARENT, Spans, spans_of, spans_to
from octavo.serve.stream import Stream
from tests.serve.mini import mini_qwen3


class Recorded:
    """A span, and the tracer that makes it: what OpenTelemetry's offer of them, kept."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}
        self.ended = False

    def start_span(self, name: str, *, context: Any, start_time: int) -> "Recorded":
        self.name, self.context, self.start_time = name, context, start_time
        return self

    def set_attributes(self, given: dict[str, Any]) -> None:
        self.attributes |= given

    def set_attribute(self, name: str, value: Any) -> None:
        self.attributes[name] = value

    def end(self) -> None:
        self.ended = True


def test_a_span_says_what_its_job_used_and_no_word_of_it():
    job = Job(model="mini", prompts=("a secret",), sampling={"temperature": 0.5, "max_tokens": 9, "stop": ("secret",)})
    stream = Stream("7", stop=lambda id: None, end_thinking=lambda id: None)
    doing = Doing(stream, OpenTicket(), Tenant(), job, "chat", 0.0, first_s=0.25, queued_s=0.5)
    span = Recorded()
    spans = Spans(span, lambda given: f"context of {given}")
    TRACEPARENT.set("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    spans.began(doing)
    spans.ended(
        doing, events.Usage(prompt_tokens=5, cached_tokens=2, completion_tokens=4, reasoning_tokens=3), finish="stop"
    )
    assert span.ended and not spans.running and span.name == "chat mini" and "0af7651916" in span.context
    found = {name.removeprefix("gen_ai."): value for name, value in span.attributes.items()}
    assert found["usage.input_tokens"] == 5 and found["usage.reasoning.output_tokens"] == 3
    assert found["request.temperature"] == 0.5 and found["response.finish_reasons"] == ["stop"]
    assert found["response.time_to_first_chunk"] == 0.75 and "secret" not in str(span.attributes)


@pytest.mark.skipif(find_spec("opentelemetry") is None, reason="octavo[otel] is not installed")
def test_with_the_real_sdk_a_span_belongs_to_the_clients_trace():
    sdk, export = import_module("opentelemetry.sdk.trace"), import_module("opentelemetry.sdk.trace.export")
    memory = import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(memory))
    spans, stream = spans_of(provider), Stream("7", stop=lambda id: None, end_thinking=lambda id: None)
    job = Job(model="mini", prompts=("a secret",), sampling={"max_tokens": 9, "stop": ("secret",)})
    doing = Doing(stream, OpenTicket(), Tenant(), job, "completions", time.perf_counter(), first_s=0.0, queued_s=0.5)
    known = "0af7651916cd43dd8448eb211c80319c"
    for trace, finish in ((known, "stop"), ("", "error")):
        TRACEPARENT.set(f"00-{trace}-b7ad6b7169203331-01" if trace else "")
        spans.began(doing)
        spans.ended(doing, events.Usage(prompt_tokens=5, completion_tokens=4), finish=finish)
    first, second = memory.get_finished_spans()
    assert first.name == "text_completion mini" and f"{first.context.trace_id:032x}" == known
    assert f"{first.parent.span_id:016x}" == "b7ad6b7169203331" and second.parent is None
    assert first.attributes["gen_ai.usage.output_tokens"] == 4 and second.attributes["error.type"] == "server_error"
    assert first.end_time - first.start_time >= 0.5e9, "it began when the request came, before it waited"
    assert "secret" not in first.to_json()


@pytest.mark.skipif(find_spec("opentelemetry") is None, reason="octavo[otel] is not installed")
def test_opentelemetry_takes_them():
    assert spans_to("http://127.0.0.1:9").tracer.start_span("x").is_recording()


@pytest.mark.skipif(find_spec("opentelemetry") is not None, reason="octavo[otel] is installed")
def test_without_the_extra_the_server_says_what_to_install(tmp_path: Path):
    command = [
        sys.executable,
        "-c",
        "from octavo.cli.main import run; run()",
        "serve",
        str(mini_qwen3()),
        "--port",
        "0",
    ]
    done = subprocess.run([*command, "--otel", "http://127.0.0.1:9"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "octavo[otel]" in done.stderr
