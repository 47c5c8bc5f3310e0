"""Chat templates of unknown models: compiled in Jinja's immutable sandbox, with bounds on time and size.

Settings and functions are those of `apply_chat_template` in transformers: trim_blocks, lstrip_blocks, loop controls,
`tojson` without HTML escapes, `raise_exception`, `strftime_now`, `generation` blocks.
"""

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from octavo.core.errors import FormatError

LIMIT_S = 5.0  # a template takes a millisecond or so
LIMIT_TEMPLATE, LIMIT_OUTPUT = 1 << 20, 1 << 26  # characters
LIMIT_VALUE = 1 << 24  # characters or items of a value within a template
TOO_LARGE = f"a value has more than {LIMIT_VALUE:,} characters or items"


class GenerationBlock(Extension):
    """`{% generation %} ... {% endgeneration %}`: what the model writes, between the marks of the environment."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: Parser) -> nodes.Node:
        """The block as a call that puts marks around it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("marked"), [], [], body).set_lineno(line)

    def marked(self, caller: Callable[[], str]) -> str:
        """The block's text between the marks, if there are any."""
        begin, end = getattr(self.environment, "generation_marks", ("", ""))
        return f"{begin}{caller()}{end}"


class Sandbox(ImmutableSandboxedEnvironment):
    """Stops a template that runs too long or makes values that are too large; checks at every call and look-up."""

    intercepted_binops = frozenset(("*", "**", "+"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols])
        self.filters["tojson"] = tojson
        self.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
        del self.globals["lipsum"]  # makes any amount of text in one call, which nothing could stop
        self.deadline_s = float("inf")
        self.generation_marks: tuple[str, str] = ("", "")

    def check(self) -> None:
        """Raise where the time is up."""
        if time.monotonic() > self.deadline_s:
            raise SecurityError(f"it ran for more than {LIMIT_S:g} s")

    def is_safe_callable(self, obj: Any) -> bool:
        """Asked before every call within the template."""
        self.check()
        return super().is_safe_callable(obj)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`a.b` within the template."""
        self.check()
        return _small(super().getattr(obj, attribute))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`a[b]` within the template."""
        self.check()
        return _small(super().getitem(obj, argument))

    def call_binop(self, context: Any, operator: str, *sides: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Operators that can make large values."""
        self.check()
        sizes = [len(value) if isinstance(value, (str, list, tuple)) else 0 for value in sides]
        if operator == "**":
            raise SecurityError("powers are not allowed here")
        if operator == "*" and any(sizes):
            factor = sides[1] if sizes[0] else sides[0]
            sizes = [max(sizes) * factor if isinstance(factor, int) else 0]
        if sum(sizes) > LIMIT_VALUE:
            raise SecurityError(TOO_LARGE)
        return super().call_binop(context, operator, *sides)


class Template:
    """A compiled chat template.   variables: names that it reads and does not set itself;   text: its source"""

    def __init__(self, text: str) -> None:
        """Raises FormatError for text that is no template."""
        if len(text) > LIMIT_TEMPLATE:
            raise FormatError(f"the chat template has {len(text):,} characters, at most {LIMIT_TEMPLATE:,} are read.")
        self.text = text
        self._sandbox = Sandbox()
        try:
            self.variables = frozenset(find_undeclared_variables(self._sandbox.parse(text)))
            self._compiled = self._sandbox.from_string(text)
        except (TemplateError, RecursionError, SyntaxError, ValueError, OverflowError) as cause:
            raise FormatError(f"the chat template cannot be compiled ({_short(cause)}): download it again.") from cause

    def render(self, variables: Mapping[str, Any], *, marks: tuple[str, str] = ("", "")) -> str:
        """The text that the template makes. marks: put around what stands in generation blocks.

        Raises FormatError for a template that fails, refuses the conversation, or exceeds the bounds.
        """
        self._sandbox.deadline_s = time.monotonic() + LIMIT_S
        self._sandbox.generation_marks = marks
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._compiled.generate(dict(variables)):
                pieces.append(piece)
                size += len(piece)
                self._sandbox.check()
                if size > LIMIT_OUTPUT:
                    raise SecurityError(f"it wrote more than {LIMIT_OUTPUT:,} characters")
        except _FAILURES as cause:
            raise FormatError(
                f"the model's chat template does not take this conversation: {_short(cause)}. Change the messages, or "
                f"use a model whose template takes them."
            ) from cause
        return "".join(pieces)


# All that an expression in a template can raise: it is somebody else's program.
_FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError,
             MemoryError, RuntimeError)  # fmt: skip


def tojson(
    value: Any, ensure_ascii: bool = False, *, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON without HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> None:
    """How a template refuses a conversation."""
    raise TemplateError(str(message))


def strftime_now(format: str) -> str:
    """The time now."""
    return datetime.now().strftime(format)


def _small(value: Any) -> Any:
    if isinstance(value, (str, list, tuple)) and len(value) > LIMIT_VALUE:
        raise SecurityError(TOO_LARGE)
    return value


def _short(cause: BaseException) -> str:
    return " ".join(str(cause).split())[:300] or type(cause).__name__
