"""What all dialects share: strict decoding that names the field, and the shape of server-sent events."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from octavo.core.errors import OctavoError
from octavo.core.sampling import Sampling, overridden
from octavo.serve.bounds import DEPTH, bounded, bounded_metadata, depth
from octavo.serve.errors import Refusal
from octavo.serve.events import Event
from octavo.serve.job import Job
from octavo.serve.stream import Collected

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
MOST_VALUES = 200_000  # lists and objects of a body: 0.2 s, in which nobody else is heard
MISSING = "missing required field `"  # as msgspec says it
KEEP_ALIVE = b": keep-alive\n\n"


class Head(NamedTuple):
    """What every piece of a response repeats.   id: of the request, without a prefix;   created: Unix time, seconds"""

    id: str
    created: int
    model: str


class Writer(Protocol):
    """Writes one response. Of a stream, `write` for each batch of events; of a whole one, `whole` once."""

    def write(self, batch: Sequence[Event]) -> bytes:
        """Server-sent events for a batch, the first and the last ones included."""
        ...

    def whole(self, collected: Collected) -> Any:
        """The JSON value of a response that is not streamed."""
        ...


class Asked(NamedTuple):
    """A request, understood.   ignored: fields that this server does not know"""

    job: Job
    stream: bool
    writer: Callable[[Head], Writer]
    ignored: tuple[str, ...] = ()


def read(body: bytes, kind: type[T]) -> tuple[T, tuple[str, ...]]:
    """The request in a body, and the names of fields that are not understood. Raises Refusal naming the field.

    kind   a msgspec Struct; a field that holds null is taken as absent
    """
    inner = body.count(b"[") + body.count(b"{")
    if inner > MOST_VALUES:
        raise Refusal(f"the body has {inner:,} of the signs [ and {{: at most {MOST_VALUES:,} are read. Send less at "
                      f"once.", code="above_limit")  # fmt: skip
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise Refusal(f"the body is not valid JSON: {cause}.", code="invalid_json") from cause
    if not isinstance(value, dict):
        raise Refusal(f"the body is a JSON {type(value).__name__}, an object was needed.", code="invalid_json")
    if inner > DEPTH:  # with fewer it cannot be deeper
        depth(value, DEPTH, field="")
    bounded_metadata(value.get("metadata"))
    given = {name: field for name, field in value.items() if field is not None}
    return convert(given, kind), tuple(sorted(set(given) - set(_fields(kind))))


def convert(value: Any, kind: type[T], *, at: str = "") -> T:
    """A plain value as a Struct. Raises Refusal naming the field; `at` is where the value stands, as `messages[2]`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as cause:
        what, _, where = str(cause).partition(" - at `$")
        path = (at + where.rstrip("`")).lstrip(".")
        missing = what.partition(MISSING)[2].rstrip("`")
        if missing:
            path = f"{path}.{missing}".lstrip(".")
            raise Refusal(f"{path} is missing.", param=path) from cause
        raise Refusal(f"{path or 'the body'}: {what}.", param=path) from cause
    except OctavoError as cause:
        raise Refusal(f"{at + ': ' if at else ''}{cause}", param=at) from cause


def _fields(kind: Any) -> set[str]:
    return set(kind.__struct_encode_fields__)


def checked(job: Job) -> Job:
    """The job, if its sampling is possible and nothing in it is too much; its top_k of -1 is off, as for vLLM.

    Raises Refusal naming the field.
    """
    bounded(job)
    if job.sampling.get("top_k") == -1:
        job = msgspec.structs.replace(job, sampling={**job.sampling, "top_k": 0})
    try:
        overridden(Sampling(), job.sampling)
    except OctavoError as cause:
        field = next((name for name in job.sampling if str(cause).startswith((f"{name}=", f"{name} "))), "")
        raise Refusal(str(cause), param=field) from cause
    return job


def event(value: Any, *, name: str = "") -> bytes:
    """One server-sent event with a JSON value."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + on_one_line(msgspec.json.encode(value)) + b"\n\n"


def on_one_line(body: bytes) -> bytes:
    """JSON in which even those clients find no line break that split text where Unicode has one."""
    if b"\xc2\x85" in body or b"\xe2\x80" in body:
        for code in ("85", "2028", "2029"):
            body = body.replace(chr(int(code, 16)).encode(), b"\\u" + code.rjust(4, "0").encode())
    return body
