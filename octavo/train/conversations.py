"""Conversations -> samples: the chat format renders them, and says what the model writes itself.

Each reply is learnt as it would be asked for: after a prompt rendered for it alone, in which the format has left out
the thinking of earlier turns. What a thinking of None or "" means:

    thinking "..."   the model thought;   ""   the model wrote an empty block: that is learnt
    thinking None    nobody knows of a thinking, and the text has none in tags: the reply is learnt as one without. Its
                     empty block stands in the prompt and is not learnt, so that the thinking mode is left as it is;
                     but where the messages ask for no thinking (/no_think), the model must write it, and learns to
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from octavo.core.errors import FormatError, SampleError, TokenizerError
from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.core.sample import Sample, sample
from octavo.core.sampling import Thinking
from octavo.text.chat.base import THINK, Format
from octavo.text.chat.qwen3 import thinking_of
from octavo.text.tokenizer import Tokenizer

THINKING_FIELDS = ("reasoning_content", "reasoning", "thinking")
KNOWN_FIELDS = {"role", "content", "tool_calls", "tool_call_id", "name", *THINKING_FIELDS}
LIKE_THINKING = re.compile(r"(?<!finish_)reason|think|thought|rationale|scratchpad|\bcot\b", re.IGNORECASE)
NOTHING = (None, "", [], {})  # what a field holds in a line that has no such field, in files made from tables
PROMPTS = ("system", "system_prompt", "system_message", "instructions", "functions")  # what some put beside messages
DONE = ("stop", "tool_calls", "end_turn", "eos")  # finish reasons of replies that are whole


class Writer:
    """Turns conversations into samples, for one format and tokenizer.

    longest   tokens of a sample that are allowed;   context   that the model reads at most; None: any
    """

    def __init__(self, format: Format, tokenizer: Tokenizer, *, longest: int | None = None,
                 context: int | None = None) -> None:  # fmt: skip
        self.format, self.tokenizer, self.longest, self.context = format, tokenizer, longest, context
        self.ends = format.markers(tokenizer).end
        if not self.ends:
            raise SampleError(f"the tokenizer has none of {format.ends}: a model would never learn to end a reply.")

    def replies(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), name: str = "") -> list[Sample]:
        """A sample for each assistant message. Raises SampleError where there is none, or one that teaches nothing."""
        found = [self.reply(messages[: i + 1], tools=tools, name=f"{name}[{i}]")
                 for i, message in enumerate(messages) if message.role == "assistant"]  # fmt: skip
        if not found:
            raise SampleError(f"sample {name or '?'}: there is no assistant message, so nothing to learn.")
        return found

    def reply(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), name: str = "") -> Sample:
        """A sample of the last message, an assistant's. Raises SampleError."""
        last = messages[-1] if messages else None
        if last is None or last.role != "assistant" or not (last.text.strip() or last.tool_calls):
            raise SampleError(
                f"sample {name or '?'}: its last message is no reply with text or calls: cannot learn it."
            )
        try:
            messages, thinking = self._as_asked(messages, name=name)
            whole = self.format.render(messages, tools=tools, thinking=thinking, reply=False)
            tokens, weights = whole.tokens_and_weights(self.tokenizer)
            prompt = self.format.render(messages[:-1], tools=tools, thinking=thinking).tokens(self.tokenizer)
        except (FormatError, TokenizerError) as cause:
            raise SampleError(f"sample {name or '?'}: {cause}") from cause
        if tokens[: len(prompt)] != prompt:
            raise SampleError(
                f"sample {name or '?'}: the prompt it would be asked with is not how the conversation begins: the "
                f"{self.format.name} format renders its last message in another way (thinking in earlier turns?)."
            )
        end = max((i + 1 for i, weight in enumerate(weights) if weight), default=0)
        if end <= len(prompt) or tokens[end - 1] not in self.ends:
            raise SampleError(f"sample {name or '?'}: what is learnt does not end with a token that ends a reply.")
        if self.context is not None and end > self.context:
            raise SampleError(f"sample {name or '?'} has {end:,} tokens, the model reads {self.context:,} at most "
                              f"(max_position_embeddings): leave it out.")  # fmt: skip
        if self.longest is not None and end > self.longest:
            raise SampleError(
                f"sample {name or '?'} has {end:,} tokens, at most {self.longest:,} are allowed: leave it out or allow "
                f"more. It is not cut: without its end it would teach never to stop."
            )
        learnt = [0.0] * len(prompt) + list(weights[len(prompt) : end])
        return sample(tokens[:end], learnt, name=name)

    def _as_asked(self, messages: Sequence[Message], *, name: str) -> tuple[Sequence[Message], Thinking]:
        """The conversation, and the mode in which its last reply would be asked for."""
        form, last = self.format, messages[-1]
        if form.thinks == "never":
            if last.thinking and last.thinking.strip():
                raise SampleError(
                    f"sample {name or '?'}: its reply has a thinking, for which the {form.name} format has no place: "
                    f"it would be lost. Leave it out of the data, or train a model that thinks."
                )
            return messages, Thinking()
        thought, content = thinking_of(last)
        if content.lstrip().startswith(str(THINK.think_open)):
            raise SampleError(f"sample {name or '?'}: its reply begins a thinking that does not end: it was cut off.")
        if thought is not None and (thought.strip() or last.thinking is not None):
            return messages, Thinking()
        if form.thinks == "always":
            raise SampleError(
                f"sample {name or '?'}: its reply has no thinking, and a {form.name} model always thinks: it would "
                f"learn not to. Give it one as reasoning_content, or train a model that can do without."
            )
        off = form.effective_thinking(messages[:-1], Thinking())
        last = replace(last, content=content, thinking=None if off else "")
        return [*messages[:-1], last], Thinking(mode="off" if off else "auto")


