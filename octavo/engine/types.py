"""The engine's words. It turns tokens into tokens: `Request` in, `Step`s out; a `Backend` does the arithmetic."""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from octavo.core.channel import Channel, Markers
from octavo.core.sampling import Sampling
from octavo.core.vocabulary import Vocabulary

EngineFinish = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CallForm:
    """How a call of one function is written: `before`, arguments by a JSON schema, `after`.   name: for errors"""

    name: str
    before: str
    schema: dict[str, Any]
    after: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """Which calls a reply may make: between the tokens that open and close one, where the markers have them.

    forms      what a call may be;   between   tokens between one call and the next
    required   the answer is calls and nothing else; then no schema, regex or choice is asked of it
    parallel   whether there may be several, else the first one ends the reply
    Once a reply calls, calls are all that follows.
    """

    forms: tuple[CallForm, ...]
    between: tuple[int, ...] = ()
    required: bool = False
    parallel: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One thing to generate (sampling.n replies to one prompt) or to score (sampling.max_tokens=0 with logprobs).

    id              unique among running requests
    tokens          the rendered prompt, at least one token
    markers         borders of the channels; the start channel is read from `tokens`
    budget_tokens   thinking tokens sampled at most, over all thinking of the reply; None: no limit
    vocabulary      needed for stop strings, grammars and calls
    space           prompts are found again within one space only: who measures times learns nothing of other spaces
    calls           what its calls must look like; None: nothing is asked of them
    rules           constraints beside all these; each reply gets clones of them
    scored_from     of a prompt that is scored: the first token whose log-probability is wanted, at least 1; what stands
                    before may have been computed for others
    pools           with sampling.max_tokens=0: the mean of the prompt's rows before the head is wanted, and no more
    """

    id: str
    tokens: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    markers: Markers = field(default_factory=Markers)
    budget_tokens: int | None = None
    vocabulary: Vocabulary | None = None
    space: str = ""
    calls: Calls | None = None
    rules: "tuple[Rule, ...]" = ()
    scored_from: int = 1
    pools: bool = False


def vocabulary_of(request: Request) -> Vocabulary:
    """What a request's tokens spell, where it asks for something that needs it."""
    assert request.vocabulary is not None, "stop strings, grammars and calls need the request's vocabulary"
    return request.vocabulary


class Step(Struct, frozen=True, kw_only=True):
    """One new token of one reply, or its end.

    token        the token; None in a last step that adds none (cancelled; stopped before any token)
    logprob      nats, under the model's own distribution before temperature; None: forced, or not asked for
    top          (token, logprob) of the likeliest, where asked for
    finish       set on the reply's last step
    keep_bytes   on the last step, where a stop string ended the reply: bytes of the reply's ANSWER text that precede
                 the stop string; None otherwise
    prompt_logprobs   on the last step of a scoring request: entry i is the logprob in nats of prompt token i given
                 those before it (NaN where it is not wanted, and for i = 0)
    pooled       on the last step of a request that pools: the mean row
    cached_tokens     prompt tokens whose keys and values came from the prefix tree
    thinking_stop     how the thinking ended, from the step that ended it on
    error             with finish "error": what went wrong, for the user
    """

    id: str
    index: int
    token: int | None
    channel: Channel
    forced: bool = False
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: EngineFinish | None = None
    keep_bytes: int | None = None
    prompt_logprobs: tuple[float, ...] = ()
    prompt_top: tuple[tuple[tuple[int, float], ...], ...] = ()
    pooled: tuple[float, ...] = ()
    cached_tokens: int = 0
    thinking_stop: Literal["natural", "budget", "user"] | None = None
    error: str | None = None


class Chunk(Struct, frozen=True, kw_only=True):
    """New tokens of one sequence in one forward pass.

    tokens   token ids, at least one;   start   position of the first one = number of tokens already in the pages
    pages    page numbers, in order, covering positions 0 .. start+len(tokens)-1
    rows     which tokens' logits are wanted: "last"; "all" (a prompt that is scored, a step with drafts); or "none" (a
             prefill chunk that is not the last)
    """

    tokens: tuple[int, ...]
    start: int
    pages: tuple[int, ...]
    rows: Literal["none", "last", "all"] = "last"


def rows_of(chunk: Chunk) -> int:
    """How many rows of logits it gives."""
    return 1 if chunk.rows == "last" else 0 if chunk.rows == "none" else len(chunk.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """The keys and values of the first `tokens` slots of page `source`, in all layers, go to those of page `target`."""

    source: int
    target: int
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What one forward pass computes. Two chunks never write the same page.

    copies   carried out before the chunks; no source is written by this plan, and each target once
    """

    chunks: tuple[Chunk, ...]
    copies: tuple[Copy, ...] = ()


class Backend(Protocol):
    """Runs a model over pages of keys and values.

    vocab_size       width of a row of logits;   width   of a row before the head
    context_tokens   longest sequence the model takes
    page_tokens      tokens per page;            pages            how many pages there may be (numbers 0..pages-1);
                     memory is taken as pages are first written, not before
    """

    vocab_size: int
    width: int
    context_tokens: int
    page_tokens: int
    pages: int

    def forward(self, plan: Plan) -> NDArray[np.float32]:
        """Logits (rows, vocab_size), fp32, rows in the order of the chunks; keys and values go to the pages.

        Should it raise, the same copies and chunks may come again.
        """
        ...

    def hidden(self, plan: Plan) -> NDArray[np.float32]:
        """As `forward`, but the rows after the last norm (rows, width), which the head makes logits of."""
        ...


class Rule(Protocol):
    """A pure state machine over the tokens of one reply. `clone` gives an independent copy, for replay over drafts.

    at   the channel that the next token has unless it is itself a border
    """

    def forced(self, at: Channel) -> tuple[int, ...]:
        """Tokens that must come next, without sampling; empty: none."""
        ...

    def allowed(self, at: Channel) -> NDArray[np.int32] | None:
        """Bit mask over the vocabulary (bit i%32 of word i//32: token i may come next); None: all may."""
        ...

    def accept(self, token: int, channel: Channel) -> None:
        """One token was added to the reply (sampled or forced), on this channel."""
        ...

    def finished(self) -> bool:
        """Whether the reply ends here."""
        ...

    def clone(self) -> "Rule":
        """An independent copy in the same state."""
        ...
