"""Llama 3, 3.1 and 3.2. Source: chat_template of the Instruct models."""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from octavo.core.errors import FormatError
from octavo.core.messages import Message, ToolSpec
from octavo.core.sampling import Sampling, Thinking
from octavo.text.chat.bare_calls import BareCallParser
from octavo.text.chat.base import CallLayout, Span, TurnFormat, canonical_json, own
from octavo.text.chat.parser import ReplyParser, Tags

BEGIN, CLOSE = "<|begin_of_text|>", "<|eot_id|>"
_ASK = (
    "Given the following functions, please respond with a JSON for a function call with its proper arguments that "
    'best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of '
    "argument name and its value}.Do not use variables.\n\n"
)
BARE_CALL = CallLayout(before='{"name": "', middle='", "parameters": ', after="}")


def header(role: str) -> Span:
    """What stands before the content of a turn."""
    return own(f"<|start_header_id|>{role}<|end_header_id|>\n\n")


class Llama3(TurnFormat):
    """Llama 3: no tools. Content loses the white space around it."""

    name = "llama3"
    turn_open, ends = "<|start_header_id|>", (CLOSE, "<|eom_id|>", "<|end_of_text|>")

    def _turns(self, messages: Sequence[Message], tools: Sequence[ToolSpec], thinking: Thinking) -> Iterator[Span]:
        yield own(BEGIN)
        yield from self._given(messages)

    def _given(self, messages: Sequence[Message]) -> Iterable[Span]:
        for message in messages:
            trained = message.role == "assistant" and not message.thinking
            yield header(message.role)
            yield Span(message.text.strip(), trained=trained)
            yield own(CLOSE, trained=trained)

    def _opening(self, thinking: Thinking) -> tuple[Span, ...]:
        return (header("assistant"),)

    def _card(self, thinking_on: bool) -> Sampling:
        return Sampling(temperature=0.6, top_p=0.9)


class Llama31(Llama3):
    """Llama 3.1 and 3.3: tells the date; tools are offered in the first user message, one call a turn."""

    name = "llama3_1"
    calls_tools = True
    tags = Tags(tool_open="<|python_tag|>")
    call_layout = BARE_CALL

    def parser(self, *, thinking_open: bool, tools: Sequence[ToolSpec]) -> ReplyParser:
        """A parser of one reply: calls are bare JSON."""
        return BareCallParser(self.tags, tools=bool(tools))

    def _date(self) -> str:
        return "26 Jul 2024"

    def _turns(self, messages: Sequence[Message], tools: Sequence[ToolSpec], thinking: Thinking) -> Iterator[Span]:
        system, rest = "", list(messages)
        if rest[0].role == "system":
            system = rest.pop(0).text.strip()
        yield own(BEGIN)
        yield header("system")
        environment = "Environment: ipython\n" if tools else ""
        yield own(f"{environment}Cutting Knowledge Date: December 2023\nToday Date: {self._date()}\n\n")
        yield Span(system)
        yield own(CLOSE)
        if tools:
            if not rest or rest[0].role != "user":
                raise FormatError(f"the {self.name} format offers tools in the first user message: begin with one.")
            yield from self._offer(tools, rest.pop(0).text.strip())
        yield from self._given(rest)

    def _offer(self, tools: Sequence[ToolSpec], question: str) -> Iterator[Span]:
        yield header("user")
        yield own(_ASK)
        for tool in tools:
            yield Span(json.dumps(tool.as_openai(), ensure_ascii=False, indent=4) + "\n\n")
        yield Span(question)
        yield own(CLOSE)

    def _given(self, messages: Sequence[Message]) -> Iterable[Span]:
        for message in messages:
            if message.role == "tool":
                yield header("ipython")
                yield Span(json.dumps(message.text, ensure_ascii=False))  # quotes included: the template prints JSON
                yield own(CLOSE)
            elif message.tool_calls:
                yield from self._call(message)
            else:
                yield from super()._given((message,))

    def _call(self, message: Message) -> Iterator[Span]:
        """A call is the whole turn: the template leaves text beside it out."""
        if len(message.tool_calls) != 1:
            raise FormatError(
                f"the {self.name} format has one tool call a turn, this one has {len(message.tool_calls)}: "
                f"make each a turn of its own, followed by its result."
            )
        call = message.tool_calls[0]
        trained = not message.thinking and not message.text.strip()
        yield header("assistant")
        yield Span(f'{{"name": "{call.name}", "parameters": {canonical_json(call.arguments)}}}', trained=trained)
        yield own(CLOSE, trained=trained)


class Llama32(Llama31):
    """Llama 3.2: as 3.1, with the date of today."""

    name = "llama3_2"

    def _date(self) -> str:
        return datetime.now().strftime("%d %b %Y")