def read_conversations(path: Path) -> Iterator[tuple[str, list[Message], list[ToolSpec]]]:
    """Conversations of a JSONL file, one a line: {"messages": [...], "tools": [...]} as in OpenAI's API.

    Yields a name (file and line), messages, tools. Raises SampleError, naming the line, for what would otherwise be
    lost in silence: unknown fields of a message, a reasoning under an unknown name, prompts beside the messages,
    replies that were cut off. Other fields of a line, as an id or a source, say something about it and are not learnt.
    """
    for where, told in _objects(path, field="messages"):
        tools = _tools(told, where)
        yield where, [_message(message, f"{where} message {i}") for i, message in enumerate(told["messages"])], tools


class Preferred(NamedTuple):
    """A conversation with a chosen reply, and with a rejected one."""

    name: str
    chosen: list[Message]
    rejected: list[Message]
    tools: list[ToolSpec]


def read_preferences(path: Path) -> Iterator[Preferred]:
    """Pairs of a JSONL file, as in TRL: {"prompt": [messages], "chosen": [messages], "rejected": [messages],
    "tools": [...]}. Raises SampleError as `read_conversations` does.
    """
    for where, told in _objects(path, field="chosen"):
        parts = [told.get(field) or [] for field in ("prompt", "chosen", "rejected")]
        if not all(isinstance(part, list) for part in parts) or not parts[2]:
            raise SampleError(f"{where}: prompt, chosen and rejected must be lists of messages.")
        tools = _tools(told, where)
        prompt, chosen, rejected = ([_message(m, f"{where} message {i}") for i, m in enumerate(p)] for p in parts)
        yield Preferred(where, [*prompt, *chosen], [*prompt, *rejected], tools)


