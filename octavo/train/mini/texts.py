"""What a mini model reads in pre-training: problems worked out, problems with bare answers, and small talk.

Document i of a stream is a pure function of the stream's seed and i, so that training goes on anywhere.
"""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from octavo.core.messages import Message
from octavo.core.task import Problem
from octavo.tasks import TASKS
from octavo.tasks.forms import WORDS
from octavo.tasks.retrieval import NAMES, THINGS
from octavo.text.chat.base import EARLY_STOP
from octavo.text.chat.qwen3 import Qwen3
from octavo.train.lessons import problem_of

PEOPLE = ("Mia", "Tom", "Ana", "Ben", "Kai", "Eva", "Leo", "Zoe")
COLOURS = ("red", "blue", "green", "black", "white")
PLACES = ("garden", "house", "shop", "park", "school")
TOWNS = ("Rome", "Oslo", "Lima", "Bonn", "Kyiv")
LETTERS = "abcdefghijkl"
EDITION = 6  # of these texts: one more where a seed and a number give another document
SOUGHT = {"retrieval": range(1, 6)}  # what is looked for in lists, and in how long ones
AGAIN = 3  # times that a list is gone through again: the more is looked up in it, the sooner looking up is learnt


Kind = Literal["things", "owners", "words", "rows", "values", "neighbours", "sought"]  # of lists


# What stands before a working and before an answer: in one fixed wording, a model learns to find the question so many
# tokens back, and finds it no more where a chat's tokens stand between.
WORKS = (
    "\nWork:\n", "\n\nWork\n", "\nThe work:\n", "\nFirst, work it out:\n", "\n---\n\nWork\n\n---\n", "\n[work] ",
    "\n\n\n# Work\n\n", "\n> ", "\n\n(work)\n\n", "\n...\n\n\n", "\nThe work, line by line, is this:\n", " -- Work:\n",
)  # fmt: skip
ANSWERS = (
    "\nAnswer:", "\n\nAnswer\n", "\nThe answer:", "\nSo, the answer is", "\n---\n\nAnswer\n\n---\n", "\n[answer]",
    "\n\n\n# Answer\n\n", "\n=>", "\n\n(answer)\n\n", "\n***\n\n\n", "\nThe answer, then, is this:\n", " -- Answer:",
)  # fmt: skip
WORK, ANSWER = WORKS[0], ANSWERS[0]


class Blend(Struct, frozen=True, kw_only=True):
    """What a stream of documents is made of.

    levels    task -> its levels, each as likely as the others, as are the tasks
    worked    share of problems that are worked out before the answer; the rest have bare answers
    slips     share of worked problems with one wrong sign in their working, as texts of the world have them
    prose     share of documents that are no problem at all
    listed    share of them that are lists gone through again, of the kinds `lists`; the rest are plain sentences
    other     share of problems in another language than English, where a task has one
    seen      tasks of which half of the problems with bare answers are: those whose answer stands in the text
    often     task -> how often it comes, the others: 1
    """

    levels: Mapping[str, Sequence[int]]
    worked: float = 0.5
    slips: float = 0.0
    prose: float = 0.05
    listed: float = 0.8
    lists: Sequence[Kind] = ("things", "owners", "rows", "values", "neighbours")
    other: float = 0.15
    seen: Sequence[str] = ()
    often: Mapping[str, float] = {}


def document(blend: Blend, *, seed: int | str, number: int) -> str:
    """The text of document `number`."""
    draw = random.Random(f"{seed} {number}")
    if draw.random() < blend.prose:
        return listed(draw, kinds=blend.lists) if draw.random() < blend.listed else prose(draw)
    if draw.random() >= blend.worked:
        seen = blend.seen if draw.random() < 0.5 else ()
        levels = {name: blend.levels[name] for name in seen} or blend.levels
        return bare(problem_of(draw, levels, other=blend.other, often=blend.often), draw)
    return worked(problem_of(draw, blend.levels, other=blend.other, often=blend.often), draw, slips=blend.slips)


def asked(problem: Problem) -> str:
    """All that was said to the model so far, a line each; before it, which tools there are."""
    tools = [f"Tools: {', '.join(tool.name for tool in problem.tools)}"] if problem.tools else []
    return "\n".join([*tools, *(message.text for message in problem.messages)])


def bare(problem: Problem, draw: random.Random) -> str:
    """A problem and its answer; where it takes a call of a tool, behind that."""
    return f"{asked(problem)}{''.join(called(problem))}{answered(problem, draw)}"


def worked(problem: Problem, draw: random.Random, *, slips: float) -> str:
    """A problem, the way to its answer, and the answer."""
    if not problem.trace:
        return bare(problem, draw)
    trace = slipped(problem.trace, draw) if draw.random() < slips else problem.trace
    return f"{asked(problem)}{draw.choice(WORKS)}{trace}{''.join(called(problem))}{answered(problem, draw)}"


def called(problem: Problem) -> list[str]:
    """The calls of tools that it takes, as JSON, and what the tools say; each on a line of its own."""
    lines = list[str]()
    for message in TASKS[problem.task].golden(problem):
        calls = [{"name": call.name, "arguments": json.loads(call.arguments)} for call in message.tool_calls]
        lines += map(json.dumps, calls) if calls else [message.text]
    return [f"\n{line}" for line in lines]


