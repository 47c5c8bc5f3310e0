"""A program that stands where `octavo chat` stands, with a slow chat that says what a test wants.

    python -m tests.cli.scripted OPTIONS_JSON

It uses nothing but the public seam: `octavo.cli.chat.talk(chat, ...)`.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence

from octavo.cli.chat import talk
from octavo.core.deltas import Delta, Finished, TextDelta, ThinkingDelta, Usage
from octavo.core.errors import FormatError, HubError
from octavo.core.messages import Message, ToolSpec
from octavo.core.sampling import Sampling, Thinking


class SlowReply:
    def __init__(self, thinking: str, text: str, *, pause_s: float, prompt_tokens: int) -> None:
        self.thinking, self.text, self.pause_s, self.prompt_tokens = thinking, text, pause_s, prompt_tokens
        self.cancelled = self.thinking_ended = False

    def cancel(self) -> None:
        self.cancelled = True

    def end_thinking(self) -> None:
        self.thinking_ended = True

    def __iter__(self) -> Iterator[Delta]:
        thought, said, thoughts, tokens = "", "", 0, 0
        for piece in pieces(self.thinking):
            if not self.cancelled and not self.thinking_ended:
                time.sleep(self.pause_s)
                thought, thoughts = thought + piece, thoughts + 1
                yield ThinkingDelta(text=piece)
        thinking_tokens = thoughts + 3 if thought else 0  # the tags and the gap
        for piece in pieces(self.text):
            if not self.cancelled:
                time.sleep(self.pause_s)
                said, tokens = said + piece, tokens + 1
                yield TextDelta(text=piece)
        stop = "user" if self.thinking_ended else "natural" if thought else None
        usage = Usage(prompt_tokens=self.prompt_tokens, completion_tokens=thinking_tokens + tokens,
                      thinking_tokens=thinking_tokens, prefill_s=0.5, decode_s=2.0, thinking_stop=stop)  # fmt: skip
        message = Message(role="assistant", content=said, thinking=thought or None)
        yield Finished(message=message, reason="cancelled" if self.cancelled else "stop", usage=usage)


def pieces(text: str) -> list[str]:
    return [word + " " for word in text.split(" ")] if text else []


class SlowChat:
    """Answers from its options: replies {last user text: [thinking, text]}; anything else is counted back."""

    def __init__(self, options: dict) -> None:
        self.options, self.name, self.context_tokens = options, options.get("name", "slow"), 1000

    def stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        sampling: Sampling | None = None,
        thinking: Thinking = Thinking(),
    ) -> SlowReply:
        if thinking.mode == "on" and self.options.get("never_thinks"):
            raise FormatError("this model cannot think: /nothink.")
        if path := self.options.get("log"):
            with open(path, "a", encoding="utf-8") as file:
                said = [[m.role, m.text] for m in messages]
                temperature = sampling.temperature if sampling else None
                print(json.dumps([said, thinking.mode, thinking.budget_tokens, temperature]), file=file)
        asked = messages[-1].text
        thoughts, text = self.options.get("replies", {}).get(asked, ["", f"turn {len(messages)}: {asked!r}"])
        return SlowReply(thoughts, text, pause_s=self.options.get("pause_s", 0.0), prompt_tokens=10 * len(messages))


def main() -> None:
    options = json.loads(sys.argv[1])

    def load(name: str) -> SlowChat:
        if name == "missing":
            raise HubError("missing is not here: choose another.")
        return SlowChat({**options, "name": name})

    code = talk(SlowChat(options), load=load)
    if "torch" in sys.modules:
        code = 99
    sys.stdout.flush()
    os._exit(code) if options.get("hard") else sys.exit(code)


if __name__ == "__main__":
    main()
