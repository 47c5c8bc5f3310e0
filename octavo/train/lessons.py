"""Problems as conversations: what the cold start and the fusion of both modes learn from.

Flags: a thinking reply may be asked for by /think or by nothing, one without by /no_think; in a conversation with
several turns the last flag counts. Source: Qwen3 report, arXiv:2505.09388, section 4.3, table 9.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from octavo.core.channel import Markers
from octavo.core.messages import Message
from octavo.core.sample import Sample, sample
from octavo.core.task import Problem, Trajectory
from octavo.tasks import TASKS
from octavo.train.conversations import Writer

THINK, NO_THINK = "/think", "/no_think"
Often = Annotated[float, Meta(gt=0)]  # a weight in a draw: 1 where nothing is said


def problem_of(draw: random.Random, levels: Mapping[str, Sequence[int]], *, other: float = 0.0,
               often: Mapping[str, float] = {}) -> Problem:  # fmt: skip
    """One problem of the training split.   often   task -> its weight, 1 where it has none"""
    names = sorted(levels)
    name = draw.choices(names, [often.get(one, 1.0) for one in names])[0] if often else draw.choice(names)
    task = TASKS[name]
    foreign = [language for language in task.languages if language != "en"]
    language = draw.choice(foreign) if foreign and draw.random() < other else "en"
    level = draw.choice(list(levels[name]))
    return task.problem(draw.getrandbits(40), level=level, split="train", language=language)


def flagged(problem: Problem, flag: str) -> tuple[Message, ...]:
    """The problem's messages with a flag behind the question, "" for none."""
    *before, question = problem.messages
    return (*before, replace(question, content=f"{question.text} {flag}".strip()))


def solved(problem: Problem, *, thinking: str | None, flag: str = "") -> list[Message]:
    """A whole conversation: question, calls and tools' answers where it takes them, and the gold reply.

    thinking   of the first reply (what it calls, or the answer); "" an empty block that the model writes itself
    """
    earlier = list(TASKS[problem.task].golden(problem))
    if not earlier:
        return [*flagged(problem, flag), replace(problem.gold, thinking=thinking)]
    call, *answers = earlier
    after = None if thinking is None else ""
    return [*flagged(problem, flag), replace(call, thinking=thinking), *answers, replace(problem.gold, thinking=after)]


def cold_start(writer: Writer, levels: Mapping[str, Sequence[int]], *, seed: str, count: int,
               often: Mapping[str, float] = {}) -> list[Sample]:  # fmt: skip
    """Few thinking replies, on purpose: the rest is left to RL. Of each conversation, every reply."""
    draw, found = random.Random(seed), list[Sample]()
    while len(found) < count:
        problem = problem_of(draw, levels, often=often)
        messages = solved(problem, thinking=problem.trace, flag=draw.choice((THINK, "")))
        found += writer.replies(messages, tools=problem.tools, name=f"{problem.task} {problem.id}")
    return found


def without_thinking(writer: Writer, problem: Problem, draw: random.Random) -> list[Sample]:
    """The gold reply without thinking: half of the times the model writes the empty block, as after /no_think; else it
    stands in the prompt, as where the thinking is switched off."""
    asked = draw.random() < 0.5
    messages = solved(problem, thinking="" if asked else None, flag=NO_THINK if asked else "")
    return writer.replies(messages, tools=problem.tools, name=f"{problem.task} {problem.id}")


def cut_short(markers: Markers, one: Trajectory, draw: random.Random) -> Sample:
    """A right reply of one turn, its thinking cut somewhere as by a budget; its answer all the same, which is learnt.

    In the report this is said to come by itself, arXiv:2505.09388, section 4.3; models of this size have to be shown.
    """
    turn = one.turns[0]
    closed = turn.tokens.index(markers.think_close or 0)
    answer = turn.tokens[closed + 1 :]
    while answer and answer[0] in markers.gap:  # which the model may have written otherwise, or not at all
        answer = answer[1:]
    before = (*turn.prompt, *turn.tokens[: draw.randint(1, closed)], *markers.early_stop)
    weights = [0.0] * len(before) + [1.0] * len(answer)
    return sample((*before, *answer), weights, name=f"{one.problem.task} {one.problem.id}, cut")


def several_turns(writer: Writer, turns: Sequence[tuple[Problem, str]], draw: random.Random) -> list[Sample]:
    """Problems one after the other, with flags at random: each reply does as the last flag says.

    turns: each problem, without tools, with the thinking that leads to its answer.
    """
    messages, mode = list[Message](), THINK
    if draw.random() < 0.2:
        mode = draw.choice((THINK, NO_THINK))
        messages.append(Message(role="system", content=mode))
    for problem, thinking in turns:
        flag = draw.choice((THINK, NO_THINK, ""))
        mode = flag or mode
        messages += flagged(problem, flag)
        messages.append(replace(problem.gold, thinking=thinking if mode == THINK else ""))
    return writer.replies(messages, name=" + ".join(problem.task for problem, _ in turns))