def answered(problem: Problem, draw: random.Random) -> str:
    """The answer, and what stands before it."""
    before = draw.choice(ANSWERS)
    return f"{before}{'' if before[-1].isspace() else ' '}{problem.gold.text}"


def slipped(trace: str, draw: random.Random) -> str:
    """A trace with one of its letters or digits changed into another one of the same kind."""
    places = [i for i, sign in enumerate(trace) if sign.isascii() and sign.isalnum()]
    if not places:
        return trace
    at = draw.choice(places)
    kind = "0123456789" if trace[at].isdigit() else "abcdefghijklmnopqrstuvwxyz"
    return trace[:at] + draw.choice(kind) + trace[at + 1 :]


def prose(draw: random.Random) -> str:
    """Some plain sentences that hang together."""
    who, friend = draw.sample(PEOPLE, 2)
    thing, colour, place, next_place = draw.choice(THINGS), draw.choice(COLOURS), *draw.sample(PLACES, 2)
    told = [
        f"{who} has a {colour} {thing}. The {thing} of {who} is {colour}.",
        f"{who} is in the {place}. Then {who} goes to the {next_place}. Now {who} is in the {next_place}.",
        f"{who} gives the {thing} to {friend}. Now {friend} has the {thing}.",
        f"Where is {who}? {who} is in the {place}.",
    ]
    return " ".join(draw.sample(told, draw.randint(1, len(told))))


def listed(draw: random.Random, *, kinds: Sequence[Kind]) -> str:
    """A list, then the same again and again, each time in another order: so is looking up learnt."""
    kind = draw.choice(kinds)
    if kind == "sought":
        return "\n".join("".join(sought(draw)) for _ in range(AGAIN + 1))
    makers = {"things": things, "owners": owners, "words": words, "rows": rows, "values": values,
              "neighbours": neighbours}  # fmt: skip
    lines, again = makers[kind](draw)
    return "\n".join([*lines, *(line for _ in range(AGAIN) for line in draw.sample(again, len(again)))])


Lines = tuple[list[str], list[str]]  # what is told, and how it is told again


def things(draw: random.Random) -> Lines:
    """Who has what: the shortest of lists, a name and a thing in a line."""
    lines = [f"{who} {draw.choice(THINGS)}" for who in draw.sample(NAMES, draw.randint(3, len(NAMES)))]
    return lines, lines


def sought(draw: random.Random) -> tuple[str, str]:
    """A list of things below the name that is looked for in it, a problem to learn from; and what that name has."""
    while not (problem := problem_of(draw, SOUGHT)).messages[-1].text.startswith("Look up"):
        pass
    text = bare(problem, draw)
    known = text.removesuffix(problem.gold.text).removesuffix(" ")
    return known, text.removeprefix(known)


def owners(draw: random.Random) -> Lines:
    """The same, again in words."""
    lines, _ = things(draw)
    words = draw.choice(("{} has the {}.", "{}? {}."))
    return lines, [words.format(*line.split()) for line in lines]


def words(draw: random.Random) -> Lines:
    """Some words behind a letter, or each of them twice; again as they are, in upper case, or from the last one on."""
    names, times = draw.sample(LETTERS, draw.randint(3, 8)), draw.choice((1, 1, 2))
    told = {name: [word for word in draw.sample(WORDS, draw.randint(2, 4)) for _ in range(times)] for name in names}
    lines = [f"{name}: {' '.join(said)}" for name, said in told.items()]
    way = draw.choice(("as it is", "as it is", "upper", "backwards"))
    if way == "backwards":
        return lines, [f"{name}: {' '.join(said[::-1])}" for name, said in told.items()]
    return lines, [line.upper() for line in lines] if way == "upper" else lines


def rows(draw: random.Random) -> Lines:
    """Who, where and how many."""
    names = draw.sample(NAMES, draw.randint(3, len(NAMES)))
    lines = [f"{who} {draw.choice(TOWNS)} {draw.randrange(1, 20)}" for who in names]
    return lines, lines


def values(draw: random.Random) -> Lines:
    """Letters that stand for numbers."""
    lines = [f"{name}={draw.randrange(1, 10)}" for name in draw.sample(LETTERS, draw.randint(3, len(LETTERS)))]
    return lines, lines


def neighbours(draw: random.Random) -> Lines:
    """Pairs; again as each name and those that it stands beside."""
    names = draw.sample(LETTERS, draw.randint(4, len(LETTERS)))
    pairs = draw.sample([(one, other) for one in names for other in names if one < other], len(names))
    beside = {
        name: sorted({*(b for a, b in pairs if a == name), *(a for a, b in pairs if b == name)}) for name in names
    }
    told = [" ".join("-".join(draw.sample(pair, 2)) for pair in pairs)]
    return told, [f"{name}: {' '.join(beside[name])}" for name in names if beside[name]]


def fixed_texts() -> list[str]:
    """What the chat format writes around every conversation, often enough that its words become tokens."""
    tools = tuple({tool.name: tool for i in range(20) for tool in TASKS["tools"].problem(i, level=3).tools}.values())
    asked = [Message(role="user", content="/think /no_think")]
    return [Qwen3().render(asked, tools=tools).text, EARLY_STOP] * 100
