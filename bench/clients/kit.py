"""What the scenarios share: where the server is, what its model can be asked, and whether its engine is at rest."""

import json
import os
import time
import urllib.request
from typing import Any

URL, KEY, MODEL = (os.environ.get(f"OCTAVO_{name}", "") for name in ("URL", "KEY", "MODEL"))
TIMEOUT_S = 30
FRANCE, PARIS = "What is the capital of France?", "The capital of France is Paris."
GREETING, THOUGHT = "Hello! How can I help you?", "The user greets me."
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0,
                                                                            "maximum": 99}},
    "required": ["name", "age"], "additionalProperties": False,
}  # fmt: skip
WEATHER: Any = {"type": "function", "function": {"name": "get_weather", "description": "The weather in a city.",
                                                 "parameters": CITY}}  # fmt: skip
LONG = {"type": "string", "minLength": 12000, "maxLength": 12000}  # takes all the tokens that it may have
OPEN = {"structured_outputs": {"regex": "[a-z]{20}"}}  # anything may follow, so that the seed decides
OFF: dict[str, Any] = {"enable_thinking": False}


def get_weather(city: str) -> str:
    """The weather in a city."""
    return "18 degrees" if city == "Paris" else "21 degrees"


def comes_to_rest(*, within_s: float = 2.0) -> bool:
    """Whether the engine computes nothing any more, soon: by its own count, which has to rise before it falls."""
    end_s = time.monotonic() + within_s
    while running():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


def running() -> float:
    """Replies that the engine computes now."""
    ask = urllib.request.Request(f"{URL}/metrics", headers={"authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(ask, timeout=TIMEOUT_S) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("octavo:num_requests_running"))


def comes_to_work(*, within_s: float = 2.0) -> bool:
    """Whether the engine is seen computing, soon."""
    end_s = time.monotonic() + within_s
    while not running():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


def calls_of(message: Any) -> list[tuple[str, Any]]:
    """The tool calls of a chat message: names and arguments."""
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]
