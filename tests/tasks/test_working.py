"""Workings are true line by line, and end in the answer. Checked by other means than those that made them."""

import itertools
import re
from datetime import date, timedelta

import pytest

from octavo.core.messages import Message
from octavo.tasks import TASKS
from octavo.tasks.dates import DAYS, MONTHS

SUM = re.compile(r"(-?\d+)([-+*/])(\d+)(?:([-+])(\d+))?=(-?\d+)")
DONE = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a // b}


def problems(name: str, count: int = 40):
    task = TASKS[name]
    return [task.problem(i, level=level) for level in range(1, task.levels + 1) for i in range(count)]


@pytest.mark.parametrize("name", ["arithmetic", "stories", "units", "programs", "table", "countdown", "unanswerable"])
def test_each_sum_in_a_working_is_right(name):
    found = 0
    for problem in problems(name):
        for a, sign, b, more, c, result in SUM.findall(problem.trace):
            value = DONE[sign](int(a), int(b))
            value = DONE[more](value, int(c)) if more else value
            assert value == int(result), problem.trace
            found += 1
    assert found > 100


@pytest.mark.parametrize("name", ["arithmetic", "units", "stories", "table", "countdown"])
def test_no_step_hides_a_product_that_needs_columns(name):
    for problem in problems(name):
        for a, b in re.findall(r"(\d+)\*(\d+)(?:\+\d+)?=", problem.trace):
            known = (int(a) < 100 and int(b) < 13) or b in ("10", "100", "1000")
            assert known, problem.trace


def test_what_variables_hold_stays_small():
    for problem in problems("programs", count=200):
        assert all(0 <= int(value) <= 40 for value in re.findall(r"[abcd]=(-?\d+)", problem.trace))


def test_chains_are_what_python_makes_of_them():
    for problem in problems("chain"):
        text = problem.messages[-1].text
        modulus = int(re.search(r"mod (\d+)", text)[1])
        first, steps = re.search(r"(?<![\d])(\d+)((?:[-+*]\d+)+)", text).groups()
        at = int(first)
        for sign, by in re.findall(r"([-+*])(\d+)", steps):
            at = DONE[sign](at, int(by)) % modulus
        assert str(at) == problem.gold.text == problem.trace.rsplit("=", 1)[1]


def test_sums_are_what_python_makes_of_them():
    for problem in problems("arithmetic"):
        a, sign, b = re.search(r"(\d+)([-+*])(\d+)", problem.messages[-1].text).groups()
        assert int(problem.gold.text) == DONE[sign](int(a), int(b))
        if sign != "*":  # the answer's digits are the last ones of the columns, from the right
            columns = [line[-1] for line in problem.trace.splitlines()][::-1]
            assert int("".join(columns)) == int(problem.gold.text) % 10 ** len(columns)


def test_weekdays_and_days_between_are_the_calendars():
    for problem in problems("dates"):
        text = problem.messages[-1].text
        if weekday := re.search(r"is (\w+day)\D*?(\d+) days", text):
            start = date(2024, 1, 1) + timedelta(days=DAYS["en"].index(weekday[1]))  # the first was a Monday
            assert problem.gold.text == DAYS["en"][(start + timedelta(days=int(weekday[2]))).weekday()]
            continue
        (day, month), (last, end) = re.findall(r"(\d+) ([A-Z]\w+)", text)
        names = {date(2023, m, 1).strftime("%B"): m for m in range(1, 13)}
        between = (date(2023, names[end], int(last)) - date(2023, names[month], int(day))).days
        if weekday := re.search(r"is a (\w+day)", text):
            assert problem.gold.text == DAYS["en"][(DAYS["en"].index(weekday[1]) + between) % 7]
        else:
            assert int(problem.gold.text) == between


def test_sorted_numbers_are_sorted():
    for problem in problems("sorting"):
        numbers = sorted(re.findall(r"\b\d\d\b", problem.messages[-1].text), key=int)
        if place := re.search(r"[Nn]umber (\d)\b", problem.messages[-1].text):
            assert problem.gold.text == numbers[int(place[1]) - 1]
        else:
            assert problem.gold.text.split() == numbers


