"""A tiny model that has learnt to reply in the right format, but guesses: one colour of four, whatever was asked."""

import random
from collections.abc import Mapping, Sequence
from functools import cache

import torch
from msgspec.structs import replace

from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.core.sampling import Thinking
from octavo.core.task import Problem, Score, Split
from octavo.models import build
from octavo.models.decoder import Decoder
from octavo.nn.context import PackedContext
from octavo.nn.logprobs import surprise
from octavo.tasks.base import Task
from octavo.text.chat.base import Format, Rendered
from octavo.text.chat.qwen3 import Qwen3
from octavo.text.tokenizer import Tokenizer
from tests.serve.mini import config, mini_random

COLOURS = ("red", "blue", "tell", "user")
LOOK = ToolSpec(name="add")
ON, OFF = Thinking(mode="on"), Thinking(mode="off")


class Say(Task):
    """Say the colour that is named."""

    name = "say"

    def problem(self, seed: int, *, level: int = 1, split: Split = "train", language: str = "en") -> Problem:
        colour = COLOURS[seed % len(COLOURS)]
        return Problem(
            task=self.name, id=f"{seed}", key=f"{seed}", answer=colour, level=level,
            messages=(Message(role="user", content=f"Say {colour}"),),
            gold=Message(role="assistant", content=colour), thinking=(ON, OFF)[seed // len(COLOURS) % 2],
        )  # fmt: skip

    def score(self, problem: Problem, reply: Message, earlier: Sequence[Message] = ()) -> Score:
        right = reply.text.strip() == problem.answer
        return Score(value=float(right), answer=reply.text, why="")


class Look(Say):
    """The same, with a tool that is of no use."""

    name = "look"

    def call(self, problem: Problem, call: ToolCall) -> str:
        return f"it is {problem.answer}"


TASKS: Mapping[str, Task] = {"say": Say(), "look": Look()}


@cache
def words() -> tuple[Tokenizer, Format]:
    return Tokenizer.from_folder(mini_random()), Qwen3()


@cache
def _taught() -> dict[str, torch.Tensor]:
    tokenizer, draw = words()[0], random.Random(0)
    torch.manual_seed(0)
    model = build(config())
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(80):
        for group in optimiser.param_groups:
            group["lr"] = 5e-3 * min(1, (step + 1) / 10, (81 - step) / 40)
        texts = [_guess(draw).tokens_and_weights(tokenizer) for _ in range(24)]
        tokens_T = torch.tensor([token for tokens, _ in texts for token in tokens])
        written_T = torch.tensor([weight for _, weights in texts for weight in weights])
        hidden_TD = model(tokens_T, PackedContext([len(tokens) for tokens, _ in texts]))
        rows = (written_T[1:] > 0).nonzero().flatten()
        optimiser.zero_grad()
        surprise(model.logits(hidden_TD[rows]), tokens_T[rows + 1]).mean().backward()
        optimiser.step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _guess(draw: random.Random) -> Rendered:
    named, thinking = draw.choice(COLOURS), draw.choice((ON, OFF))
    reply = Message(
        role="assistant", content=draw.choice(COLOURS), thinking="user user user" if thinking is ON else None
    )
    asked = [Message(role="user", content=f"Say {named}")]
    if draw.random() < 0.4:
        call = Message(role="assistant", tool_calls=(ToolCall(name="add", arguments="{}"),), thinking=reply.thinking)
        given = [call, Message(role="tool", content=f"it is {named}"), reply]
        told = [call] if draw.random() < 0.5 else given
        return words()[1].render([*asked, *told], tools=[LOOK], thinking=thinking, reply=False)
    return words()[1].render([*asked, reply], thinking=thinking, reply=False)


def guesser() -> Decoder:
    """A copy of its own for each caller."""
    model = build(config())
    model.load_state_dict(_taught())
    return model


def problems(count: int, *, task: str = "say", first: int = 0) -> list[Problem]:
    """Both modes, all colours, in turn; those of `look` with its tool."""
    made = [TASKS[task].problem(seed) for seed in range(first, first + count)]
    return [replace(p, tools=(LOOK,)) if task == "look" else p for p in made]
