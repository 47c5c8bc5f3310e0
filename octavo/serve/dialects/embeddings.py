"""Embeddings. Source: OpenAI's API reference. What a vector is, `octavo.serve.questions.embed` says."""

import base64
from array import array
from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from octavo.serve.bounds import most
from octavo.serve.errors import Refusal
from octavo.serve.wire import read

PATH = "/v1/embeddings"
MOST_INPUTS, MOST_CHARACTERS = 2048, 1_200_000  # of one request: OpenAI's API takes 300,000 tokens
Input = str | tuple[int, ...]


class Request(Struct, kw_only=True):
    """The body of a request."""

    input: str | list[str | int | list[int]]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


def decode(body: bytes) -> tuple[Request, tuple[Input, ...]]:
    """A request and its texts, or tokens. Raises Refusal naming the field."""
    request, _ = read(body, Request)
    given = request.input
    inputs: tuple[Input, ...]
    if isinstance(given, str):
        inputs = (given,)
    elif given and all(isinstance(one, int) for one in given):
        inputs = (tuple(one for one in given if isinstance(one, int)),)
    else:
        inputs = tuple(_one(one, i) for i, one in enumerate(given))
    if not inputs or not all(inputs):
        raise Refusal("input is empty, or holds an empty text: give at least one character.", param="input")
    most("input", len(inputs), MOST_INPUTS, unit="texts")
    most("input", sum(map(len, inputs)), MOST_CHARACTERS, unit="characters or tokens")
    if request.dimensions is not None and request.dimensions < 1:
        raise Refusal(f"dimensions is {request.dimensions}: give 1 or more.", param="dimensions")
    return request, inputs


def _one(given: str | int | list[int], i: int) -> Input:
    if isinstance(given, int):
        raise Refusal(f"input[{i}] is a number among texts: give texts, or lists of tokens.", param=f"input[{i}]")
    return given if isinstance(given, str) else tuple(given)


def body(request: Request, *, model: str, vectors: Sequence[Sequence[float]], tokens: int) -> dict[str, Any]:
    """The response."""
    told = _packed if request.encoding_format == "base64" else list
    return {
        "object": "list", "model": model,
        "data": [{"object": "embedding", "index": i, "embedding": told(vector)} for i, vector in enumerate(vectors)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }  # fmt: skip


def _packed(vector: Sequence[float]) -> str:
    """float32, little-endian, base64."""
    return base64.b64encode(array("f", vector).tobytes()).decode()
