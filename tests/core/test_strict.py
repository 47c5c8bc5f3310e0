"""What is no JSON of the kind that was needed gives one error, which names what it was."""

from typing import Any

import pytest

from octavo.core.errors import RequestError
from octavo.core.strict import decode


@pytest.mark.parametrize(
    "data", ["", "{", "[1]", '"\ud83d"', b'"\xff"', '{"a": "\\ud83d"}', "[" * 100_000, '{"a": "x"}', "NaN"]
)
def test_text_that_cannot_be_decoded_is_one_error(data: str | bytes):
    """Half a surrogate pair among it: so comes a byte of an argument that is no UTF-8."""
    with pytest.raises(RequestError, match=r"^the field: "):
        decode(data, dict[str, int], what="the field", error=RequestError)


def test_what_is_right_is_decoded():
    kind: Any = dict[str, int]
    assert decode('{"a": 1}', kind, what="the field", error=RequestError) == {"a": 1}
