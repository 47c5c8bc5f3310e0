"""OpenVINO GenAI on the CPU, from its own export. Prompts are token ids; every reply has its full length.

What it may choose: `LLMPipeline` over plain attention (SDPA) or over pages (PA), and for several sequences the
`ContinuousBatchingPipeline`, stepped as its own `generate` does. Its cache is 8-bit by default on a CPU, which is its
fastest; "16" asks for nothing else.
"""

import time
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai

from bench.rivals.worker import MissingFigure, Order, prompt, serve

STEP_TOKENS = (512, 2048)  # of one step of continuous batching


class OpenVino:
    """Implements `worker.Runner`. Pipelines are opened when a setting first needs them."""

    def __init__(self, path: str, threads: int) -> None:
        self.path, self.threads = path, threads
        self.pipelines: dict[str, Any] = {}
        self.pipeline("PA")

    def settings(self, order: Order) -> list[str]:
        """Which pipelines can do this."""
        if order.do == "requests":
            return [f"CB {tokens}" for tokens in STEP_TOKENS]
        return ["PA", "SDPA"] if order.batch == 1 else [f"CB {STEP_TOKENS[-1]}", "SDPA"]

    def pipeline(self, setting: str) -> Any:
        """A pipeline by the name of its setting."""
        if setting not in self.pipelines:
            properties = {"INFERENCE_NUM_THREADS": self.threads}
            if setting.startswith("CB "):
                scheduler = genai.SchedulerConfig()
                scheduler.max_num_batched_tokens = int(setting.removeprefix("CB "))
                scheduler.max_num_seqs, scheduler.cache_size, scheduler.enable_prefix_caching = 256, 4, False
                self.pipelines[setting] = genai.ContinuousBatchingPipeline(self.path, scheduler, "CPU", properties)
            else:
                properties |= {"ATTENTION_BACKEND": setting}
                self.pipelines[setting] = genai.LLMPipeline(self.path, "CPU", properties)
        return self.pipelines[setting]

    def decode(self, order: Order, setting: str) -> list[float]:
        """Seconds between tokens: of its own clock, or of the steps we take."""
        size = order.context - order.steps // 2
        prompts = [prompt(order, i, tokens=size) for i in range(order.batch)]
        if setting.startswith("CB "):
            if order.batch * size > int(setting.removeprefix("CB ")):
                raise MissingFigure("the prompts do not fit into one step of this pipeline")
            took_s, _ = self.stepped([(tokens, order.steps + 2) for tokens in prompts], setting)
            return took_s[2 : 2 + order.steps]
        result = self.pipeline(setting).generate(inputs(prompts), config(order.steps + 3))
        times = np.diff(np.array(result.perf_metrics.raw_metrics.m_new_token_times))
        assert len(times) >= order.steps, f"{len(times)} times for {order.steps} steps"
        return list(times[-order.steps :] / 1000)

    def prefill(self, order: Order, setting: str) -> float:
        """A prompt and one token."""
        tokens = inputs([prompt(order, 0, tokens=order.context)])
        start = time.perf_counter()
        self.pipeline(setting).generate(tokens, config(1))
        return time.perf_counter() - start

    def requests(self, work: list[tuple[list[int], int]], setting: str) -> float:
        """All at once."""
        took_s, given = self.stepped(work, setting)
        assert given == sum(reply for _, reply in work)
        return sum(took_s)

    def stepped(self, work: list[tuple[list[int], int]], setting: str) -> tuple[list[float], int]:
        """Seconds of each step, and tokens that came."""
        pipeline, took_s = self.pipeline(setting), list[float]()
        handles = [
            pipeline.add_request(i, openvino.Tensor(np.array([tokens], np.int64)), config(reply))
            for i, (tokens, reply) in enumerate(work)
        ]
        while pipeline.has_non_finished_requests():
            start = time.perf_counter()
            pipeline.step()
            took_s.append(time.perf_counter() - start)
        return took_s, sum(len(output.generated_ids) for handle in handles for output in handle.read_all())


def inputs(prompts: list[list[int]]) -> Any:
    """Token ids of equal lengths, with a mask that hides nothing."""
    ids = np.array(prompts, np.int64)
    return genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))


def config(tokens: int) -> Any:
    """Greedy, exactly `tokens` long."""
    made = genai.GenerationConfig()
    made.max_new_tokens, made.ignore_eos, made.do_sample, made.apply_chat_template = tokens, True, False, False
    return made


def import_all() -> None:
    """All that OpenVINO needs is imported above."""
    assert genai.__version__


def load(path: str, kind: str, threads: int) -> Any:
    """One exported folder; it says itself what kind its weights are."""
    return OpenVino(path, threads)


if __name__ == "__main__":
    serve(import_all, load)
