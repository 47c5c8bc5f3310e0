"""What the engine's laws are tried on: random requests, alone or in a crowd; small models; a small vocabulary."""

import random
from typing import Any

import msgspec
import torch

from octavo.core.channel import Markers
from octavo.core.sampling import Sampling
from octavo.core.vocabulary import Vocabulary
from octavo.engine.engine import Engine
from octavo.engine.torch_backend import TorchBackend
from octavo.engine.types import Backend, Request, Step
from octavo.models import build

# Ids of the hash backend's format: an early-stop text of five tokens, the tag as the fourth, and a gap of one.
MARKERS = Markers(think_open=1, think_close=2, tool_open=3, tool_close=4, turn_open=5, early_stop=(10, 11, 12, 2, 13),
                  gap=(13,), end=(6,))  # fmt: skip
LOUD = {1: 2.0, 2: 2.0, 3: 0.5, 4: 2.0, 6: 1.0, 13: 1.0}
ORDINARY = range(20, 64)


def requests(rng: random.Random, count: int, *, budgets: bool = False) -> list[Request]:
    """Random requests, some with a common beginning, some asking for several replies."""
    stems = [tuple(rng.choices(ORDINARY, k=rng.randint(1, 30))) for _ in range(3)]
    made: list[Request] = []
    for i in range(count):
        head = rng.choice([*stems, ()])
        prompt = (5, *head, *rng.choices(ORDINARY, k=rng.randint(0, 12)), *rng.choice([(), (1,), (1, 2, 13)]))
        sampling = Sampling(
            temperature=rng.choice([0, 0, 0.7, 1.5]), top_p=rng.choice([1, 0.8]), top_k=rng.choice([0, 5]),
            min_p=rng.choice([0, 0.05]), repetition_penalty=rng.choice([1, 1.2]), seed=rng.randrange(1 << 40),
            presence_penalty=rng.choice([0, 0.5]), frequency_penalty=rng.choice([0, 0.3]),
            max_tokens=rng.randint(1, 40), logprobs=rng.choice([None, 0, 3]), n=rng.choice([1, 1, 1, 3]),
        )  # fmt: skip
        budget = rng.choice([0, 1, 2, 5, 12]) if budgets else rng.choice([None, None, 3])
        made.append(Request(id=str(i), tokens=prompt, sampling=sampling, markers=MARKERS, budget_tokens=budget))
    return made


def said(steps: list[Step], request: Request) -> list[list[Any]]:
    """All that a request's replies depend on themselves: nothing of how they were scheduled."""
    own = [msgspec.structs.replace(step, cached_tokens=0) for step in steps if step.id == request.id]
    return [[step for step in own if step.index == i] for i in range(request.sampling.n)]


def crowded(engine: Engine, wanted: list[Request], rng: random.Random) -> list[Step]:
    """Submit requests at random moments, and run to the end."""
    left, steps = list(wanted), list[Step]()
    while left or engine.busy:
        for _ in range(rng.choice([0, 0, 1, 3])):
            if left:
                engine.submit(left.pop(0))
        steps += engine.step()
    return steps


def replace_tokens(sampling: Sampling, most: int) -> Sampling:
    """The same settings with another max_tokens."""
    return msgspec.structs.replace(sampling, max_tokens=most)


def tiny_model(*, vocab_size: int) -> torch.nn.Module:
    """A Qwen3 with large random weights in fp32."""
    torch.manual_seed(0)
    config = {
        "model_type": "qwen3", "vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 48, "head_dim": 16,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": False,
    }  # fmt: skip
    model = build(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def small_backend(model: torch.nn.Module, *, pages: int, page_tokens: int) -> Backend:
    """A torch backend with exactly so many pages."""
    one = TorchBackend(model, cache_bytes=1 << 24, page_tokens=page_tokens)
    return TorchBackend(model, cache_bytes=(1 << 24) // one.pages * pages, page_tokens=page_tokens)


WORD_MARKERS = Markers(think_open=1, think_close=2, turn_open=5, early_stop=(10, 2, 11), gap=(11,), end=(6, 7))


def toy_vocabulary() -> Vocabulary:
    """All bytes, some pieces of JSON and of words in several scripts, and the control tokens of WORD_MARKERS."""
    pieces = ['{"', '":', '", "', '"}', "[]", "null", "true", "false", ": ", ", ", "12", "-1", "0.5", "e1", "na", "me",
              "år", "猫", "日本", "😀", "\\u", "\\n", " the", " of", "red", "blue", "2024-", "\n\n"]  # fmt: skip
    control = {1: b"<think>", 2: b"</think>", 5: b"<turn>", 6: b"<end>", 7: b"<eot>", 10: b"enough\n", 11: b"\n\n"}
    tokens = [control.get(i, b"") for i in range(20)] + [bytes([b]) for b in range(256)] + [p.encode() for p in pieces]
    return Vocabulary(tokens=tuple(tokens), special=frozenset({1, 2, 5, 6, 7}), end=6)


POINT = {"type": "object", "properties": {axis: {"type": "integer", "minimum": 0, "maximum": 999} for axis in "xy"},
         "required": ["x", "y"], "additionalProperties": False}  # fmt: skip


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    """An object with exactly these properties."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
