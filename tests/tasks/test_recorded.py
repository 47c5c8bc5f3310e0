"""Tasks on real data: all gold answers score 1, wrong ones 0; splits are the files' own; missing data is explained."""

import pytest

from octavo.core.errors import TaskError
from octavo.core.messages import Message
from octavo.tasks import TASKS
from octavo.tasks.gsm8k import GSM8K, MGSM
from octavo.tasks.math500 import Math500
from tests.tasks.data import DATA, needs


def every(task, split="test", language="en"):
    for level in range(1, task.levels + 1):
        for seed in range(task.count(level=level, split=split, language=language)):
            yield task.problem(seed, level=level, split=split, language=language)


@needs("gsm8k")
def test_gsm8k_gold_is_right_in_all_problems_and_splits_are_apart():
    task = GSM8K(DATA)
    task.validate(count=8000)
    keys = {split: {problem.key for problem in every(task, split)} for split in task.splits}
    assert {split: len(found) for split, found in keys.items()} == {"train": 6708, "validation": 765, "test": 1319}
    assert not keys["train"] & keys["test"] and not keys["train"] & keys["validation"]


@needs("gsm8k")
def test_gsm8k_solutions_are_traces_without_marks_for_a_calculator():
    for problem in every(GSM8K(DATA), "train"):
        assert problem.trace and "<<" not in problem.trace and "#" not in problem.trace.split()
    assert GSM8K(DATA).problem(0, split="test").trace.count("\n") >= 1


@needs("mgsm")
def test_mgsm_is_the_same_problems_in_five_languages():
    task = MGSM(DATA)
    task.validate(count=250)
    answers = {language: [(p.key, p.answer) for p in every(task, language=language)] for language in task.languages}
    assert all(found == answers["en"] and len(found) == 250 for found in answers.values())


@needs("math500")
def test_math500_gold_is_right_in_all_problems():
    task = Math500(DATA)
    task.validate(count=6)
    problems = list(every(task))
    assert len({problem.key for problem in problems}) == 500
    for problem in problems:
        assert task.score(problem, problem.gold).value == 1


@needs("math500")
def test_the_judge_alone_finds_every_gold_answer_the_same_as_itself():
    task = Math500(DATA)
    for problem in every(task):
        assert task._maths.judged(problem.answer, problem.answer), problem.answer


@needs("gsm8k")
def test_after_the_last_problem_comes_the_first():
    task = GSM8K(DATA)
    assert task.problem(1319, split="test") == task.problem(0, split="test") != task.problem(1, split="test")


@needs("gsm8k")
@pytest.mark.parametrize("wrong", [{"level": 2}, {"split": "dev"}, {"language": "ja"}])
def test_what_the_data_has_not_is_refused(wrong):
    with pytest.raises(TaskError, match="gsm8k has no"):
        GSM8K(DATA).problem(0, **wrong)


@pytest.mark.parametrize("name", ["gsm8k", "mgsm", "math500"])
def test_missing_data_says_what_is_missing_and_where_it_is(name, tmp_path, monkeypatch):
    monkeypatch.delenv("OCTAVO_DATA", raising=False)
    with pytest.raises(TaskError, match=r"no folder is named.*official files.*OCTAVO_DATA"):
        TASKS[name].problem(0, split="test")
    monkeypatch.setenv("OCTAVO_DATA", str(tmp_path))
    with pytest.raises(TaskError, match=rf"{name}.*cannot be read"):
        TASKS[name].problem(0, split="test")


def test_broken_data_is_refused(tmp_path):
    for name, text in {
        "gsm8k/test.jsonl": "{",
        "math500/test.jsonl": '{"problem": 1}',
        "mgsm/mgsm_en.tsv": "a b",
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, encoding="utf-8")
    for task in (GSM8K(tmp_path), Math500(tmp_path), MGSM(tmp_path)):
        with pytest.raises(TaskError):
            task.problem(0, split="test")
    (tmp_path / "gsm8k/test.jsonl").write_text('{"question": "?", "answer": "so 5"}', encoding="utf-8")
    with pytest.raises(TaskError, match="does not end with a number"):
        GSM8K(tmp_path).problem(0, split="test")


@needs("gsm8k")
def test_thinking_is_not_read():
    task = GSM8K(DATA)
    problem = task.problem(0, split="test")
    assert task.score(problem, Message(role="assistant", content="", thinking=problem.gold.text)).value == 0
