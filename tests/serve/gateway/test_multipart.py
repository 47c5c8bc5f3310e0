"""The reader of forms: the same pieces however the bytes are cut, and a refusal for everything that is no form."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.serve.errors import Refusal
from octavo.serve.gateway.multipart import MOST_PARTS, Multipart, boundary_of

PARTS = st.lists(
    st.tuples(st.sampled_from(("file", "purpose", "x")), st.sampled_from((None, "a b.jsonl")), st.binary(max_size=300)),
    min_size=1, max_size=5,
)  # fmt: skip


def form(parts, boundary: bytes) -> bytes:
    out = b""
    for name, filename, data in parts:
        more = f'; filename="{filename}"' if filename else ""
        out += (
            b"--"
            + boundary
            + f'\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()
            + data
            + b"\r\n"
        )
    return out + b"--" + boundary + b"--\r\n"


def read(chunks, boundary: bytes) -> list[tuple[str, str | None, bytes]]:
    reader, found = Multipart(boundary), list[tuple[str, str | None, bytes]]()
    for chunk in chunks:
        for piece in reader.push(chunk):
            if piece.first:
                found.append((piece.name, piece.filename, b""))
            found[-1] = (piece.name, piece.filename, found[-1][2] + piece.data)
    assert reader.done
    return found


@given(parts=PARTS, cuts=st.lists(st.integers(0, 2000), max_size=12))
def test_a_form_is_read_the_same_however_it_is_cut(parts, cuts):
    boundary = b"x-boundary-42"
    parts = [(name, filename, data.replace(b"\r\n--x", b"")) for name, filename, data in parts]
    data = form(parts, boundary)
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    assert read([data[a:b] for a, b in pairwise(edges)], boundary) == parts
    assert read([data[i : i + 1] for i in range(len(data))], boundary) == parts


@given(data=st.binary(max_size=400))
def test_what_is_no_form_is_refused_or_unfinished_never_believed(data):
    reader = Multipart(b"b")
    try:
        reader.push(data)
    except Refusal:
        return
    assert not reader.done or data.startswith(b"--b")


@pytest.mark.parametrize("data", [
    b"--b\r\nContent-Disposition: attachment\r\n\r\nx\r\n--b--", b"--b\r\nX: y\r\n\r\nx\r\n--b--", b"--c\r\n\r\n",
    b"--b\r\n" + b"a" * 9000, b"--b??", form([("x", None, b"1")] * (MOST_PARTS + 1), b"b"),
])  # fmt: skip
def test_broken_and_boundless_forms_are_refused(data: bytes):
    with pytest.raises(Refusal):
        Multipart(b"b").push(data)


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", f"x/y; boundary={'b' * 71}"])
def test_a_boundary_has_1_to_70_characters(kind: str):
    with pytest.raises(Refusal):
        boundary_of(kind)
    assert boundary_of('multipart/form-data; boundary="a b"') == b"a b"
