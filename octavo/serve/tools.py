"""What a client chose of its tools -> what the engine holds the calls to."""

import json
from typing import Any

from octavo.chat.local import LocalChat
from octavo.core.errors import FormatError, RequestError
from octavo.core.messages import ToolSpec
from octavo.engine.types import CallForm, Calls
from octavo.serve.job import Job


def offered(job: Job) -> tuple[ToolSpec, ...]:
    """The tools that the model hears of: none where it must not call any."""
    return () if job.choice.mode == "none" else job.tools


def calls_of(chat: LocalChat, job: Job) -> Calls | None:
    """What the reply's calls must be; None where nothing is asked of them.

    Arguments match their schema where a call is required, or the tool is strict; elsewhere they are any object.
    Raises FormatError where the format has no known way to call, RequestError for parameters of another type.
    """
    choice, tools = job.choice, offered(job)
    shaped = any(job.sampling.get(name) for name in ("schema", "regex", "choice"))
    required, narrowed = choice.mode == "required", bool(choice.only or choice.strict) or not choice.parallel
    if not tools or not (required or narrowed or shaped):
        return None
    layout, tags = chat.form.call_layout, chat.form.tags
    if layout is None:
        raise FormatError(f"it is not known how models of the {chat.form.name} format call tools: set tool_choice to "
                          f"auto, and leave out strict tools, or use a Qwen3 model.")  # fmt: skip
    before, after = layout.before, layout.after
    if tags.tool_close is not None and chat.markers.tool_close is None:  # tags that are no tokens are text
        before, after = f"{tags.tool_open}{before}", f"{after}{tags.tool_close}"
    forms = tuple(
        CallForm(
            name=tool.name, before=before + json.dumps(tool.name, ensure_ascii=False)[1:-1] + layout.middle,
            schema=_arguments(tool) if required or tool.name in choice.strict else {"type": "object"}, after=after,
        )
        for tool in tools if not choice.only or tool.name in choice.only
    )  # fmt: skip
    between = tuple(chat.tokenizer.encode(layout.between))
    return Calls(forms=forms, between=between, required=required, parallel=choice.parallel)


def _arguments(tool: ToolSpec) -> dict[str, Any]:
    kind = tool.parameters.get("type", "object")
    if kind != "object":
        raise RequestError(
            f"the parameters of the tool {tool.name!r} are of type {kind!r}: give a schema of an object."
        )
    return {**tool.parameters, "type": "object"}
