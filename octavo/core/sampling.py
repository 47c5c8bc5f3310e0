"""How a reply is chosen, and how much the model may think first."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from octavo.core.errors import RequestError


class Sampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sampling of one request. The defaults change nothing: plain sampling from the model's distribution.

    temperature          0 is greedy; at most 100
    top_p, min_p         share of probability, 0..1;  top_k   0 is off
    repetition_penalty   > 0, 1 is off, over prompt and reply (CTRL, arXiv:1909.05858)
    presence_penalty, frequency_penalty   -2..2, 0 is off, over the reply only (as in OpenAI's API)
    logit_bias           token id -> added logit
    max_tokens           None: until the context is full; 0: only score the prompt
    stop                 strings that end the reply and are not part of it
    seed                 None: a fresh one;  n   replies to the one prompt, reply i drawn with its own stream of `seed`
    logprobs             None: off; k: log-probability in nats of each token, and the k likeliest beside it
    schema, regex, choice   at most one: what the answer (never the thinking) must match; schema is a JSON schema
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None
    schema: dict[str, Any] | bool | None = None
    regex: str | None = None
    choice: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise RequestError naming the field that is out of range."""
        bounds = {
            "temperature": (0, 100), "top_p": (0, 1), "top_k": (0, 1 << 31), "min_p": (0, 1),
            "repetition_penalty": (1e-3, 1e3), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2),
            "max_tokens": (0, 1 << 31), "n": (1, 1024), "logprobs": (0, 1000), "seed": (-(1 << 63), (1 << 64) - 1),
        }  # fmt: skip
        for field, (low, high) in bounds.items():
            value = getattr(self, field)
            if value is not None and not low <= value <= high:  # NaN fails both comparisons, so it is refused too
                raise RequestError(f"{field}={value} is out of range: it must be from {low} to {high}.")
        if any(not text for text in self.stop):
            raise RequestError('stop has an empty string "": every reply would end at once. Remove it.')
        if (self.schema is not None) + (self.regex is not None) + bool(self.choice) > 1:
            raise RequestError("schema, regex and choice exclude each other: give one of them.")


def overridden(base: Sampling, fields: Mapping[str, Any]) -> Sampling:
    """`base` with `fields` in it. Raises RequestError for a field that is unknown or holds what it may not."""
    unknown = sorted(set(fields) - set(Sampling.__struct_fields__))
    if unknown:
        raise RequestError(f"{unknown[0]} is no sampling option: choose of {', '.join(Sampling.__struct_fields__)}.")
    try:
        return msgspec.convert({**asdict(base), **fields}, Sampling)
    except msgspec.ValidationError as cause:
        raise RequestError(f"A setting is not of the right kind: {cause}.") from cause


class Thinking(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether the model thinks before it answers, and for how many tokens at most (None: no limit)."""

    mode: Literal["auto", "on", "off"] = "auto"  # auto: what the model does by default
    budget_tokens: int | None = None

    def __post_init__(self) -> None:
        """Raise RequestError for a negative budget."""
        if self.budget_tokens is not None and self.budget_tokens < 0:
            raise RequestError(f"budget_tokens={self.budget_tokens} is negative: give 0 or more, or none for no limit.")
