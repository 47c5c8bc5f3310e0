"""What people and models say to each other."""

from typing import Any, Literal

from msgspec import Struct

Role = Literal["system", "user", "assistant", "tool"]


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One piece of a message's content. Only text for now."""

    type: Literal["text"] = "text"
    text: str


class ToolCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call that the model wants made. `arguments` is JSON text exactly as the model wrote it."""

    name: str
    arguments: str = "{}"
    id: str = ""


class ToolSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function the model may call; `parameters` is a JSON schema object."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}

    def as_openai(self) -> dict[str, Any]:
        """The dictionary that official chat templates print: type, function {name, description, parameters}."""
        body = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": body}


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message. `thinking` is None where the message carries no thinking, "" where it carries an empty one."""

    role: Role
    content: str | tuple[Part, ...] = ""
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    @property
    def text(self) -> str:
        """The content as one string: text parts joined without a separator."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
