"""What an unknown chat template may compute: Jinja's immutable sandbox, with bounds on time and on every value.

No value that a template makes is large, nor is all that it makes together. Operators and look-ups come by here through
hooks of Jinja's own; literals, calls, filters and loops because `Bounded` writes a call of the sandbox around each.
Filters and methods that could make much of little at once are written anew here; those that chats do not need are
refused where they are used.
"""

import json
import re
import time
from collections.abc import Callable, Generator, ItemsView, Iterable, KeysView, ValuesView
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import islice
from string import Formatter
from sys import getsizeof
from threading import local
from types import BuiltinMethodType, MethodType
from typing import Any, cast

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.filters import FILTERS as JINJAS
from jinja2.filters import do_indent, make_attrgetter
from jinja2.idtracking import VAR_LOAD_RESOLVE
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

LIMIT_VALUE = 1 << 22  # characters and items of a value, with all that it holds
LIMIT_MADE = 1 << 28  # bytes of all values that are made in one go, whether they are still there or not
LIMIT_BITS = 1 << 14  # of a whole number
LIMIT_FIELDS, LIMIT_PAD = 16, 999  # of a format; characters of an indentation or a separator
ITEM, TURN = 64, 8  # bytes that an item of a list, and one turn of a loop, count for
LOOK = 512  # bytes made between two looks at the clock, in a loop that makes nothing
TOO_LARGE = f"a value has more than {LIMIT_VALUE:,} characters or items"

FILTERS = {"abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int", "items",
           "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "safe", "select",
           "selectattr", "sort", "title", "trim", "unique", "upper", "wordcount"}  # fmt: skip
METHODS: dict[type, set[str]] = {  # what may be looked up; `format`, `join` and `replace` are ours
    str: {"capitalize", "casefold", "count", "endswith", "find", "format", "index", "isalnum", "isalpha", "isascii",
          "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle",
          "isupper", "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind",
          "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase",
          "title", "upper"},
    dict: {"copy", "get", "items", "keys", "values"}, list: {"copy", "count", "index"}, tuple: {"count", "index"},
    int: set(), float: set(), type: set(),
}  # fmt: skip
PERCENT = re.compile(r"%(\([^)]*\))?([^a-zA-Z%]*)")  # the name and the widths of a field