def _objects(path: Path, *, field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's name and object, which has a list of that name."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{path.name}:{number}"
                    yield where, _object(line, where, field=field)
    except (OSError, UnicodeDecodeError) as cause:
        raise SampleError(f"{path} cannot be read as UTF-8 text ({cause}).") from cause


def _object(line: str, where: str, *, field: str) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as cause:
        raise SampleError(f"{where}: not valid JSON ({cause}).") from cause
    if not isinstance(told, dict) or not isinstance(told.get(field), list):
        raise SampleError(f'{where}: no object with a list "{field}".')
    return told


def _tools(told: Mapping[str, Any], where: str) -> list[ToolSpec]:
    """The tools of a line, whose other fields are looked at."""
    for field in (field for field, value in told.items() if value not in NOTHING):
        if LIKE_THINKING.search(field):
            raise SampleError(f"{where}: unknown field {field!r}, which looks like a reasoning: it would be left out "
                              f"of training unseen. Put it into the reply's message as reasoning_content.")  # fmt: skip
        if field in PROMPTS:
            raise SampleError(f"{where}: the field {field!r} stands beside the messages, and would be left out of "
                              f"training unseen. Put it into a message, or rename it.")  # fmt: skip
    reason = told.get("finish_reason") or "stop"
    if reason not in DONE:
        raise SampleError(f"{where}: finish_reason is {reason!r}: the reply was cut off. Leave it out.")
    tools, given = list[ToolSpec](), told.get("tools") or []
    for body in map(_function, given if isinstance(given, list) else [{}]):
        if not isinstance(body.get("parameters") or {}, dict) or not isinstance(body.get("description") or "", str):
            raise SampleError(f"{where}: a tool whose description is no text, or whose parameters are no object.")
        if not isinstance(body.get("name"), str):
            raise SampleError(f"{where}: a tool without a name.")
        tools.append(ToolSpec(name=body["name"], description=body.get("description") or "",
                              parameters=body.get("parameters") or {}))  # fmt: skip
    return tools


def _function(told: Any) -> dict[str, Any]:
    """A tool's or a call's own object, {} where there is none."""
    inner = told.get("function", told) if isinstance(told, dict) else None
    return inner if isinstance(inner, dict) else {}


def _calls(told: Mapping[str, Any], where: str) -> tuple[ToolCall, ...]:
    """A message's calls. Raises SampleError for one without a name, or whose arguments are no JSON object."""
    calls, given = list[ToolCall](), told.get("tool_calls") or []
    for call in given if isinstance(given, list) else [{}]:
        function = _function(call)
        arguments = function.get("arguments", {})
        arguments = {} if arguments in NOTHING else arguments
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        if not isinstance(function.get("name"), str):
            raise SampleError(f"{where}: a tool call without a name.")
        try:
            whole = isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            whole = False
        if not whole:
            raise SampleError(f"{where}: a tool call whose arguments are no JSON object: {text:.80}. It would be "
                              f"learnt as it stands: mend it, or leave it out.")  # fmt: skip
        calls.append(ToolCall(name=function["name"], arguments=text, id=str(call.get("id", ""))))
    return tuple(calls)


def _message(told: Any, where: str) -> Message:
    if not isinstance(told, dict) or told.get("role") not in ("system", "user", "assistant", "tool"):
        raise SampleError(f"{where}: no object with a role (system, user, assistant or tool).")
    unknown = sorted(key for key, value in told.items() if key not in KNOWN_FIELDS and value not in NOTHING)
    if unknown:
        hint = " If it is a reasoning, name it reasoning_content." if told["role"] == "assistant" else ""
        raise SampleError(f"{where}: unknown field {unknown[0]!r}: it would be left out of training unseen.{hint}")
    named = [field for field in THINKING_FIELDS if told.get(field) is not None]
    for field in named:
        if not isinstance(told[field], str):
            raise SampleError(f"{where}: {field} is a {type(told[field]).__name__}, a text is needed.")
    if len({told[field] for field in named}) > 1:
        raise SampleError(f"{where}: {' and '.join(named)} differ: keep one of them.")
    calls = _calls(told, where)
    content = told.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
                   for part in content):  # fmt: skip
            raise SampleError(f"{where}: only text can be learnt, found another kind of part.")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str | None):
        raise SampleError(f"{where}: content is a {type(content).__name__}, a text is needed.")
    thought = told[named[0]] if named else ""  # an empty one says no more than none
    if told["role"] != "assistant" and (calls or thought.strip()):
        raise SampleError(f"{where}: a {told['role']} has {'tool calls' if calls else 'a thinking'}, for which only an "
                          f"assistant's message has a place: it would be left out of training unseen.")  # fmt: skip
    return Message(role=told["role"], content=content or "", thinking=thought if thought.strip() else None,
                   tool_calls=calls, tool_call_id=str(told.get("tool_call_id") or ""))  # fmt: skip
