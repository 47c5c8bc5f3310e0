"""Models that no format here is written for: their own template renders, and what it does is found out by trying it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from octavo.core.errors import FormatError
from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.core.sampling import Sampling, Thinking
from octavo.text.chat.bare_calls import BareCallParser
from octavo.text.chat.base import THINK, Format, Rendered, Span, free_characters
from octavo.text.chat.calls import JsonCalls
from octavo.text.chat.hermes import HERMES_CALL, TOOLS
from octavo.text.chat.llama3 import BARE_CALL
from octavo.text.chat.marks import Typed, Zones, strings
from octavo.text.chat.parser import ReplyParser, TagParser, Tags
from octavo.text.chat.xml_calls import BEGIN, XmlCalls

if TYPE_CHECKING:
    from octavo.text.tokenizer import Tokenizer

ASKED, ANSWERED = Message(role="user", content="question"), Message(role="assistant", content="answer")
CALLED = Message(role="assistant", tool_calls=(ToolCall(name="f", id="call00000"),))
LOOKED_UP = Message(role="assistant", tool_calls=(ToolCall(name="lookup", arguments='{"x": "y7"}', id="call00000"),))


class Shape(Struct, frozen=True):
    """How a template wants calls.   text_arguments: as JSON text, else as an object;   empty: where there is no text"""

    text_arguments: bool = False
    empty: str | None = ""


SHAPES = (Shape(), Shape(True), Shape(False, None), Shape(True, None))


class JinjaFormat(Format):
    """A model's own template, in a sandbox.

    Control tokens that somebody typed are plain text here too. The loss mask needs `generation` blocks in the template;
    without them it covers the last message only, and only where the reply goes on from the prompt as it was.
    """

    name = "jinja"
    _shape = Shape()

    def __init__(self, tokenizer: "Tokenizer", *, generation_config: Mapping[str, Any] = {}) -> None:
        """Raises FormatError for a tokenizer without a template, and for a template that fails on a simple chat."""
        from octavo.text.chat.jinja_engine import Template

        super().__init__(generation_config=generation_config)
        if tokenizer.chat_template is None:
            raise FormatError(
                "the model comes with no chat template: place its chat_template.jinja beside its weights."
            )
        self._template = Template(tokenizer.chat_template)
        self._literals = {tokenizer.token_bytes(id).decode(): id in tokenizer.special_ids for id in tokenizer.added_ids}
        self._typed = Typed(self._literals, template=self._template.text)
        ends = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
        self._borders = {name: "" if id is None else tokenizer.decode([id]) for name, id in ends.items()}
        self.offers_tools = "tools" in self._template.variables
        self.calls_tools = self.offers_tools or "tool_calls" in self._template.text
        self._learn()

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        thinking: Thinking = Thinking(),
        reply: bool = True,
    ) -> Rendered:
        """What the template makes of the conversation."""
        self._check(messages, tools, thinking)
        variables = self._variables(messages, tools=tools, thinking=thinking, reply=reply)
        begin, end, mark = free_characters(strings([self._template.text, variables]), 3)
        zones = self._zones(variables, mark=mark, marks=(begin, end))
        trained = zones.trained
        if not trained and not reply and messages[-1].role == "assistant" and len(messages) > 1:
            trained = self._last_reply(zones.text, variables)
        return Rendered(tuple(zones.spans(trained)))

    def parser(self, *, thinking_open: bool, tools: Sequence[ToolSpec]) -> ReplyParser:
        """A parser of one reply: calls between tags, of JSON or of XML, or bare JSON, as the template says."""
        if self.tags.tool_open is not None and self.tags.tool_close is None:
            return BareCallParser(self.tags, tools=bool(tools))
        calls = XmlCalls(tools) if BEGIN in self._template.text else JsonCalls()
        return TagParser(self.tags, thinking_open=thinking_open, tools=bool(tools), calls=calls)

    def _card(self, thinking_on: bool) -> Sampling:
        return Sampling(temperature=0.6, top_p=0.95) if thinking_on else Sampling(temperature=0.7, top_p=0.9)

    def _check(self, messages: Sequence[Message], tools: Sequence[ToolSpec], thinking: Thinking) -> None:
        super()._check(messages, tools, thinking)
        if tools and not self.offers_tools:
            raise FormatError(
                "the model's chat template has no place for tools: leave them out, or take another model."
            )

    def _learn(self) -> None:
        """What begins and ends turns, and whether the model thinks: read from what the template makes of a chat."""
        asked = self._text([ASKED], reply=False)
        prompt = self._text([ASKED], reply=True)
        opening = prompt[len(asked) :] if prompt.startswith(asked) else ""
        think, call = str(THINK.think_open), str(TOOLS.tool_open)
        thinks = think in self._template.text
        tags = THINK if thinks else Tags()
        if call in self._template.text:
            tags = msgspec.structs.replace(tags, tool_open=TOOLS.tool_open, tool_close=TOOLS.tool_close)
        elif self.offers_tools and "<|python_tag|>" in self._literals:
            tags = msgspec.structs.replace(tags, tool_open="<|python_tag|>")
        self.tags = tags
        self.call_layout = HERMES_CALL if tags.tool_close else BARE_CALL if tags.tool_open else None
        if self.calls_tools:
            self._shape = next((shape for shape in SHAPES if self._shows(shape)), Shape())
        mode: Literal["never", "optional", "always"] = "never"
        if thinks and "enable_thinking" in self._template.variables:
            mode = "optional"
        elif think in opening:
            mode = "always"
        self.thinks = mode
        own_tags = set(THINK.spelled().values())
        first = next((literal for literal in self._found(opening) if literal not in own_tags), "")
        self.turn_open = first
        done = self._text([ASKED, ANSWERED], reply=False)
        after = self._found(done[done.rfind(ANSWERED.text) + len(ANSWERED.text) :])
        ends = [*after[:1], self._borders["eos_token"]]
        self.ends = tuple(dict.fromkeys(literal for literal in ends if literal))

    def _shows(self, shape: Shape) -> bool:
        """Whether the template shows a call of this shape and its arguments: some leave it out, or fail."""
        variables = self._variables([ASKED], tools=(), thinking=Thinking(), reply=False)
        variables["messages"].append(as_template_message(LOOKED_UP, shape))
        try:
            text = self._template.render(variables)
        except FormatError:
            return False
        return "lookup" in text and "y7" in text

    def _found(self, text: str) -> list[str]:
        """Added tokens in a text, in order."""
        names = sorted((name for name in self._literals if not name.isspace()), key=len, reverse=True)
        return re.findall("|".join(map(re.escape, names)), text) if names else []

    def _variables(
        self, messages: Iterable[Message], *, tools: Sequence[ToolSpec], thinking: Thinking, reply: bool
    ) -> dict[str, Any]:
        asked = {} if thinking.mode == "auto" else {"enable_thinking": thinking.mode == "on"}
        return {
            "messages": [as_template_message(message, self._shape) for message in messages],
            "tools": [tool.as_openai() for tool in tools] or None,
            "documents": None,
            "add_generation_prompt": reply,
            **self._borders,
            **(asked if self.thinks == "optional" else {}),
        }

    def _text(self, messages: Sequence[Message], *, reply: bool, thinking: Thinking = Thinking()) -> str:
        return self._template.render(self._variables(messages, tools=(), thinking=thinking, reply=reply))

    def _zones(self, variables: Mapping[str, Any], *, mark: str, marks: tuple[str, str]) -> Zones:
        """The rendered text and whose it is. Marks in the messages must not change what the template makes of them."""
        plain = self._template.render(variables)
        for marked in self._typed.variants(variables, mark=mark):
            zones = Zones.read(self._template.render(marked, marks=marks), mark=mark, trained_marks=marks)
            if zones.text == plain:
                return zones
        raise FormatError(
            f"the conversation holds {self._typed.example(variables)!r}, a token that this model's chat template "
            f"treats in a special way, so it cannot be told from the real one. Remove it from the messages."
        )

    def _last_reply(self, text: str, variables: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Where the last message stands, if it is a reply that goes on from its prompt."""
        try:
            prompt = self._template.render(
                {**variables, "messages": variables["messages"][:-1], "add_generation_prompt": True}
            )
        except FormatError:  # no prompt ends here, so nobody replied to one
            return []
        if not text.startswith(prompt):
            return []
        end = max((at + len(literal) for literal in self.ends if (at := text.rfind(literal)) >= 0), default=0)
        return [(len(prompt), end if end > len(prompt) else len(text))]

    def _after_reply(self, messages: Sequence[Message], thinking: Thinking) -> tuple[Span, ...]:
        """What the template puts between a short chat and its continuation."""
        before = [ASKED, CALLED if messages[0].role == "tool" else ANSWERED]
        asked = self._text(before, reply=False, thinking=thinking)
        end = next((literal for literal in self.ends if literal in asked), "")
        turns = asked.count(end) if end else 0
        whole = self.render([*before, *messages], thinking=thinking)
        at = -1
        for _ in range(turns):  # what stands in the turns may change as the chat goes on, their number does not
            at = whole.text.find(end, at + 1)
        if at < 0:
            raise FormatError("this model's chat template does not end its turns: render the longer conversation.")
        return tuple(rest_of(whole.spans, at + len(end)))


def rest_of(spans: Iterable[Span], at: int) -> Iterator[Span]:
    """The spans from character `at` on."""
    for span in spans:
        if len(span.text) > at:
            yield msgspec.structs.replace(span, text=span.text[at:])
        at = max(0, at - len(span.text))


def as_template_message(message: Message, shape: Shape = Shape()) -> dict[str, Any]:
    """A message as templates know it: fields that are not there are absent."""
    known: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.thinking is not None:
        known["reasoning_content"] = known["thinking"] = message.thinking  # templates use either name
    if message.tool_calls:
        known["content"] = message.text or shape.empty
        known["tool_calls"] = [
            {"type": "function", "id": call.id, "function": {
                "name": call.name, "arguments": call.arguments if shape.text_arguments else _object(call.arguments)}}
            for call in message.tool_calls
        ]  # fmt: skip
    if message.tool_call_id:
        known["tool_call_id"] = message.tool_call_id
    return known


def _object(text: str) -> Any:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):  # no object: the model wrote it, so it is shown
        return text
