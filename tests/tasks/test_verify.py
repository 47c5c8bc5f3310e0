"""Reading of answers: what counts as the same, and that nothing breaks it."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.tasks.verify.answers import final_answer, number, same
from octavo.tasks.verify.expressions import Sum


@pytest.mark.parametrize(
    "text",
    [
        "42",
        " 42. ",
        "The answer is 42.",
        "answer: 42",
        "So the final answer is: 42",
        "Answer = 42",
        "**42**",
        "The answer is **42**.",
        "**42.**",
        "42..",
    ],
)
def test_politeness_around_an_answer_is_left_out(text):
    assert final_answer(text) == "42"


@pytest.mark.parametrize(
    ("said", "gold"),
    [("42", "42"), ("042", "42"), ("1,000", "1000"), ("0.5", "1/2"), ("TUESDAY", "Tuesday"), ("a, b,c", "a b c")],
)
def test_the_same_said_differently(said, gold):
    assert same(said, gold)


@pytest.mark.parametrize(
    ("said", "gold"),
    [
        ("42 or 43", "42"),
        ("4 2", "42"),
        ("", "0"),
        ("x", "1"),
        ("1,00", "100"),
        ("1/0", "0"),
        ("a b", "a b c"),
        ("1,2", "12"),
    ],
)
def test_what_is_not_the_same(said, gold):
    assert not same(said, gold)


@given(st.text(max_size=60))
def test_reading_never_fails(text):
    final_answer(text)
    number(text)
    assert Sum(text).value is None or Sum(text).numbers


sums = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda p: f"({p[0]}{p[1]}{p[2]})"),
    max_leaves=6,
)


@given(sums)
def test_sums_are_what_exact_arithmetic_makes_of_them(text):
    import ast

    def walk(node):
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        a, b = walk(node.left), walk(node.right)
        match node.op:
            case ast.Add():
                return a + b
            case ast.Sub():
                return a - b
            case ast.Mult():
                return a * b
        return None if a is None or not b else a / b

    try:
        wanted = walk(ast.parse(_without_zeros(text), mode="eval").body)
    except TypeError:  # a division by zero further in
        wanted = None
    assert Sum(text).value == wanted


def _without_zeros(text: str) -> str:
    import re

    return re.sub(r"\b0+(?=\d)", "", text)


@pytest.mark.parametrize(
    "text", ["2+", "(2", "2)", "2 3", "2**3", "__import__('os')", "9" * 13, "1/0", "(" * 50 + "1" + ")" * 50]
)
def test_what_is_no_sum(text):
    assert Sum(text).value is None
