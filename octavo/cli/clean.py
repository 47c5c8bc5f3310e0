"""Text that a terminal may be shown: nothing in it can move the cursor, set the title or type on the user's behalf."""

from octavo.core.errors import RequestError

# \t and \n stay. Other C0 characters and DEL become their visible pictures; C1, lone surrogates and the characters that
# turn the reading direction become U+FFFD. Line and paragraph separators become line breaks; \r goes.
_SHOWN: dict[int, int | None] = {
    **{code: 0x2400 + code for code in range(0x20) if code not in (0x09, 0x0A)},
    0x0D: None,
    0x7F: 0x2421,
    **{code: 0xFFFD for code in range(0x80, 0xA0)},
    **{code: 0xFFFD for code in range(0xD800, 0xE000)},
    **{code: 0xFFFD for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
    0x2028: 0x0A,
    0x2029: 0x0A,
}


def clean(text: str) -> str:
    """`text` with every control character made harmless; piece by piece or whole, the result is the same."""
    return text.translate(_SHOWN)


def one_line(text: str) -> str:
    """`text` cleaned, on one line."""
    return " ".join(clean(text).split())


def encodable(text: str) -> str:
    """`text` without lone surrogates (from bytes that are not UTF-8), which no tokenizer or file takes."""
    return text.encode("utf-8", errors="replace").decode()


def exact(text: str, *, what: str) -> str:
    """`text` as it is: a name or a rule, of which nothing may be replaced. Raises RequestError for lone surrogates."""
    if text != encodable(text):
        raise RequestError(f"{what} {text!r} holds bytes that are not UTF-8: write it in UTF-8.")
    return text
