"""Chat templates of unknown models, compiled and run in a sandbox with bounds on time and size.

Settings and functions are those of `apply_chat_template` in transformers: trim_blocks, lstrip_blocks, loop controls,
`tojson` without HTML escapes, `raise_exception`, `strftime_now`, `generation` blocks.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from octavo.core.errors import FormatError
from octavo.text.chat.jinja_sandbox import Sandbox

LIMIT_S = 5.0  # a template takes a millisecond or so
LIMIT_TEMPLATE, LIMIT_OUTPUT = 1 << 20, 1 << 26  # characters


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
        assert isinstance(self.environment, Sandbox)
        begin, end = self.environment.run.marks
        return f"{begin}{caller()}{end}"


class Template:
    """A compiled chat template.   variables: names that it reads and does not set itself;   text: its source"""

    def __init__(self, text: str) -> None:
        """Raises FormatError for text that is no template."""
        if len(text) > LIMIT_TEMPLATE:
            raise FormatError(f"the chat template has {len(text):,} characters, at most {LIMIT_TEMPLATE:,} are read.")
        self.text = text
        self._sandbox = Sandbox(extensions=(GenerationBlock, loopcontrols))
        try:
            self._compiled = self._sandbox.from_string(text)
        except (TemplateError, RecursionError, SyntaxError, ValueError, OverflowError) as cause:
            raise FormatError(f"the chat template cannot be compiled ({_short(cause)}): download it again.") from cause
        self.variables = frozenset(self._sandbox.variables)

    def render(self, variables: Mapping[str, Any], *, marks: tuple[str, str] = ("", "")) -> str:
        """The text that the template makes. marks: put around what stands in generation blocks.

        Raises FormatError for a template that fails, refuses the conversation, or exceeds the bounds.
        """
        self._sandbox.begin(limit_s=LIMIT_S, marks=marks)
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


def _short(cause: BaseException) -> str:
    return " ".join(str(cause).split())[:300] or type(cause).__name__
