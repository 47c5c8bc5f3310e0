"""Cases that mean the same in several dialects, drawn at random, and how each dialect asks them."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.serve.accumulate import Said, said_in_stream, said_in_whole

CHATS = ("chat", "responses", "messages")
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages",
         "completions": "/v1/completions"}  # fmt: skip
WORDS = (
    "tell",
    "me",
    "what",
    "the weather",
    "in Ulm is",
    "like,",
    "17 * 3",
    "is not 52",
    "/no_think",
    "naïve",
    "你好",
    "😀",
)
CITY = {"city": {"type": "string", "maxLength": 8}}
TOOL: dict[str, Any] = {"type": "object", "properties": CITY, "required": ["city"], "additionalProperties": False}
NEVER = 1 << 30
# OpenAI's words and Anthropic's for why a reply ended, in one word.
ENDS = {"end_turn": "stop", "completed": "stop", "stop_sequence": "stop", "max_tokens": "length", 
        "incomplete": "length", "tool_use": "stop", "tool_calls": "stop"}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A request.   turns   user, assistant, user ...;   switch, budget   of thinking, None: not said"""

    model: str
    turns: tuple[str, ...]
    system: str
    sampling: dict[str, Any] = field(hash=False)
    most: int = 20
    switch: bool | None = None
    budget: int | None = None
    tool: str = ""  # auto, required or named; "": none is offered

    @property
    def dialects(self) -> tuple[str, ...]:
        """Those that can say it: text without a format cannot be a conversation, but its prompt can be rendered."""
        plain = not self.tool and self.switch is not True and self.budget is None and self.model == "mini"
        return (*CHATS, "completions") if plain else CHATS

    @property
    def most_reasoning(self) -> int:
        """Tokens of thinking that the case allows."""
        return 0 if self.switch is False and self.model == "mini" else NEVER if self.budget is None else self.budget

    def __str__(self) -> str:
        return f"{self.model}-{len(self.turns)}-{self.sampling['seed']}"


def cases(count: int, *, seed: int, thinking: bool = False, tools: bool = False) -> list[Case]:
    """Random cases. thinking: with switches and budgets; tools: some with a tool that is offered or must be called."""
    rng = random.Random(seed)
    return [_case(rng, thinking=thinking, tools=tools) for _ in range(count)]


def _case(rng: random.Random, *, thinking: bool, tools: bool) -> Case:
    some = lambda most: " ".join(rng.choices(WORDS, k=rng.randint(1, most)))  # noqa: E731
    sampling: dict[str, Any] = {"temperature": rng.choice([0, 0.7, 1]), "seed": rng.randint(0, 1 << 30),
                                "top_p": rng.choice([0.9, 1.0]), "top_k": rng.choice([0, 20])}  # fmt: skip
    model = rng.choice(["mini", "mini-thinking"])
    switch = rng.choice([True, False, None]) if thinking and model == "mini" else True if thinking else None
    budget = rng.choice([0, 1, 2, 7, 30, None]) if thinking and switch is not False else None
    return Case(
        model=model, turns=tuple(some(9) for _ in range(rng.choice([1, 1, 3]))), system=rng.choice(["", some(5)]),
        sampling=sampling, most=rng.randint(1, 60), switch=switch, budget=budget,
        tool=rng.choice(["", "auto", "required", "named"]) if tools and rng.random() < 0.5 else "",
    )  # fmt: skip


def body(case: Case, *, dialect: str, stream: bool, rng: random.Random | None = None) -> dict[str, Any]:
    """The case as a dialect says it. rng: which of the dialect's ways to say the budget; None: the first."""
    talk = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(case.turns)]
    asked: dict[str, Any] = {"model": case.model, "stream": stream, **case.sampling}
    system = [{"role": "system", "content": case.system}] if case.system else []
    match dialect:
        case "chat":
            asked |= {"messages": [*system, *talk], "max_tokens": case.most, "stream_options": {"include_usage": True}}
        case "responses":
            asked |= {
                "input": talk,
                "max_output_tokens": case.most,
                "instructions": case.system or None,
                "store": False,
            }
        case _:
            asked |= {"messages": talk, "max_tokens": case.most, **({"system": case.system} if case.system else {})}
    return asked | _thinking(case, dialect, rng or random.Random(0)) | _tools(case, dialect)


