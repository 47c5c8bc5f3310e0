"""A strict, bounded reader of multipart/form-data, piece by piece as the bytes come. Source: RFC 7578, RFC 2046."""

from email.message import Message
from email.parser import BytesHeaderParser
from typing import Literal

from msgspec import Struct

from octavo.serve.errors import Refusal

MOST_HEAD_BYTES = 8192
MOST_PARTS = 16
MOST_BOUNDARY = 70  # characters, as RFC 2046 has it


class Piece(Struct, frozen=True):
    """Some bytes of a part.   filename   None: a plain field;   first   the part begins here"""

    name: str
    filename: str | None
    data: bytes
    first: bool = False


def boundary_of(content_type: str) -> bytes:
    """The boundary that a content type names. Raises Refusal for one that is missing or no boundary."""
    head = Message()
    head["content-type"] = content_type
    found = head.get_param("boundary")
    if not isinstance(found, str) or not 0 < len(found) <= MOST_BOUNDARY or not found.isascii():
        raise Refusal(
            "content-type multipart/form-data needs a boundary of 1 to 70 characters.", code="invalid_multipart"
        )
    return found.encode()


class Multipart:
    """Bytes -> pieces. Raises Refusal for what is no multipart/form-data.   done   its end was seen"""

    def __init__(self, boundary: bytes) -> None:
        self.line = b"\r\n--" + boundary
        self.held = b"\r\n"  # so that the first boundary is as all others
        self.state: Literal["start", "after", "head", "body", "done"] = "start"
        self.name, self.filename, self.first, self.parts = "", None, False, 0

    @property
    def done(self) -> bool:
        """Whether all parts have come."""
        return self.state == "done"

    def push(self, data: bytes) -> list[Piece]:
        """The pieces that are sure now."""
        self.held += data
        found = list[Piece]()
        while self._step(found):
            continue
        return found

    def _step(self, found: list[Piece]) -> bool:
        """One thing more, if there is enough of it."""
        match self.state:
            case "start":
                if len(self.held) < len(self.line):
                    return False
                if not self.held.startswith(self.line):
                    raise _broken("it does not begin with its boundary")
                self.held, self.state = self.held[len(self.line) :], "after"
            case "after":
                if len(self.held) < 2:
                    return False
                mark, self.held = self.held[:2], self.held[2:]
                if mark not in (b"\r\n", b"--"):
                    raise _broken("a boundary goes on after its end")
                self.state = "head" if mark == b"\r\n" else "done"
            case "head":
                end = self.held.find(b"\r\n\r\n")
                if end > MOST_HEAD_BYTES or (end < 0 and len(self.held) > MOST_HEAD_BYTES):
                    raise _broken(f"the head of a part has more than {MOST_HEAD_BYTES:,} bytes")
                if end < 0:
                    return False
                self._head(self.held[: end + 4])
                self.held, self.state = self.held[end + 2 :], "body"  # an empty body ends on the same line end
                self.first = True
            case "body":
                return self._body(found)
            case "done":
                self.held = b""  # an epilogue means nothing
                return False
        return True

    def _head(self, data: bytes) -> None:
        self.parts += 1
        if self.parts > MOST_PARTS:
            raise _broken(f"it has more than {MOST_PARTS} parts")
        head = BytesHeaderParser().parsebytes(data)
        name, filename = head.get_param("name", header="content-disposition"), head.get_filename()
        if head.get_content_disposition() != "form-data" or not isinstance(name, str):
            raise _broken("a part has no content-disposition: form-data with a name")
        self.name, self.filename = name, filename

    def _body(self, found: list[Piece]) -> bool:
        start = 2 if self.first else 0  # the line end that closes the head
        end = self.held.find(self.line)
        sure = end if end >= 0 else len(self.held) - len(self.line) + 1
        if sure > start or end >= 0:
            found.append(Piece(self.name, self.filename, self.held[start : max(start, sure)], self.first))
            self.held, self.first = self.held[max(start, sure) if end < 0 else end :], False
        if end < 0:
            return False
        self.held, self.state = self.held[len(self.line) :], "after"
        return True


def _broken(why: str) -> Refusal:
    return Refusal(f"the multipart body is broken: {why}.", code="invalid_multipart")
