"""Qwen3: the hybrid models, which think or not as they are told, and the Thinking and Instruct models of July 2025."""

import re
from collections.abc import Iterator, Sequence

import msgspec

from octavo.core.messages import Message
from octavo.core.sampling import Sampling, Thinking
from octavo.text.chat.base import THINK, Span, own
from octavo.text.chat.chatml import OPEN
from octavo.text.chat.hermes import TOOLS, HermesFamily
from octavo.text.chat.parser import Tags

THINKING = Sampling(temperature=0.6, top_p=0.95, top_k=20)
DIRECT = Sampling(temperature=0.7, top_p=0.8, top_k=20)
EMPTY_BLOCK = "<think>\n\n</think>\n\n"
# A switch stands alone: not in a path or a web address. Letters of other scripts may touch it.
SWITCH = re.compile(r"(?<![A-Za-z0-9_/.])/(no_)?think(?![A-Za-z0-9_/])")


class Qwen3Instruct(HermesFamily):
    """Qwen3-2507 Instruct: never thinks. Source: its chat_template and model card."""

    name = "qwen3_instruct"

    def _card(self, thinking_on: bool) -> Sampling:
        return THINKING if thinking_on else DIRECT


class Qwen3(Qwen3Instruct):
    """The hybrid models: think unless told not to. Source: chat_template of Qwen3, model cards."""

    name = "qwen3"
    thinks = "optional"
    tags: Tags = msgspec.structs.replace(THINK, tool_open=TOOLS.tool_open, tool_close=TOOLS.tool_close)

    def effective_thinking(self, messages: Sequence[Message], thinking: Thinking) -> bool:
        """Off where the mode says so; else the last /think or /no_think in user and system text decides; else on."""
        if thinking.mode == "off":
            return False
        asked = [text for m in messages if m.role in ("user", "system") for text in SWITCH.findall(m.text)]
        return not asked or asked[-1] == ""

    def _opening(self, thinking: Thinking) -> tuple[Span, ...]:
        return (own(f"{OPEN}assistant\n{EMPTY_BLOCK if thinking.mode == 'off' else ''}"),)

    def _reply(self, messages: Sequence[Message], i: int, thinking: Thinking) -> Iterator[Span]:
        """Thinking stays after the last question only: always in the last message, elsewhere if there was any."""
        thought, content = thinking_of(messages[i])
        yield own(f"{OPEN}assistant\n")
        if i <= last_query(messages) or not (thought or i == len(messages) - 1):
            cut = thought is not None or content != messages[i].text or self.thinks == "always"
            yield from self._written(messages[i], content, trained=not cut)
            return
        block = (thought or "").strip("\n")
        # An empty block is the prompt's, unless the message says that the model wrote one.
        trained = bool(block) or (thought is not None and thinking.mode != "off")
        yield from self._block(block, trained=trained)
        yield from self._written(messages[i], content, trained=True, lstrip="\n")

    def _block(self, thought: str, *, trained: bool) -> Iterator[Span]:
        yield own("<think>\n", trained=trained)
        yield Span(thought, trained=trained)
        yield own("\n</think>\n\n", trained=trained)


class Qwen3Thinking(Qwen3):
    """Qwen3-2507 Thinking: always thinks; the prompt opens the block. Source: its chat_template and model card."""

    name = "qwen3_thinking"
    thinks = "always"

    def effective_thinking(self, messages: Sequence[Message], thinking: Thinking) -> bool:
        """Always: it knows no switches."""
        return True

    def _opening(self, thinking: Thinking) -> tuple[Span, ...]:
        return (own(f"{OPEN}assistant\n<think>\n"),)

    def _block(self, thought: str, *, trained: bool) -> Iterator[Span]:
        yield own("<think>\n")
        yield Span(thought, trained=True)
        yield own("\n</think>\n\n", trained=True)


def last_query(messages: Sequence[Message]) -> int:
    """Index of the last user message that is not a tool's result in tags; the last message where there is none."""
    for i in range(len(messages) - 1, -1, -1):
        text = messages[i].text
        wrapped = text.startswith("<tool_response>") and text.endswith("</tool_response>")
        if messages[i].role == "user" and not wrapped:
            return i
    return len(messages) - 1


def thinking_of(message: Message) -> tuple[str | None, str]:
    """Thinking (None: there is none) and content; without a thinking of its own, a literal block is cut out of it."""
    content = message.text
    if message.thinking is not None or "</think>" not in content:
        return message.thinking, content
    thought = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
    return thought, content.split("</think>")[-1].lstrip("\n")