def test_programs_do_what_python_does():
    for problem in problems("programs"):
        lines = [line for line in problem.messages[-1].text.splitlines() if re.match(r"[abcd]=\w|if|repeat", line)]
        values: dict[str, int] = {}
        for line in (line for line in lines if not line.endswith("?")):
            times = 1
            if loop := re.match(r"repeat (\d): (.*)", line):
                times, line = int(loop[1]), loop[2]
            if condition := re.match(r"if (\w)([<>])(\d+): (.*)", line):
                name, sign, bound, line = condition.groups()
                if (values[name] < int(bound)) != (sign == "<") or values[name] == int(bound):
                    continue
            target, left, sign, right = re.fullmatch(r"(\w)=(\w+)([-+])?(\w+)?", line).groups()
            for _ in range(times):
                a = values[left] if left.isalpha() else int(left)
                values[target] = a if sign is None else DONE[sign](a, values[right] if right.isalpha() else int(right))
        asked = re.search(r"print\((\w)\)|(\w)=\?$|What is (\w)\?", problem.messages[-1].text)
        assert problem.gold.text == str(values[next(group for group in asked.groups() if group)])


def test_ways_go_through_doors():
    for problem in problems("maze"):
        doors = {frozenset(door) for door in re.findall(r"\b(\w)-(\w)\b", problem.messages[-1].text)}
        way = problem.gold.text.split()
        assert all(frozenset(step) in doors for step in itertools.pairwise(way))
        assert len(set(way)) == len(way) and problem.trace.splitlines()[-1] == problem.gold.text


def test_what_is_right_is_right_however_it_is_written():
    for task, other in (("countdown", "{target}={text}"), ("countdown", "{text} = {target}"), ("maze", "{arrows}")):
        for problem in problems(task, count=5):
            text = problem.gold.text
            target = problem.answer["target"] if task == "countdown" else ""
            said = other.format(text=text, target=target, arrows=" → ".join(text.upper().split()))
            assert TASKS[task].score(problem, Message(role="assistant", content=said)).value == 1, said
            wrong = said.replace(str(target), f"{target}1") if target else said + " → A"
            assert TASKS[task].score(problem, Message(role="assistant", content=wrong)).value == 0, wrong


def test_every_number_of_a_countdown_is_wanted_and_the_question_says_so():
    for problem in problems("countdown", count=5):
        assert "each once" in problem.messages[-1].text


def test_no_days_are_counted_past_a_february():
    for problem in problems("dates", count=60):
        first, *later = re.findall("|".join(MONTHS), problem.messages[-1].text) or ["March"]
        assert first not in MONTHS[:2] or all(month in MONTHS[:2] for month in later)


def test_searches_find_late_what_they_find():
    """So that a budget cuts some of them off, and not all at the same place."""
    lengths = [len(p.trace.splitlines()) for p in problems("countdown", count=100) if p.level == 2]
    assert min(lengths) <= 4 and max(lengths) >= 25  # two sums, and two lines that check them


def test_what_a_search_found_is_worked_out_once_more():
    """The last lines: the answer, then each of its sums, the last of which makes the target; and the numbers used."""
    for problem in problems("countdown", count=100):
        count, target = len(problem.answer["numbers"]), problem.answer["target"]
        *_, worked, used = ["", *problem.trace.splitlines()]
        assert used.endswith(" once each") == (count > 2), problem.trace
        if count > 2:
            assert sorted(map(int, used.split()[:-2])) == problem.answer["numbers"]
            answer, _, steps = worked.partition(": ")
            assert answer == problem.gold.text and len(steps.split()) == count - 1
            assert int(steps.rsplit("=", 1)[1]) == target


def test_grids_have_one_solution_and_the_working_ends_with_it():
    from itertools import permutations

    for problem in problems("grid"):
        text = problem.messages[-1].text
        people, pets = (names.split(", ") for names in re.match(r"(.*?)(?:: | have a )(.*?)\.", text).groups())
        hints = re.findall(r"(\w+) has (the|no) (\w+)\.", text)
        fits = [
            one for one in permutations(pets)
            if all((one[people.index(who)] == pet) == (word == "the") for who, word, pet in hints)
        ]  # fmt: skip
        asked = re.search(r"(?:What has|Pet of) (\w+)\?", text)[1]
        assert len(fits) == 1 and fits[0][people.index(asked)] == problem.gold.text
        assert problem.trace.count(f"{asked}:") and "try" not in problem.trace


def test_half_of_the_questions_that_may_be_unanswerable_are():
    unknown = sum(p.gold.text == "unknown" for p in problems("unanswerable", count=200))
    assert 0.4 < unknown / 1000 < 0.6
