"""The wire between the gateway and an engine's process: frames of msgpack, each after its length in four bytes."""

from typing import Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Struct

from octavo.serve.events import Event
from octavo.serve.job import Job

LENGTH_BYTES = 4
MOST_BYTES = 256 << 20  # of one frame: more is a broken wire
T = TypeVar("T")


class Open(Struct, frozen=True, array_like=True, tag="open"):
    """The first order of all: load this model; the fields are those of `octavo.chat.load`."""

    source: str
    name: str
    kind: str | None = None
    draft: str | None = None
    offline: bool = False


class Submit(Struct, frozen=True, array_like=True, tag="submit"):
    """Do a job; its events come under this id."""

    id: str
    job: Job


class Cancel(Struct, frozen=True, array_like=True, tag="cancel"):
    """Nobody wants it any more."""

    id: str


class EndThinking(Struct, frozen=True, array_like=True, tag="end"):
    """Close the thinking of a running job now."""

    id: str


class Question(Struct, frozen=True, array_like=True, tag="ask"):
    """Something that one `Answer` answers: at once (see `octavo.serve.answers` for what each takes and gives), or when
    the engine has worked for it (see `octavo.serve.questions`); a `Cancel` of such a one ends it without an answer."""

    id: str
    what: Literal["render", "count", "tokenize", "detokenize", "embed", "decide"]
    about: Any


Order = Open | Submit | Cancel | EndThinking | Question


class Ready(Struct, frozen=True, array_like=True, tag="ready"):
    """The model is loaded. facts: what `/v1/models` says of it."""

    name: str
    context_tokens: int
    facts: dict[str, Any]


class Frame(Struct, frozen=True, array_like=True, tag="frame"):
    """What one step of the engine gave: (job id, event), in order.

    began   ids of jobs whose first token came: perhaps long before an event shows it, where a tool call is written
    """

    events: tuple[tuple[str, Event], ...]
    began: tuple[str, ...] = ()


class Answer(Struct, frozen=True, array_like=True, tag="answer"):
    """What a `Question` asked for; error: why not, kind as in `errors.STATUS`."""

    id: str
    value: Any = None
    error: str = ""
    kind: str = ""


class Beat(Struct, frozen=True, array_like=True, tag="beat"):
    """The process lives.   step_age_s: how long the engine has been at its present step;   stats: of the engine"""

    step_age_s: float
    stats: dict[str, float]


class Failed(Struct, frozen=True, array_like=True, tag="failed"):
    """The model cannot be loaded: why, for the user.   memory: it is memory that is missing"""

    message: str
    memory: bool = False


Word = Ready | Frame | Answer | Beat | Failed


def framed(value: Order | Word) -> bytes:
    """A frame, length and all."""
    body = msgspec.msgpack.encode(value)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class Unframer(Generic[T]):
    """Bytes as they come -> whole values. Raises msgspec.DecodeError for what is none."""

    def __init__(self, kind: Any) -> None:
        self.decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self.held = bytearray()

    def push(self, data: bytes) -> list[T]:
        """The values that are whole now."""
        self.held += data
        found, start = list[T](), 0
        while len(self.held) - start >= LENGTH_BYTES:
            size = int.from_bytes(self.held[start : start + LENGTH_BYTES], "big")
            if size > MOST_BYTES:
                raise msgspec.DecodeError(f"a frame of {size:,} bytes: the wire is broken")
            end = start + LENGTH_BYTES + size
            if len(self.held) < end:
                break
            found.append(self.decoder.decode(memoryview(self.held)[start + LENGTH_BYTES : end]))
            start = end
        del self.held[:start]
        return found
