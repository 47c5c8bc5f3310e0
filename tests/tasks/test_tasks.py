"""Laws of all tasks: gold replies score 1, wrong ones 0; the same seed gives the same problem; splits never overlap."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.core.errors import TaskError
from octavo.core.messages import Message, ToolCall
from octavo.core.task import Problem
from octavo.tasks import TASKS
from octavo.tasks.base import SHARES, Procedural, Task, split_of

MADE_UP = [task for task in TASKS.values() if isinstance(task, Procedural)]
names = pytest.mark.parametrize("task", MADE_UP, ids=lambda task: task.name)


def some(task: Task, *, split: str = "train", count: int = 40, language: str = "en") -> list[Problem]:
    levels = range(1, task.levels + 1)
    return [task.problem(i, level=level, split=split, language=language) for level in levels for i in range(count)]


@names
def test_gold_replies_score_one_and_wrong_ones_nothing(task):
    task.validate(count=25)


@names
def test_a_seed_gives_the_same_problem_again(task):
    assert some(task, count=5) == some(task, count=5)


@names
def test_no_problem_is_in_two_splits_however_it_is_worded(task):
    keys = {
        split: {p.key for language in task.languages for p in some(task, split=split, language=language)}
        for split in SHARES
    }
    assert not keys["train"] & keys["test"] and not keys["train"] & keys["validation"]
    assert not keys["test"] & keys["validation"]
    assert all(split_of(key) == split for split, found in keys.items() for key in found)


@names
def test_no_question_of_a_test_is_asked_in_training(task):
    asked = {
        split: {_asked(p) for p in some(task, split=split, count=400)} for split in ("train", "validation", "test")
    }
    assert not asked["train"] & asked["test"] and not asked["validation"] & asked["test"]
    assert not asked["train"] & asked["validation"]


def _asked(problem: Problem) -> str:
    """All that a model sees, its parts in one order where that is a list or a sum: so nothing here asks for a key."""
    text = "\n".join(f"{m.role} {m.text}" for m in problem.messages)
    if problem.task in ("arithmetic", "tools"):
        text = re.sub(r"\d+[+*]\d+", lambda m: " ".join(sorted(re.split(r"([+*])", m[0]))), text)
    if problem.task in ("retrieval", "table", "unanswerable"):
        text = "\n".join(sorted(part.strip() for part in re.split(r"[\n,.]|, what is", text)))
    return text + " ".join(sorted(tool.name for tool in problem.tools))


@names
def test_there_are_several_wordings_and_each_level_has_its_own_problems(task):
    problems = some(task)
    assert len({p.key for p in problems}) > 0.7 * len(problems)
    first = problems[0].messages[-1].text
    assert len({p.messages[-1].text for p in problems}) > 1 and first


@names
def test_there_are_enough_held_out_problems_at_each_level(task):
    if task.shows in ("steps", "search"):
        for level in range(1, task.levels + 1):
            assert len({task.problem(i, level=level, split="test").key for i in range(700)}) >= 300


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_each_kind_of_question_to_tools_is_as_frequent_in_each_split(split):
    """None of a kind so few that a split has hardly any."""
    posed = [TASKS["tools"].problem(i, level=1 + i % 3, split=split) for i in range(600)]
    kinds = Counter(p.answer["call"]["name"] if p.answer["call"] else "" for p in posed)
    assert all(0.14 < kinds[kind] / 600 < 0.34 for kind in ("", "calc", "day", "points"))
    assert len({p.messages[-1].text for p in posed if not p.answer["call"]}) > 0.5 * kinds[""]


SHUFFLED = {  # instance, and how to put its parts into an order -> one that asks for the same
    "countdown": lambda one, mixed: (mixed(one[0]), *one[1:]),
    "sorting": lambda one, mixed: (mixed(one[0]), *one[1:]),
    "table": lambda one, mixed: (mixed(one[0]), *one[1:]),
    "maze": lambda one, mixed: (mixed(tuple(door[::-1] for door in one[0])), *one[1:]),
    "grid": lambda one, mixed: (*one[:2], mixed(one[2]), one[3]),
    "unanswerable": lambda one, mixed: (mixed(one[0]), *one[1:]),
    "retrieval": lambda one, mixed: ((rows := mixed(one[0])), rows.index(one[0][one[1]])),
    "tools": lambda one, mixed: (*one[:2], mixed(one[2])),
    "arithmetic": lambda one, mixed: (one[0], *(mixed(one[1:]) if one[0] != "-" else one[1:])),
}


@pytest.mark.parametrize("name", SHUFFLED)
def test_another_order_makes_no_new_problem(name):
    task, draw, other = TASKS[name], random.Random(1), 0
    for _ in range(90):
        one = task.draw(draw, 2)
        same = SHUFFLED[name](one, lambda parts: tuple(draw.sample(parts, len(parts))))
        other += one != same
        assert task.essence(one) == task.essence(same)
        assert task.solve(one, "en")[1] == task.solve(same, "en")[1] or task.shows == "search"
    assert other > 20


@names
def test_more_difficult_levels_take_longer_to_work_out(task):
    def worked(level: int) -> int:
        return sum(len(task.problem(i, level=level).trace) for i in range(40))

    if task.shows in ("steps", "search") and task.name != "dates":  # its first four levels count days, the rest months
        assert worked(task.levels) > 1.5 * worked(1)
    if task.shows == "control":
        assert worked(task.levels) < 1.2 * worked(1)


@names
def test_levels_splits_and_languages_that_are_not_there_are_refused(task):
    for wrong in ({"level": 0}, {"level": task.levels + 1}, {"level": 1, "language": "xx"}):
        with pytest.raises(TaskError, match="not"):
            task.problem(0, **wrong)


@names
@given(text=st.text(max_size=60), name=st.text(max_size=8), arguments=st.text(max_size=40), seed=st.integers(0, 50))
def test_no_reply_makes_scoring_fail(task, text, name, arguments, seed):
    problem = task.problem(seed, level=1)
    call = ToolCall(name=name, arguments=arguments)
    for reply in (Message(role="assistant", content=text), Message(role="assistant", content=text, tool_calls=(call,))):
        assert 0 <= task.score(problem, reply).value <= 1
        assert 0 <= task.score(problem, problem.gold, [reply]).value <= 1


STRANGE = [
    "[" * 100_000, '{"sum": ' * 50_000, '{"plus": ' + "9" * 5000 + "}", '{"sum": "' + "9*" * 5000,
    "null", "NaN", '"sum"', '{"start": ["Monday"], "plus": true}', '{"name": {"a": 1}}',
]  # fmt: skip


@pytest.mark.parametrize("arguments", STRANGE)
@pytest.mark.parametrize("name", ["calc", "day", "points", "rm"])
def test_strange_calls_get_an_answer_and_no_score(name, arguments):
    task, call = TASKS["tools"], ToolCall(name=name, arguments=arguments)
    for problem in (task.problem(i, level=3) for i in range(20)):
        assert task.call(problem, call).startswith("error: ")
        asked = Message(role="assistant", tool_calls=(call,))
        assert task.score(problem, problem.gold, [asked]).value == 0


@names
def test_a_wrong_thinking_does_not_lower_a_score_and_a_right_one_does_not_raise_it(task):
    for problem in some(task, count=3):
        gold = Message(role="assistant", content=problem.gold.text, thinking="x" if problem.trace else "")
        earlier = task.golden(problem)
        assert task.score(problem, gold, earlier).value == 1
        empty = Message(role="assistant", content="", thinking=f"{problem.trace}\n{problem.gold.text}")
        assert task.score(problem, empty, earlier).value == 0
