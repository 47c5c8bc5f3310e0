"""Official chat templates, random conversations, and messages as the templates know them."""

import json
import random
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.core.sampling import Thinking
from octavo.text.tokenizer import Tokenizer

Templated = Callable[[str | None], Tokenizer]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

AUTO, ON, OFF = Thinking(), Thinking(mode="on"), Thinking(mode="off")


def system(text: str) -> Message:
    return Message(role="system", content=text)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def tool(text: str) -> Message:
    return Message(role="tool", content=text)


def says(text: str = "", *, thinking: str | None = None, calls: tuple[ToolCall, ...] = ()) -> Message:
    return Message(role="assistant", content=text, thinking=thinking, tool_calls=calls)


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=json.dumps(arguments, ensure_ascii=False))


def templates() -> Path:
    """The folder of official templates in the package trl, which is not imported."""
    spec = find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("the package trl, which carries the official templates, is not installed")
    return Path(spec.origin).parent / "chat_templates"


@cache
def official_text(name: str) -> str:
    return (templates() / f"{name}.jinja").read_text("utf-8")


@cache
def compiled(text: str) -> jinja2.Template:
    """A template with the settings of `apply_chat_template`, made apart from the product's own sandbox."""

    def fail(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = fail
    return environment.from_string(text)


def as_dict(message: Message, *, raw_arguments: bool) -> dict[str, Any]:
    """raw_arguments: a call's arguments as text, else as an object."""
    known: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.thinking is not None:
        known["reasoning_content"] = message.thinking
    if message.tool_calls:
        known["tool_calls"] = [
            {"type": "function", "function": {
                "name": each.name, "arguments": each.arguments if raw_arguments else json.loads(each.arguments)}}
            for each in message.tool_calls
        ]  # fmt: skip
    return known


def official(text: str, messages: list[Message], *, raw_arguments: bool = False, **variables: Any) -> str:
    """What a template makes of messages."""
    given = [as_dict(message, raw_arguments=raw_arguments) for message in messages]
    defaults = {"tools": None, "bos_token": "<|begin_of_text|>", "add_generation_prompt": True}
    return compiled(text).render(messages=given, **(defaults | variables))


PIECES = [
    "Hello", " ", "\n", "\n\n", "杭州的天气", "東京は雨。", "مرحبا", "नमस्ते", "👩‍👩‍👧‍👦", "e\u0301", "ﬁ", "a\tb",
    " x ", "1234",
    "<think>", "</think>", "<think>\nhm\n</think>\n\n", "<tool_call>", "</tool_call>", "<tool_response>",
    "</tool_response>", "<|im_start|>", "<|im_end|>", "<|im_start|>system\n", "<|endoftext|>", "<|eot_id|>", 
    "/think", " /no_think", "{{ messages }}", "{% raw %}", '{"name": "f", "arguments": {}}', "\\n", "'\"", "&lt;<b>",
    "\u3000", "\r\n", "-3.5e2",
]  # fmt: skip


def text(random_: random.Random) -> str:
    return "".join(random_.choices(PIECES, k=random_.choice([0, 1, 1, 2, 3, 5, 8])))


def arguments(random_: random.Random) -> str:
    values: list[Any] = [1, -2.5, True, None, text(random_), [1, "b", {}], {"k": text(random_)}, 10**20]
    names = random_.choices(["x", "city", "名前", "a b"], k=random_.randint(0, 3))
    return json.dumps({name: random_.choice(values) for name in names}, ensure_ascii=False)


def specs(random_: random.Random) -> list[ToolSpec]:
    schema = {"type": "object", "properties": {"city": {"type": "string", "description": text(random_)}}}
    names = random_.sample(["get_weather", "f", "搜索"], random_.randint(1, 3))
    return [ToolSpec(name=name, description=text(random_), parameters=schema) for name in names]


def reply(random_: random.Random, *, calls: int) -> Message:
    made = tuple(ToolCall(name=random_.choice(["f", "get_weather", "搜索"]), arguments=arguments(random_))
                 for _ in range(calls))  # fmt: skip
    thought = random_.choice([None, None, "", text(random_), "Let me see.\nYes.", "\nhm\n"])
    return says(text(random_), thinking=thought, calls=made)


def conversation(random_: random.Random, *, tools: bool, calls: int = 3) -> list[Message]:
    """Turns as they come in practice, or in any order.   calls: at most so many in one message"""
    messages = [system(text(random_))] if random_.random() < 0.5 else []
    if random_.random() < 0.3:
        roles = ["system", "user", "assistant", *(["tool"] if tools else [])]
        for role in random_.choices(roles, k=random_.randint(1, 6)):
            messages.append(
                reply(random_, calls=random_.randint(0, calls) if tools else 0)
                if role == "assistant"
                else Message(role=role, content=text(random_))
            )
        return messages
    for _ in range(random_.randint(1, 3)):
        wrapped = f"<tool_response>{text(random_)}</tool_response>"
        messages.append(user(wrapped if random_.random() < 0.05 else text(random_)))
        for _ in range(random_.choice([0, 0, 1, 2]) if tools else 0):
            asked = random_.randint(1, calls)
            messages += [reply(random_, calls=asked), *(tool(text(random_)) for _ in range(asked))]
        if random_.random() < 0.8:
            messages.append(reply(random_, calls=0))
    return messages
