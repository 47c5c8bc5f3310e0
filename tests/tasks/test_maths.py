"""Mathematical answers: where they stand, when two are the same, and that none takes long."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.core.errors import TaskError
from octavo.tasks.sandbox import Worker
from octavo.tasks.verify.maths import Maths, boxed, in_box, maths_answer, number_answer, plain

SAME = [
    (r"\frac12", "1/2"), ("0.5", r"\frac{1}{2}"), ("1/2", "0.5"), ("x+1", "1+x"), ("1,000", "1000"),
    (r"1{,}000", "1000"), (r"1\,000", "1000"), (r"\frac43", r"\dfrac{4}{3}"), ("[2,5)", r"\left[2,5\right)"),
    ("C", r"\text{(C)}"),
    (r"(3,\pi/2)", r"\left( 3, \frac{\pi}{2} \right)"), ("evelyn", r"\text{Evelyn}"), ("90", r"90^\circ"), ("5", "x=5"),
    ("x = 5", "5"), ("-2, 1", "1,-2"), ("52_{8}", "52_8"), (r"2\sqrt{13}", r"\sqrt{52}"),
    (r"\$36", "36"), ("36", r"\$36"), ("10,080", r"10,\!080"), ("9/5", r"1\frac{4}{5}"),
    ("-1.5", r"-1\frac{1}{2}"), ("864", r"864 \mbox{ inches}^2"),
    ("(b+2)(a+5)", "(a+5)(b+2)"), ("ab+2a+5b+10", "(a+5)(b+2)"), ("y=3+2x", "y = 2x + 3"), ("[-2,7]", r"x \in [-2,7]"),
    (r"1+\sqrt{19}, 1-\sqrt{19}", r"1 \pm \sqrt{19}"), ("0.0000672", ".0000672"), ("10", r"10\%"),
    (r"(9,36)\cup(0,9)", r"(0,9) \cup (9,36)"), (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}"), ("4+2i", "2i + 4"),
    (r"\{1,2\}", r"\{2,1\}"), ("$0.75$", r"\frac 34"), 
    (r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ("52", "52_8"),  # the base is often not repeated
]  # fmt: skip
OTHER = [
    ("[2,5]", "[2,5)"), ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("1,2", "1,3"), ("1/3", "0.333"), ("x+1", "x-1"),
    ("Navin", r"\text{Evelyn}"), ("52_7", "52_8"), ("y=5", "x=5"), ("18 or 19", "18"), ("18, 19", "18"),
    ("D", r"\text{(C)}"),
    (r"\frac{1}{2} or 3", r"\frac{1}{2}"), ("x", "y"), ("1/0", "0"), (r"\frac{1}{0}", "1"), ("9**9**9", "3"),
    ("5x - 7y + 5 = 0", "5x - 7y + 4 = 0"), (r"(2,\infty)", r"(5,\infty)"), ("2>1", "1"), ("1000", "1,00"),
    ("7.28", r"\sqrt{53}"), ("everything", r"\pi"), ("1+2i", "1-2i"), ("", "0"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"), ("$5$ or $6$", r"\sqrt{25}"),
]  # fmt: skip


@pytest.fixture(scope="module")
def maths():
    maths = Maths()
    yield maths
    maths.close()


@pytest.mark.parametrize(("said", "gold"), SAME)
def test_the_same_as_mathematics(maths, said, gold):
    assert maths.same(said, gold) is True


@pytest.mark.parametrize(("said", "gold"), OTHER)
def test_not_the_same(maths, said, gold):
    assert maths.same(said, gold) is False


def test_what_would_take_for_ever_is_given_up_and_the_next_is_judged_again():
    maths, begin = Maths(answer_s=0.7), time.monotonic()
    maths.judged("1+x", "x+1")
    assert maths.judged("9^{9^{9^9}}", r"\pi") is None
    assert time.monotonic() - begin < 30
    assert maths.judged("1+x", "x+1") in (True, None)  # a loaded machine may be late
    maths.close()


def test_a_program_that_cannot_start_says_why(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_the_kind\n", encoding="utf-8")
    with pytest.raises(TaskError, match=r"broken\.py did not start: .*nothing_of_the_kind"):
        Worker(broken, answer_s=1).ask(1)


def test_threads_may_share_a_worker(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    echo = tmp_path / "echo.py"
    echo.write_text(
        "import sys\nprint('\"ready\"', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)\n"
    )
    worker = Worker(echo, answer_s=20)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(worker.ask, range(200))) == list(range(200))
    worker.close()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"), (r"\boxed{1} and \boxed{ 2 }", "2"), (r"\boxed{1", None),
        (r"\boxed{}", None), ("**Answer:** 42.", "42"), ("The answer is: $x+1$", "$x+1$"), ("x+1.", "x+1"), ("", None),
        ("One\nthing\nafter another", None), (r"Answer: 3, so \boxed{", None), ("a " * 60, None),
        (r"\boxed{" + "1" * 401 + "}", None), ("The answer is **18**.", "18"), ("The answer is .5.", ".5"),
    ],
)  # fmt: skip
def test_where_an_answer_stands(text, answer):
    assert maths_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "language", "value"),
    [
        (r"\boxed{18}", "en", 18), (r"\boxed{\$18.00}", "en", 18), (r"\boxed{18 \text{ dollars}}", "en", 18),
        (r"9*2=18, she makes 18 dollars a day.", "en", 18), ("The answer is -$7.", "en", -7), (r"\boxed{-7}", "en", -7),
        (r"\boxed{9 * 2 = 18}", "en", 18), (r"\boxed{18 or 19}", "en", None), (r"18 \boxed{", "en", None),
        ("", "en", None), (r"\boxed{1,080}", "en", 1080), (r"\boxed{1{,}080}", "en", 1080),
        ("1.080", "en", Fraction(108, 100)),
        ("1.080", "de", 1080), ("1 080", "fr", 1080), ("1,5", "de", Fraction(3, 2)), ("1.5", "fr", Fraction(3, 2)),
        ("１８ドル", "ja", 18), ("答案是 18。", "zh", 18), ("Die Antwort ist 18.", "de", 18), ("from 3-7", "en", 7),
        (r"\boxed{\frac{36}{2}}", "en", 18), (r"\boxed{25\%}", "en", 25), ("#### 1,000", "en", 1000),
        ("The answer is 5 (x=3).", "en", 5), ("The answer is (x = 5).", "en", 5),
        (r"\boxed{(n = 12)}", "en", 12), ("Die Antwort lautet 18.", "de", 18),
    ],
)  # fmt: skip
def test_the_number_of_a_reply(text, language, value):
    assert number_answer(text, language) == value


@given(st.text(max_size=80), st.text(alphabet=r"\{}frac0123456789.,-+$ boxed=is answer", max_size=60))
def test_reading_never_fails_and_what_was_boxed_is_read(text, latex):
    for each in (text, latex, in_box(latex), text + latex):
        number_answer(each), number_answer(each, "de"), maths_answer(each)
        assert plain(plain(each)) == plain(plain(plain(each)))
    if latex.count("{") == latex.count("}") == 0:
        assert boxed(text + in_box(latex)) == latex.strip()