def _thinking(case: Case, dialect: str, rng: random.Random) -> dict[str, Any]:
    ways: list[dict[str, Any]] = []
    if case.switch is False:
        ways = [{"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}]
        ways += {"messages": [{"thinking": {"type": "disabled"}}], "responses": [{"reasoning": {"effort": "none"}}],
                 "chat": [{"reasoning_effort": "none"}, {"think": False}]}[dialect]  # fmt: skip
    elif case.budget is not None:
        on = {} if case.switch is None else {"enable_thinking": True}
        ways = [{"thinking_budget": case.budget, **on}, {"thinking_token_budget": case.budget, **on}]
        if case.switch:
            enabled = {"type": "enabled", "budget_tokens": case.budget}
            effort = {"effort": "high", "max_tokens": case.budget}
            ways += [{"thinking": enabled}] if dialect == "messages" else [{"reasoning": effort}]
    elif case.switch:
        ways = [{"enable_thinking": True}]
    return rng.choice(ways) if ways else {}


def _tools(case: Case, dialect: str) -> dict[str, Any]:
    if not case.tool:
        return {}
    function = {"name": "weather", "description": "of a city", "parameters": TOOL}
    named = case.tool == "named"
    word = "required" if named else case.tool
    match dialect:
        case "chat":
            choice: Any = {"type": "function", "function": {"name": "weather"}} if named else word
            return {"tools": [{"type": "function", "function": function}], "tool_choice": choice}
        case "responses":
            choice = {"type": "function", "name": "weather"} if named else word
            return {"tools": [{"type": "function", **function}], "tool_choice": choice}
        case _:
            kind = {"auto": {"type": "auto"}, "required": {"type": "any"}, "named": {"type": "tool", "name": "weather"}}
            tool = {"name": "weather", "description": "of a city", "input_schema": TOOL}
            return {"tools": [tool], "tool_choice": kind[case.tool]}


def ask(client: httpx.Client, case: Case, *, dialect: str, stream: bool, rng: random.Random | None = None) -> Said:
    """What the server says to a case in a dialect, in words that all dialects share. Cached tokens are not told."""
    if dialect == "completions":
        prompt = client.post("/v1/chat/completions/render", json=body(case, dialect="chat", stream=False)).json()
        asked = {"model": case.model, "prompt": prompt["token_ids"], "max_tokens": case.most, "stream": stream,
                 "stream_options": {"include_usage": True}, **case.sampling}  # fmt: skip
    else:
        asked = body(case, dialect=dialect, stream=stream, rng=rng)
    answer = client.post(PATHS[dialect], json=asked)
    assert answer.is_success, (asked, answer.text)
    found = said_in_stream(dialect, answer.content) if stream else said_in_whole(dialect, answer.json())
    prompt_tokens, _, completion, reasoning = found.usage
    found.usage = (prompt_tokens, 0, completion, reasoning)
    found.calls = [("", name, _plain(arguments)) for _, name, arguments in found.calls]
    found.end = ENDS.get(found.end, found.end)
    return found


def _plain(arguments: str) -> str:
    """JSON in one spelling: Messages hands on what it says, not how it was written."""
    try:
        return json.dumps(json.loads(arguments))
    except ValueError:
        return arguments


def without_end(client: httpx.Client, model: str) -> dict[str, float]:
    """A logit bias with which a reply neither ends nor stops thinking by itself."""
    marks = {"model": model, "prompt": "</think><tool_call><|im_end|><|endoftext|>"}
    return {str(id): -100.0 for id in client.post("/tokenize", json=marks).json()["tokens"]}
