"""What every chat format does: `Format` renders, extends and parses; `Rendered` is text that knows who wrote what."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from octavo.core.channel import Markers
from octavo.core.errors import FormatError
from octavo.core.messages import Message, ToolSpec
from octavo.core.sampling import Sampling, Thinking
from octavo.text.chat.generation import Generation, read_generation
from octavo.text.chat.parser import ReplyParser, TagParser, Tags

if TYPE_CHECKING:
    from octavo.text.tokenizer import Tokenizer

THINK = Tags(think_open="<think>", think_close="</think>")
# What stops the thinking when its budget is used up. Source: Qwen3 documentation, quickstart, "Thinking Budget".
EARLY_STOP = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
    "</think>\n\n"
)
GAP = "\n\n"  # between the closing tag and the answer


class Span(Struct, frozen=True):
    """A piece of a rendered conversation.

    trusted   the format's own text, where control tokens are control tokens; elsewhere their names are plain text
    trained   what the model writes itself: thinking, content, tool calls, the end-of-turn token
    """

    text: str
    trusted: bool = False
    trained: bool = False


class Rendered(Struct, frozen=True):
    """A conversation as the model reads it."""

    spans: tuple[Span, ...]

    @property
    def text(self) -> str:
        """All spans joined: what the official template gives."""
        return "".join(span.text for span in self.spans)

    def tokens(self, tokenizer: "Tokenizer") -> tuple[int, ...]:
        """The ids that the official tokenizer gives for the text, less the control tokens that somebody typed."""
        return tuple(tokenizer.encode_spans((span.text, span.trusted) for span in self.spans))

    def tokens_and_weights(self, tokenizer: "Tokenizer") -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Token ids and the loss mask: 1 on what the model writes, else 0.

        Trained text is encoded apart from what stands around it, as sampling would: a prompt ends at a token's end.
        """
        tokens: list[int] = []
        weights: list[float] = []
        for trained, run in groupby(self.spans, key=lambda span: span.trained):
            ids = tokenizer.encode_spans((span.text, span.trusted) for span in run)
            tokens += ids
            weights += [float(trained)] * len(ids)
        return tuple(tokens), tuple(weights)


def own(text: str, *, trained: bool = False) -> Span:
    """A span of the format's own text."""
    return Span(text, trusted=True, trained=trained)


class CallLayout(Struct, frozen=True):
    """How models of a format write a call: `before`, its name, `middle`, its arguments, `after`; and between two."""

    before: str
    middle: str
    after: str
    between: str = ""