class Bounded(CodeGenerator):
    """Writes a call of the `Sandbox` around whatever in a template makes a value, and one into each loop.

    Nothing is computed before the template runs, when nobody bounds it.
    """

    def enter_frame(self, frame: Frame) -> None:
        """Note what the template reads and does not set."""
        super().enter_frame(frame)
        assert isinstance(self.environment, Sandbox)
        read = {name for action, name in frame.symbols.loads.values() if action == VAR_LOAD_RESOLVE and name}
        self.environment.variables |= read.difference(self.environment.globals)

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        """None but literal text."""
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    @contextmanager
    def _within(self, call: str) -> Generator[None]:
        """What is written meanwhile is its argument."""
        self.write(f"environment.{call}(" if call else "(")
        yield
        self.write(")")

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        """Of a function, a method or a macro."""
        with self._within("built"):
            super().visit_Call(node, frame, forward_caller=forward_caller)

    def visit_Filter(self, node: nodes.Filter, frame: Frame) -> None:
        """Whatever it gives. One that is withheld is refused when the template comes to it, which it may never do."""
        if node.name in JINJAS and node.name not in self.environment.filters:
            self.write(f"environment.withheld({node.name!r})")
            return
        with self._within("made"):
            super().visit_Filter(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        """A slice is a copy, and Jinja asks nobody for it."""
        with self._within("made" if isinstance(node.arg, nodes.Slice) else ""):
            super().visit_Getitem(node, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        """A literal."""
        with self._within("built"):
            super().visit_List(node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        """A literal."""
        with self._within("built"):
            super().visit_Dict(node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        """A literal, or names that are assigned to."""
        with self._within("built" if node.ctx == "load" else ""):
            super().visit_Tuple(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        """`a ~ b`."""
        with self._within("joined"):
            for part in node.nodes:
                self.visit(part, frame)
                self.write(", ")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        """Its body."""
        node.body.insert(0, nodes.ExprStmt(nodes.EnvironmentAttribute("turn()"), lineno=node.lineno))
        super().visit_For(node, frame)


class Run(local):
    """One rendering; each thread has its own.   limit_s: what it may take

    deadline_s   on the clock of `time.monotonic`;   left_bytes   that values may still take
    marks        for generation blocks
    """

    def __init__(self) -> None:
        self.limit_s, self.deadline_s, self.left_bytes = 0.0, float("inf"), LIMIT_MADE
        self.marks: tuple[str, str] = ("", "")


class Sandbox(ImmutableSandboxedEnvironment):
    """Stops a template that runs too long or makes values that are too large.

    run   how far the template is, in this thread;   variables   names that it reads and does not set
    """

    code_generator_class = Bounded
    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self, *, extensions: Iterable[Any]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[*extensions], finalize=self.shown,
                         optimized=False)  # fmt: skip
        self.filters = {name: self.filters[name] for name in FILTERS} | {
            "attr": self.getattr, "indent": self.indented, "join": self.between, "string": self.spelled,
            "tojson": self.as_json, "format": self.formatted, "replace": self.replacing,
        }  # fmt: skip
        self.globals |= {"raise_exception": self.refuse, "strftime_now": strftime_now, "namespace": Names}
        del self.globals["lipsum"]  # makes any amount of text in one call
        self.run, self.variables = Run(), set[str]()

    def begin(self, *, limit_s: float, marks: tuple[str, str]) -> None:
        """A template begins now."""
        run = self.run
        run.limit_s, run.deadline_s, run.left_bytes, run.marks = limit_s, time.monotonic() + limit_s, LIMIT_MADE, marks

    def check(self) -> None:
        """Raise where the time is up."""
        if time.monotonic() > self.run.deadline_s:
            raise SecurityError(f"it ran for more than {self.run.limit_s:g} s")

    def charge(self, size_bytes: int) -> None:
        """So much more was made."""
        self.check()
        self.run.left_bytes -= size_bytes
        if self.run.left_bytes < 0:
            raise SecurityError(f"its values take more than {LIMIT_MADE >> 20} MiB together")

    def size_of(self, value: Any) -> int:
        """Characters and items of a value, each as often as it is held. Raises for more than LIMIT_VALUE."""
        size, waiting = 0, [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, (dict, KeysView, ValuesView, ItemsView, list, tuple)):
                inner = one.items() if isinstance(one, dict) else one
                size += len(inner)
                waiting += inner if size <= LIMIT_VALUE else ()
            size += len(one) if isinstance(one, str) else 1
            if size > LIMIT_VALUE:
                raise SecurityError(TOO_LARGE)
        return size

    # --- what Bounded calls, and Jinja where it puts text together ----------------------------------------------------

    def made(self, value: Any) -> Any:
        """A value that was made of others, no deeper than they are."""
        if isinstance(value, int) and value.bit_length() > LIMIT_BITS:
            raise SecurityError(f"a number has more than {LIMIT_BITS:,} bits")
        self.charge(ITEM * len(value) if isinstance(value, (list, tuple, dict)) else getsizeof(value))
        return small(value)

    def built(self, value: Any) -> Any:
        """A value that may hold others several times."""
        if isinstance(value, (list, tuple, dict)):
            self.size_of(value)
        return self.made(value)

    def turn(self) -> None:
        """One more turn of a loop. The clock is looked at now and then: a look takes as long as a short turn."""
        self.run.left_bytes -= TURN
        if self.run.left_bytes % LOOK < TURN:
            self.charge(0)

    def spelled(self, value: Any) -> str:
        """Any value as text."""
        if isinstance(value, str):
            return value
        self.size_of(value)
        return str(value)

    def shown(self, value: Any) -> str:
        """What is written to the output, or to what a block collects."""
        self.charge(ITEM)
        return self.spelled(value)

    def joined(self, *values: Any) -> str:
        """`a ~ b`."""
        return self.concat(map(self.spelled, values))

    def concat(self, pieces: Iterable[str]) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What a block or a macro collected, as one text."""
        return self.between(pieces)

    # --- hooks of Jinja's ---------------------------------------------------------------------------------------------

    def is_safe_callable(self, obj: Any) -> bool:
        """Asked before every call within the template."""
        self.check()
        return super().is_safe_callable(obj)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Of texts, numbers and containers, what METHODS has."""
        names = next((names for kind, names in METHODS.items() if isinstance(obj, kind)), None)
        return super().is_safe_attribute(obj, attr, value) if names is None else attr in names

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`a.b` within the template."""
        self.check()
        return self._ours(super().getattr(obj, attribute))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`a[b]` within the template."""
        self.check()
        return self._ours(super().getitem(obj, argument))

    def _ours(self, value: Any) -> Any:
        """What was looked up, if it is small; our own method instead of a text's."""
        if isinstance(value, BuiltinMethodType | MethodType) and isinstance(value.__self__, str):
            own = {"join": self.between_texts, "replace": self.replaced}.get(value.__name__)
            return value if own is None else partial(own, value.__self__)
        return small(value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`text.format`, where its fields are few and narrow."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            narrow(spec or "" for _, name, spec, _ in Formatter().parse(value.__self__) if name is not None)
        return wrapped

    def call_binop(self, context: Any, operator: str, *sides: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Operators that can make large values."""
        self.check()
        left, right = sides
        if operator == "**":
            raise SecurityError("powers are not allowed here")
        if operator == "%" and isinstance(left, str):
            narrow("*" if "(" in (match[1] or "")[1:] else match[2] for match in PERCENT.finditer(left))
            self.size_of(right)
        elif operator == "*" and not all(isinstance(side, (int, float)) for side in sides):
            factor = next((side for side in sides if isinstance(side, int)), 1)
            if factor > 1 and sum(map(self.size_of, sides)) * factor > LIMIT_VALUE:
                raise SecurityError(TOO_LARGE)
        return self.built(super().call_binop(context, operator, left, right))

    def call_filter(self, name: str, value: Any, *rest: Any, context: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A filter that `map` calls."""
        return self.made(super().call_filter(name, value, *rest, context=context))

    def call_test(self, name: str, value: Any, *rest: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A test that `select` calls."""
        self.check()
        return super().call_test(name, value, *rest)

    # --- filters and functions of our own -----------------------------------------------------------------------------

    def between(self, value: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
        """The parts of a value as one text, with `d` between them; named as Jinja's filter has it."""
        every = [*value] if attribute is None else [*map(make_attrgetter(self, attribute), value)]
        texts, separator = [self.spelled(part) for part in every], self.spelled(d)
        if sum(map(len, texts)) + len(separator) * len(texts) > LIMIT_VALUE:
            raise SecurityError(TOO_LARGE)
        return self.made(separator.join(texts))

    def between_texts(self, separator: str, parts: Iterable[Any]) -> str:
        """`separator.join(parts)`, which takes nothing but texts."""
        every = [*parts]
        return self.between(every, separator) if all(isinstance(part, str) for part in every) else separator.join(every)

    def replaced(self, text: str, old: str, *rest: Any, count: int | None = None) -> str:
        """`text.replace`.   rest   the new text, and perhaps the count"""
        new, most = cast(tuple[str, int | None], (*rest, count)[:2])
        found = text.count(old)
        times = found if most is None or most < 0 else min(found, most)
        if len(text) + times * len(new) > LIMIT_VALUE:
            raise SecurityError(TOO_LARGE)
        return text.replace(old, new, times)

    def replacing(self, s: Any, old: Any, *rest: Any, count: int | None = None) -> str:
        """The filter `replace`, which takes anything for text."""
        return self.replaced(*map(self.spelled, (s, old, rest[0])), *rest[1:], count=count)

    def formatted(self, text: Any, *values: Any) -> str:
        """The filter `format`."""
        return self.call_binop(None, "%", self.spelled(text), values)

    def indented(self, s: Any, width: Any = 4, *rest: bool, first: bool = False, blank: bool = False) -> str:
        """As Jinja's filter."""
        text = self.spelled(s)
        size = len(width) if isinstance(width, str) else width
        if size > LIMIT_PAD or len(text) + (len(text.splitlines()) + 1) * size > LIMIT_VALUE:
            raise SecurityError(TOO_LARGE)
        return do_indent(text, width, *rest, *(first, blank)[len(rest) :])

    def as_json(
        self, value: Any, ensure_ascii: bool = False, *, indent: Any = None, separators: Any = None,
        sort_keys: bool = False
    ) -> str:  # fmt: skip
        """JSON without HTML escapes."""
        self.size_of(value)
        pads = (indent, *(separators or ()))
        if any((len(pad) if isinstance(pad, str) else pad or 0) > LIMIT_PAD for pad in pads):
            raise SecurityError(TOO_LARGE)
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                                   sort_keys=sort_keys)  # fmt: skip
        pieces = list[str]()
        for piece in encoder.iterencode(value):
            self.charge(getsizeof(piece))
            pieces.append(piece)
        return "".join(pieces)

    def withheld(self, name: str) -> None:
        """A filter of Jinja's that is not there."""
        raise SecurityError(f"the filter {name!r} is not allowed here")

    def refuse(self, message: Any) -> None:
        """How a template refuses a conversation."""
        raise TemplateError(self.spelled(message))


class Names(Namespace):
    """A namespace that is no text: those that hold each other would be a long one."""

    def __repr__(self) -> str:
        return "<namespace>"


def strftime_now(format: str) -> str:
    """The time now."""
    if len(format) > LIMIT_PAD:
        raise SecurityError(TOO_LARGE)
    return datetime.now().strftime(format)


def narrow(specs: Iterable[str]) -> None:
    """Raise for a format with more fields than a chat needs, or with wide ones."""
    some = list(islice(specs, LIMIT_FIELDS + 1))
    if len(some) > LIMIT_FIELDS or any(re.search(r"[*{]|\d{4}", spec) for spec in some):
        raise SecurityError(f"a format has more than {LIMIT_FIELDS} fields, or one wider than 999 characters")


def small(value: Any) -> Any:
    """The value. Raises where it alone is too large."""
    if isinstance(value, (str, list, tuple)) and len(value) > LIMIT_VALUE:
        raise SecurityError(TOO_LARGE)
    return value
