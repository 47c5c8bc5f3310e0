"""Which format a model speaks. Its own chat template decides: a format that renders anything else is not taken."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from octavo.core.errors import FormatError
from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.core.sampling import Thinking
from octavo.text.chat.base import Format
from octavo.text.chat.jinja_format import JinjaFormat

if TYPE_CHECKING:
    from octavo.text.tokenizer import Tokenizer

# SHA-256 of official templates -> the format that renders what they do: no need to compile and try these at each start.
# The tests compare them. A template that reads more than the conversation (a tokenizer's own tokens) cannot be here.
KNOWN = {
    "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8": "qwen3",
    "5101e4e6f6d47af2c2ebd80cb45eca198e0b44dc21cd08298dd3a784e15a9041": "qwen3",  # ours: qwen3.jinja
    "64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326": "qwen3_instruct",
    "cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f": "qwen2_5",
    "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788": "smollm2",
}

ON, OFF, AUTO = Thinking(mode="on"), Thinking(mode="off"), Thinking()


def agrees(form: Format, official: JinjaFormat) -> bool:
    """Whether a format renders what a model's own template does, on every probe that the format can express."""
    if (form.thinks == "optional") != (official.thinks == "optional") or form.calls_tools != official.calls_tools:
        return False
    for messages, tools, thinking, reply in probes(form):
        try:
            theirs = official.render(messages, tools=tools, thinking=thinking, reply=reply).text
        except FormatError:
            theirs = None
        try:
            ours = form.render(messages, tools=tools, thinking=thinking, reply=reply).text
        except FormatError:
            ours = None
        if ours != theirs:
            return False
    return True


Probe = tuple[tuple[Message, ...], tuple[ToolSpec, ...], Thinking, bool]


def probes(form: Format) -> Iterator[Probe]:
    """Short conversations that tell formats apart."""
    modes = (AUTO, OFF) if form.thinks == "optional" else (AUTO,)
    for talk in _talks(tools=form.calls_tools):
        for mode in modes:
            for tools in ((), (_TOOL,)) if form.calls_tools else ((),):
                yield talk, tools, mode, True
                yield talk, tools, mode, False


_TOOL = ToolSpec(name="weather", description="of a city, <é>", parameters={"type": "object", "properties": {}})


def _talks(*, tools: bool) -> Iterator[tuple[Message, ...]]:
    system, user = Message(role="system", content="Be <brief> & é."), Message(role="user", content=" Why?\n")
    answer, again = Message(role="assistant", content="Because\n\nso. "), Message(role="user", content="Thanks")
    thought = Message(role="assistant", content="Yes.", thinking="Is it?\n")
    literal = Message(role="assistant", content="<think>\nHm\n</think>\n\nNo.")
    yield (user,)
    yield (system, user)
    yield (user, answer)
    yield (system, user, answer, again, thought)
    yield (user, thought, again, literal)
    yield (user, literal, again)
    if not tools:
        return
    call = ToolCall(name="weather", arguments='{"city": "München", "days": [1, 2.5, true, null]}', id="abcdefghi")
    asks = Message(role="assistant", thinking="Need it.", tool_calls=(call,))
    says = Message(role="assistant", content="Let me see.", tool_calls=(call,))
    result = Message(role="tool", content='{"°C": 21}', tool_call_id="abcdefghi")
    yield (user, asks, result)
    yield (system, user, asks, result, says, result, answer)
    yield (user, asks, result, result, thought, again)


def by_name(tokenizer: "Tokenizer", *, model_type: str, name: str) -> str:
    """The format of a model without a template: a key of `FORMATS`. Raises FormatError where nothing tells."""
    low = name.lower()
    if tokenizer.id_of("<|start_header_id|>") is not None:
        return "llama3_1" if tokenizer.id_of("<|python_tag|>") is not None else "llama3"
    if tokenizer.id_of("<|im_start|>") is None:
        raise FormatError(
            f"{name} ({model_type}) has no chat template, and its tokenizer no tokens for turns: it is a base model, "
            f"which continues text and does not chat. Choose an Instruct model, or place chat_template.jinja beside it."
        )
    if model_type.startswith("qwen3"):
        return "qwen3_thinking" if "thinking" in low else "qwen3_instruct" if "instruct" in low else "qwen3"
    if model_type.startswith("qwen2"):
        return "qwen2" if any(old in low for old in ("qwen2-", "qwen1.5", "qwen2_")) else "qwen2_5"
    return "smollm2" if "smollm2" in low else "chatml"


def choose(
    formats: Mapping[str, type[Format]],
    tokenizer: "Tokenizer",
    *,
    model_type: str,
    name: str,
    generation_config: Mapping[str, Any],
) -> Format:
    """See `octavo.text.chat.choose_format`."""
    if tokenizer.chat_template is None:
        return formats[by_name(tokenizer, model_type=model_type, name=name)](generation_config=generation_config)
    known = formats.get(KNOWN.get(sha256(tokenizer.chat_template.encode("utf-8", "surrogatepass")).hexdigest(), ""))
    if known is not None:
        return known(generation_config=generation_config)
    official = JinjaFormat(tokenizer, generation_config=generation_config)
    for form in formats.values():
        if form.turn_open in tokenizer.chat_template and agrees(form(), official):
            return form(generation_config=generation_config)
    return official
