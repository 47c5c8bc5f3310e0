"""Tools as Qwen2.5 and Qwen3 know them: offered in the system turn, called and answered between tags."""

import json
from collections.abc import Iterator, Sequence

from octavo.core.messages import Message, ToolSpec
from octavo.core.sampling import Thinking
from octavo.text.chat.base import CallLayout, Span, own
from octavo.text.chat.chatml import CLOSE, OPEN, ChatMlFamily, turn
from octavo.text.chat.parser import Tags

TOOLS = Tags(tool_open="<tool_call>", tool_close="</tool_call>")
HERMES_CALL = CallLayout(before='\n{"name": "', middle='", "arguments": ', after="}\n", between="\n")
_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    f"</tool_call>{CLOSE}\n"
)


def system_turn(text: str | None, tools: Sequence[ToolSpec]) -> Iterator[Span]:
    """The first turn: the system text (None: there is none) and the tools on offer; nothing where there is neither."""
    if not tools:
        if text is not None:
            yield from turn("system", text)
        return
    yield own(f"{OPEN}system\n")
    if text is not None:
        yield Span(text)
        yield own("\n\n")
    yield own(_BEFORE)
    for tool in tools:
        yield own("\n")
        yield Span(json.dumps(tool.as_openai(), ensure_ascii=False))
    yield own(_AFTER)


class HermesFamily(ChatMlFamily):
    """Formats whose tool calls and results stand between these tags.

    default_system   what the model was told where a conversation has no system message
    """

    calls_tools = True
    tags = TOOLS
    call_layout = HERMES_CALL
    default_system: str | None = None

    def _turns(self, messages: Sequence[Message], tools: Sequence[ToolSpec], thinking: Thinking) -> Iterator[Span]:
        begins_with_system = messages[0].role == "system"
        yield from system_turn(messages[0].text if begins_with_system else self.default_system, tools)
        run: list[Message] = []
        for i, message in enumerate(messages):
            if message.role == "assistant":
                yield from self._given(run)
                yield from self._reply(messages, i, thinking)
                run = []
            elif i > 0 or not begins_with_system:
                run.append(message)
        yield from self._given(run)

    def _given(self, messages: Sequence[Message]) -> Iterator[Span]:
        """Tool results are a user's turn, and neighbours share it."""
        for i, message in enumerate(messages):
            if message.role != "tool":
                yield from turn(message.role, message.text)
                continue
            if i == 0 or messages[i - 1].role != "tool":
                yield own(f"{OPEN}user")
            yield own("\n<tool_response>\n")
            yield Span(message.text)
            yield own("\n</tool_response>")
            if i + 1 == len(messages) or messages[i + 1].role != "tool":
                yield own(f"{CLOSE}\n")

    def _reply(self, messages: Sequence[Message], i: int, thinking: Thinking) -> Iterator[Span]:
        """The turn of message i, an assistant's."""
        yield own(f"{OPEN}assistant\n")
        yield from self._written(messages[i], messages[i].text, trained=not messages[i].thinking)

    def _written(self, message: Message, content: str, *, trained: bool, lstrip: str = "") -> Iterator[Span]:
        """Content, calls and the end of the turn. Not trained: something the model wrote before them was left out.

        lstrip: left out at the beginning; the template still puts a newline between such an empty text and a call.
        """
        yield Span(content.lstrip(lstrip), trained=trained)
        for i, call in enumerate(message.tool_calls):
            gap = "\n" if content or i else ""
            arguments = self._shown_arguments(call.arguments)
            yield own(f'{gap}<tool_call>\n{{"name": "', trained=trained)
            yield Span(f'{call.name}", "arguments": {arguments}}}', trained=trained)
            yield own("\n</tool_call>", trained=trained)
        yield own(CLOSE, trained=trained)
        yield own("\n")

    def _shown_arguments(self, text: str) -> str:
        """How a call's arguments, JSON text, stand in the turn: as the model wrote them."""
        return text
