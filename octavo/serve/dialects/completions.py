"""Legacy Completions: text that goes on, without a chat format. Source: OpenAI's API reference."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from octavo.core.deltas import TokenLogprob
from octavo.serve import events
from octavo.serve.dialects.chat import StreamOptions, at_least_one, drawn, error_body, reason, shape_of, timings, usage
from octavo.serve.errors import Refusal
from octavo.serve.job import Job
from octavo.serve.stream import Collected
from octavo.serve.wire import DONE, Asked, Head, checked, convert, event, read

PATH = "/v1/completions"
MAX_TOKENS = 16  # where the request says nothing: as OpenAI's


class Request(Struct, frozen=True, kw_only=True):
    """The body of a request; what else stands there is reported as ignored."""

    model: str
    prompt: str | list[str | int | list[int]]
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    max_tokens: int = MAX_TOKENS
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = None
    best_of: int | None = None
    logprobs: int | None = None
    echo: bool = False
    suffix: str | None = None
    structured_outputs: dict[str, Any] | None = None
    return_token_ids: bool | None = None
    cache_salt: str | None = None
    user: str | None = None


def decode(body: bytes) -> Asked:
    """A request. Raises Refusal naming the field."""
    request, ignored = read(body, Request)
    prompts = _prompts(request.prompt)
    if request.suffix:
        raise Refusal("suffix: no model here fills in between; give the prompt alone.", param="suffix")
    if request.best_of not in (None, request.n or 1):
        raise Refusal("best_of: replies are not ranked here; ask for n of them.", param="best_of")
    scored = request.echo and request.logprobs is not None
    if request.echo and not scored and not all(isinstance(one, str) for one in prompts):
        raise Refusal("echo: of a prompt that is tokens only together with logprobs.", param="echo")
    job = Job(model=request.model, prompts=prompts, scored=scored, sampling=_sampling(request),
              space=request.cache_salt or "")  # fmt: skip
    # What is scored comes as events; the rest of what is echoed is known here.
    echoed = tuple(one if request.echo and not scored and isinstance(one, str) else "" for one in prompts)
    return Asked(checked(job), request.stream, partial(Writer, request, echoed), ignored)


def _prompts(given: str | list[str | int | list[int]]) -> tuple[str | tuple[int, ...], ...]:
    """All prompts, texts or tokens. Raises Refusal for one that is empty, and where there is none."""
    many: list[Any] = given if isinstance(given, list) else [given]
    if many and all(isinstance(part, int) for part in many):
        many = [convert(many, list[int], at="prompt")]
    if not all(many) or not many or any(isinstance(one, int) for one in many):
        raise Refusal("prompt is empty, or tokens and texts are mixed: give texts, or lists of tokens.", param="prompt")
    return tuple(one if isinstance(one, str) else tuple(one) for one in many)


def _sampling(request: Request) -> dict[str, Any]:
    found = drawn(request) | {"max_tokens": at_least_one(request.max_tokens, "max_tokens")}
    if request.logprobs is not None:
        found["logprobs"] = request.logprobs
    return found | shape_of(None, request.structured_outputs)


class Writer:
    """Writes chunks, or one completion.   echoed: of each prompt the text that goes before its replies"""

    def __init__(self, request: Request, echoed: tuple[str, ...], head: Head) -> None:
        self.request, self.head = request, head
        self.echoed = [text for text in echoed for _ in range(int(request.n or 1))]
        self.base = {"id": f"cmpl-{head.id}", "object": "text_completion", "created": head.created, "model": head.model}
        self.offsets = [len(text) for text in self.echoed]  # of the next token's text, in characters
        self.usage_wanted = bool(request.stream_options and request.stream_options.include_usage)

    def write(self, batch: Sequence[events.Event]) -> bytes:
        """Chunks."""
        return b"".join(self._chunks(one) for one in batch)

    def _chunks(self, one: events.Event) -> bytes:
        match one:
            case events.Start():
                return b"".join(self._chunk(self._choice(i, text)) for i, text in enumerate(self.echoed) if text)
            case events.Text():
                return self._chunk(self._choice(one.index, one.text, one.logprobs))
            case events.Finish():
                choice = self._choice(one.index, "", finish=reason(one.reason), tokens=one.tokens)
                return self._chunk(choice)
            case events.Usage():
                told = {**self.base, "choices": [], "usage": usage(one), "timings": timings(one)}
                return (event(told) if self.usage_wanted else b"") + DONE
            case events.Error():
                return event({"error": error_body(one.message, one.kind)})
            case _:
                return b""

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return event({**self.base, "choices": [choice]})

    def whole(self, collected: Collected) -> dict[str, Any]:
        """A completion."""
        choices = [
            self._choice(i, self.echoed[i] + r.text, r.logprobs, finish=reason(collected.reasons[i]), tokens=r.tokens)
            for i, r in enumerate(collected.replies)
        ]
        used = collected.usage
        return {**self.base, "choices": choices, "usage": usage(used), "timings": timings(used)}

    def _choice(self, index: int, text: str, logprobs: Sequence[TokenLogprob] = (), *, finish: str | None = None,
                tokens: tuple[int, ...] = ()) -> dict[str, Any]:  # fmt: skip
        more = {"token_ids": list(tokens)} if self.request.return_token_ids and finish else {}
        return {"index": index, "text": text, "logprobs": self._logprobs(index, logprobs) if logprobs else None,
                "finish_reason": finish, **more}  # fmt: skip

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """In the old shape: four lists. A token that was forced has 0, as it was certain; the first of all has none."""
        texts = [_text(token.data) for token in tokens]
        starts = [self.offsets[index]]
        for text in texts:
            starts.append(starts[-1] + len(text))
        self.offsets[index] = starts.pop()
        return {
            "tokens": texts, "text_offset": starts,
            "token_logprobs": [self._known(token, start) for token, start in zip(tokens, starts, strict=True)],
            "top_logprobs": [{_text(data): value for _, data, value in token.top} or None for token in tokens],
        }  # fmt: skip

    def _known(self, token: TokenLogprob, start: int) -> float | None:
        first = self.request.echo and start == 0
        return token.logprob if token.logprob is not None or first else 0.0


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
