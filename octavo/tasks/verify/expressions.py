"""Small sums as text, read exactly: numbers, + - * /, brackets. Nothing is executed."""

import re
from fractions import Fraction

TOKEN = re.compile(r"\s*(\d{1,12}(?:\.\d{1,12})?|[-+*/()])")
MOST, DEEPEST, LARGEST = 200, 20, 10**30  # letters, brackets within each other, size of what comes out on the way


class Sum:
    """A sum that has been read.   value   exact; None: it is no sum, or divides by zero;   numbers   used, in order"""

    def __init__(self, text: str) -> None:
        self.numbers = list[Fraction]()
        self._rest = _tokens(text.replace("×", "*").replace("÷", "/").replace("−", "-"))
        self._depth = 0
        value = self._plus() if self._rest else None
        self.value = value if not self._rest else None

    def _plus(self) -> Fraction | None:
        value = self._times()
        while value is not None and self._rest and self._rest[-1] in "+-":
            sign, right = self._rest.pop(), self._times()
            value = None if right is None else _small(value + right if sign == "+" else value - right)
        return value

    def _times(self) -> Fraction | None:
        value = self._one()
        while value is not None and self._rest and self._rest[-1] in "*/":
            sign, right = self._rest.pop(), self._one()
            if right is None or (sign == "/" and right == 0):
                return None
            value = _small(value * right if sign == "*" else value / right)
        return value

    def _one(self) -> Fraction | None:
        token = self._rest.pop() if self._rest else ""
        if token == "-" and self._depth < DEEPEST:
            self._depth += 1
            inner = self._one()
            self._depth -= 1
            return None if inner is None else -inner
        if token == "(" and self._depth < DEEPEST:
            self._depth += 1
            inner = self._plus()
            self._depth -= 1
            closed = self._rest.pop() if self._rest else ""
            return inner if closed == ")" else None
        if not token[:1].isdigit():
            return None
        self.numbers.append(Fraction(token))
        return Fraction(token)


def _tokens(text: str) -> list[str]:
    """Last one first; none where the text is too long or has anything else in it."""
    found, at = list[str](), 0
    text = text.rstrip()
    while at < len(text) <= MOST:
        match = TOKEN.match(text, at)
        if match is None:
            return []
        found.append(match[1])
        at = match.end()
    return found[::-1]


def _small(value: Fraction) -> Fraction | None:
    return value if abs(value) <= LARGEST and value.denominator <= LARGEST else None
