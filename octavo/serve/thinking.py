"""Every dialect's switch and budget for thinking -> the one `Thinking`.

Of several that are given, the most exact speaks: a budget before an effort, an effort before a switch. Qwen's soft
switches (/think, /no_think) are the chat format's business; they act where the mode is auto.
"""

from typing import Any, Literal

from msgspec import Struct

from octavo.core.sampling import Thinking
from octavo.serve.errors import Refusal

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: dict[str, int | None] = {  # -> tokens of thinking at most; ours, as no maker says what an effort is
    "none": 0, "minimal": 256, "low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768, "max": None,
}  # fmt: skip


class Switches(Struct, frozen=True, kw_only=True):
    """All that chat clients send. chat_template_kwargs: only what is known of it may stand there."""

    enable_thinking: bool | None = None  # DashScope, Qwen
    thinking_budget: int | None = None  # DashScope
    thinking_token_budget: int | None = None  # vLLM; -1: none
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: Effort | None = None  # OpenAI
    reasoning: dict[str, Any] | None = None  # Responses, OpenRouter
    thinking: dict[str, Any] | None = None  # Anthropic, DeepSeek
    think: bool | Effort | None = None  # Ollama


def thinking_of(s: Switches) -> Thinking:
    """The one mode and budget. Raises Refusal for values that none of the clients' makers define."""
    mode, budget = _from_kwargs(s.chat_template_kwargs or {})
    if s.enable_thinking is not None:
        mode = "on" if s.enable_thinking else "off"
    for effort in (_effort_in(s.reasoning or {}), s.think if isinstance(s.think, str) else None, s.reasoning_effort):
        if effort is not None:
            mode, budget = of_effort(effort)
    if isinstance(s.think, bool):
        mode = "on" if s.think else "off"
    if s.thinking is not None:
        mode, budget = _anthropic(s.thinking)
    for given in (_budget_in(s.reasoning or {}), s.thinking_budget, s.thinking_token_budget):
        if given is not None:
            budget = None if given == -1 else given
    if budget is not None and budget < 0:
        raise Refusal(f"a thinking budget of {budget} tokens: give 0 or more, or -1 for no limit.",
                      param="thinking_budget")  # fmt: skip
    return Thinking(mode=mode, budget_tokens=budget)


Mode = Literal["auto", "on", "off"]


def of_effort(effort: str) -> tuple[Mode, int | None]:
    """Mode and budget of an effort. Raises Refusal for one that is unknown."""
    if effort not in EFFORTS:
        raise Refusal(f"reasoning effort {effort!r}: choose of {', '.join(EFFORTS)}.", param="reasoning_effort")
    return ("off", None) if effort == "none" else ("on", EFFORTS[effort])


def _from_kwargs(kwargs: dict[str, Any]) -> tuple[Mode, int | None]:
    known = {"enable_thinking", "thinking", "thinking_budget"}
    unknown = sorted(set(kwargs) - known)
    if unknown:
        raise Refusal(f"chat_template_kwargs.{unknown[0]} is not known: {', '.join(sorted(known))} are.",
                      param=f"chat_template_kwargs.{unknown[0]}")  # fmt: skip
    switch, budget = kwargs.get("enable_thinking", kwargs.get("thinking")), kwargs.get("thinking_budget")
    if switch is not None and not isinstance(switch, bool):
        raise Refusal("chat_template_kwargs.enable_thinking must be true or false.", param="chat_template_kwargs")
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool)):
        raise Refusal("chat_template_kwargs.thinking_budget must be a number of tokens.", param="chat_template_kwargs")
    return "auto" if switch is None else "on" if switch else "off", budget


def _effort_in(reasoning: dict[str, Any]) -> str | None:
    if reasoning.get("enabled") is False:
        return "none"
    effort = reasoning.get("effort")
    if effort is not None and not isinstance(effort, str):
        raise Refusal(f"reasoning.effort must be one of {', '.join(EFFORTS)}.", param="reasoning.effort")
    return effort


def _budget_in(reasoning: dict[str, Any]) -> int | None:
    budget = reasoning.get("max_tokens")
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool)):
        raise Refusal("reasoning.max_tokens must be a number of tokens.", param="reasoning.max_tokens")
    return budget


def _anthropic(thinking: dict[str, Any]) -> tuple[Mode, int | None]:
    kind, budget = thinking.get("type"), thinking.get("budget_tokens")
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        raise Refusal(f"thinking.type {kind!r}: choose enabled, disabled, adaptive or between_tools.",
                      param="thinking.type")  # fmt: skip
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 0):
        raise Refusal("thinking.budget_tokens must be a number of tokens, 0 or more.", param="thinking.budget_tokens")
    return ("off", None) if kind == "disabled" else ("on" if kind == "enabled" else "auto", budget)