class Format(ABC):
    """How one kind of model writes conversations.

    name          key in `FORMATS`;   thinks   whether the model can think before it answers, and whether it can not
    calls_tools   whether the format has a way to offer tools
    tags          literals around thinking and tool calls
    call_layout   of what stands between a call's tags, or is the answer where calls have none; None: it is not known
    turn_open     literal that begins each turn;   ends   literals that end a reply, the first of them a turn
    """

    name: str
    thinks: Literal["never", "optional", "always"] = "never"
    calls_tools: bool = False
    tags: Tags = Tags()
    call_layout: CallLayout | None = None
    turn_open: str
    ends: tuple[str, ...]

    def __init__(self, *, generation_config: Mapping[str, Any] = {}) -> None:
        """generation_config: generation_config.json; raises FormatError naming a field that is not what it must be."""
        self.generation: Generation = read_generation(generation_config)

    @abstractmethod
    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        thinking: Thinking = Thinking(),
        reply: bool = True,
    ) -> Rendered:
        """The conversation as the official template writes it. reply: open the assistant's turn at its end.

        Raises FormatError where the format cannot express the conversation, and for a thinking mode the model lacks.
        """

    def resume(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), thinking: Thinking = Thinking()
    ) -> Rendered:
        """The conversation up to the end of its last message's text, an assistant's, so that the model goes on there.

        Raises FormatError where the last message is none that can be gone on with, and as `render` does.
        """
        if not messages or messages[-1].role != "assistant" or messages[-1].tool_calls or not messages[-1].text.strip():
            raise FormatError("to go on with the last message, it must be an assistant's, with text and without calls.")
        said = messages[-1].text
        (mark,) = free_characters((message.text for message in messages), 1)
        marked = replace(messages[-1], content=f"{said}{mark} ")  # the space shows whether the format trims
        rendered = self.render([*messages[:-1], marked], tools=tools, thinking=thinking, reply=False)
        before, found, after = rendered.text.rpartition(mark)
        if not found:
            raise FormatError(f"the {self.name} format leaves the last message out: ask for a new message instead.")
        kept = before if after.startswith(" ") else before.removesuffix(said[len(said.rstrip()) :])
        return Rendered(tuple(_first_of(rendered.spans, len(kept))))

    def extend(
        self,
        tokens: Sequence[int],
        messages: Sequence[Message],
        tokenizer: "Tokenizer",
        *,
        thinking: Thinking = Thinking(),
    ) -> tuple[int, ...]:
        """Prompt and sampled tokens, then `messages` (tool results, or what the user says next), then an opened turn.

        Nothing of `tokens` is encoded again; an end of turn is added where the sampling stopped before it.
        Raises FormatError for assistant messages, and where the tokenizer has no token that ends a turn.
        """
        if any(message.role == "assistant" for message in messages):
            raise FormatError("extend takes what comes after a reply: render the conversation to add assistant turns.")
        self._check(messages, (), thinking)
        end = self.markers(tokenizer).end
        if not end:
            raise FormatError(f"the tokenizer has none of {self.ends}, which end a {self.name} turn: wrong tokenizer?")
        closing = () if tokens and tokens[-1] in end else end[:1]
        return (*tokens, *closing, *Rendered(self._after_reply(messages, thinking)).tokens(tokenizer))

    def markers(self, tokenizer: "Tokenizer") -> Markers:
        """Ids of the format's borders in this tokenizer."""
        ids = {field: tokenizer.id_of(tag) for field, tag in self.tags.spelled().items()}
        if ids.get("think_open") is None or ids.get("think_close") is None:
            ids["think_open"] = ids["think_close"] = None
        thinks = ids["think_close"] is not None
        ends = [id for literal in self.ends if (id := tokenizer.id_of(literal)) is not None]
        return Markers(
            think_open=ids["think_open"],
            think_close=ids["think_close"],
            tool_open=ids.get("tool_open"),
            tool_close=ids.get("tool_close"),
            turn_open=tokenizer.id_of(self.turn_open),
            early_stop=tuple(tokenizer.encode(EARLY_STOP, special=True)) if thinks else (),
            gap=tuple(tokenizer.encode(GAP)) if thinks else (),
            end=tuple(dict.fromkeys([*ends, *self.generation.end_ids])),
        )

    def parser(self, *, thinking_open: bool, tools: Sequence[ToolSpec]) -> ReplyParser:
        """A parser of one reply. thinking_open: the prompt ends inside a thinking block; tools: what was offered."""
        return TagParser(self.tags, thinking_open=thinking_open, tools=bool(tools))

    def recommended(self, thinking_on: bool) -> Sampling:
        """The sampling that the model's makers recommend for the mode; generation_config.json goes first.

        Of a model that may think or not, generation_config.json speaks of the thinking.
        """
        card = self._card(thinking_on)
        return card if self.thinks == "optional" and not thinking_on else self.generation.applied_to(card)

    def effective_thinking(self, messages: Sequence[Message], thinking: Thinking) -> bool:
        """Whether the model will think, given the mode and what the messages ask for."""
        return self.thinks == "always" or (self.thinks == "optional" and thinking.mode != "off")

    @abstractmethod
    def _after_reply(self, messages: Sequence[Message], thinking: Thinking) -> tuple[Span, ...]:
        """What follows the token that ends a reply: `messages`, and the next reply's beginning."""

    @abstractmethod
    def _card(self, thinking_on: bool) -> Sampling:
        """Sampling recommended on the model's card."""

    def _check(self, messages: Sequence[Message], tools: Sequence[ToolSpec], thinking: Thinking) -> None:
        if not messages:
            raise FormatError("the conversation is empty: give at least one message.")
        if tools and not self.calls_tools:
            raise FormatError(
                f"the {self.name} format has no way to offer tools: leave them out, or use a Qwen3 model."
            )
        if not self.calls_tools and any(m.role == "tool" or m.tool_calls for m in messages):
            raise FormatError(f"the {self.name} format has no tool calls or results: leave those messages out.")
        if thinking.mode == "on" and self.thinks == "never":
            raise FormatError(f"a {self.name} model cannot think: set thinking to auto or off, or use a Qwen3 model.")
        if thinking.mode == "off" and self.thinks == "always":
            raise FormatError(
                f"a {self.name} model always thinks: set thinking to auto or on, or use the Instruct model instead. "
                f"A budget of 0 tokens ends the thinking at once."
            )


class TurnFormat(Format):
    """A format written by hand: subclasses say how turns are written.

    after_end     text between the end of a turn and the next one
    """

    after_end: str = ""

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        thinking: Thinking = Thinking(),
        reply: bool = True,
    ) -> Rendered:
        """All turns, and the beginning of the reply."""
        self._check(messages, tools, thinking)
        spans = tuple(self._turns(messages, tools, thinking))
        return Rendered((*spans, *self._opening(thinking)) if reply else spans)

    def _after_reply(self, messages: Sequence[Message], thinking: Thinking) -> tuple[Span, ...]:
        return (own(self.after_end), *self._given(messages), *self._opening(thinking))

    @abstractmethod
    def _turns(self, messages: Sequence[Message], tools: Sequence[ToolSpec], thinking: Thinking) -> Iterator[Span]:
        """All turns."""

    @abstractmethod
    def _given(self, messages: Sequence[Message]) -> Iterable[Span]:
        """Turns that no assistant writes, in the midst of a conversation."""

    @abstractmethod
    def _opening(self, thinking: Thinking) -> tuple[Span, ...]:
        """The beginning of an assistant's turn, up to where the model writes."""


def free_characters(texts: Iterable[str], count: int) -> tuple[str, ...]:
    """Characters for private use that occur in none of the texts. Raises FormatError where there are too few."""
    used = set[str]().union(*texts)
    free = tuple(islice((chr(code) for code in range(0xE000, 0xF900) if chr(code) not in used), count))
    if len(free) < count:
        raise FormatError("the conversation holds every character for private use (U+E000 to U+F8FF): leave some out.")
    return free


def _first_of(spans: Iterable[Span], at: int) -> Iterator[Span]:
    """The spans up to character `at`."""
    for span in spans:
        if at > 0:
            yield replace(span, text=span.text[:at])
        at -= len(span.text)


def canonical_json(text: str) -> str:
    """JSON text as Python's json writes it, non-ASCII kept: what `tojson` of the official templates gives."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):  # not JSON: the model wrote it, so it is shown as it is
        return text
