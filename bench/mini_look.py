"""Where a model of the suite stands, and what it says and thinks where it is wrong: python -m bench.mini_look FOLDER.

A look while a suite is made, at greedy replies to held-out problems of each family, before the exams: in chat, thinking
and not; or with --plain, for stages of pre-training, in the form of the texts that they read.
"""

import argparse
import re
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from octavo.chat.reader import ReplyReader
from octavo.core.sampling import Sampling, Thinking
from octavo.core.task import Problem
from octavo.engine.types import Step
from octavo.tasks import TASKS
from octavo.text.chat.qwen3 import Qwen3
from octavo.text.tokenizer import Tokenizer
from octavo.train.measure import problems_of
from octavo.train.mini.exam import MODES
from octavo.train.mini.plan import LEVELS, SIX, TOOLS, plan
from octavo.train.mini.texts import ANSWER, ANSWERS, WORK, asked, called
from octavo.train.models import read_model
from octavo.train.own import OwnChat
from octavo.train.rollout import How, rollout

LONGEST = plan("short").longest
PLAIN = {"worked": WORK, "bare": ANSWER}


class Seen(NamedTuple):
    """A reply: whether it was right, what was to stand before its answer and what does, and the answer."""

    problem: Problem
    right: float
    wanted: str
    working: str
    answer: str


def in_chat(own: OwnChat, problems: Sequence[Problem], mode: str, *, budget: int | None = None) -> list[Seen]:
    """As in an exam.   budget: of thinking, where there is any"""
    how = How(sampling=Sampling(temperature=0, max_tokens=LONGEST))
    thinking = MODES[mode] if budget is None or mode == "direct" else Thinking(mode="on", budget_tokens=budget)
    put = [replace(problem, thinking=thinking) for problem in problems]
    done = rollout(own.refresh(), put, tasks=TASKS, how=how)
    return [
        Seen(problem=one.problem, right=one.score.value, wanted=one.problem.trace,
             working=one.turns[0].message.thinking or "", answer=one.turns[-1].message.text)
        for one in done
    ]  # fmt: skip


def in_text(own: OwnChat, problems: Sequence[Problem], mode: str) -> list[Seen]:
    """As a document that goes on; right is an answer that is the gold one to the letter."""
    chat, running = own.refresh(), dict[str, tuple[Problem, ReplyReader, list[Step]]]()
    for problem in problems:
        request, (reader,) = chat.prepare_text(
            asked(problem) + PLAIN[mode], sampling=Sampling(temperature=0, max_tokens=LONGEST)
        )
        chat.engine.submit(request)
        running[request.id] = problem, reader, []
    while chat.engine.busy:
        for step in chat.engine.step():
            running[step.id][2].append(step)
    found = list[Seen]()
    for problem, reader, steps in running.values():
        text = reader.whole(steps).message.text
        working, answer = parted(text) if mode == "worked" else ("", text)
        right = float(answer.strip() == problem.gold.text.strip())
        wanted = "".join([problem.trace, *called(problem)])
        found.append(Seen(problem, right, wanted, working.strip("\n"), answer.strip()))
    return found


def parted(text: str) -> tuple[str, str]:
    """A working, and the answer behind what stands before one."""
    marks = [re.escape(mark.strip(" ")) for mark in sorted(ANSWERS, key=len, reverse=True)]
    working, *rest = re.split("|".join(marks), text, maxsplit=1)
    return working, rest[0] if rest else ""


def first_wrong(seen: Seen) -> str:
    """The first line that is not the solver's."""
    lines = zip_longest(seen.wanted.split("\n"), seen.working.split("\n"), fillvalue="(none)")
    for number, (wanted, written) in enumerate(lines, 1):
        if wanted != written:
            return f"line {number}: {written!r}, the solver's is {wanted!r}"
    return "all of its working is the solver's"


def main() -> None:
    """A line for each family; with --wrong, some failures of the first mode under it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plain", action="store_true", help="as the documents of pre-training, not in chat")
    parser.add_argument("--families", default=",".join([*SIX, *TOOLS]))
    parser.add_argument("--budget", type=int, help="tokens of thinking")
    parser.add_argument("--count", type=int, default=60, help="problems of each family")
    parser.add_argument("--wrong", type=int, default=0, help="failures to show of each family")
    options = parser.parse_args()
    if options.plain and options.budget is not None:
        parser.error("--plain has no thinking that a budget could end: leave one of both out.")
    own = OwnChat(read_model(options.folder)[0], tokenizer=Tokenizer.from_folder(options.folder), form=Qwen3())
    in_budget = partial(in_chat, budget=options.budget)
    look, modes = (in_text, list(PLAIN)) if options.plain else (in_budget, list(MODES))
    shares = list[list[float]]()
    for name in options.families.split(","):
        problems = problems_of(TASKS[name], {**LEVELS, **TOOLS}[name], count=options.count)
        seen = {mode: look(own, problems, mode) for mode in modes}
        shares.append([100 * sum(one.right for one in some) / len(some) for some in seen.values()])
        told = "  ".join(f"{mode} {part:5.1f}" for mode, part in zip(modes, shares[-1], strict=True))
        print(f"{name:14s} {told}   ({len(problems)} problems)", flush=True)
        wrong = [one for one in seen[modes[0]] if one.right < 1]
        for one in wrong[: options.wrong]:
            print(f"    level {one.problem.level}: {asked(one.problem)!r:.300}\n        {first_wrong(one)}")
            print(f"        {one.answer!r:.100}, the gold answer is {one.problem.gold.text!r:.100}")
    means = [sum(column) / len(shares) for column in zip(*shares, strict=True)]
    print("mean           " + "  ".join(f"{mode} {mean:5.1f}" for mode, mean in zip(modes, means, strict=True)))


if __name__ == "__main__":
    main()
