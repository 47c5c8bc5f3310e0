"""What the renderer lets through: nothing that runs, nothing that loads, and all the words."""

import time
from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.serve.page.formulas import ATTRIBUTES, ELEMENTS
from octavo.serve.page.markdown import LONGEST, TAGS, render
from tests.serve.page.payloads import all_payloads

ALLOWED = {"a": {"href", "class", "target", "rel"}, "ol": {"start"}, "td": {"align"}, "th": {"align"},
           "div": {"class", "data-language"}, "span": {"class"}}  # fmt: skip


class Found(HTMLParser):
    """Everything in some HTML that may not be there; and its words."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.wrong: list[str] = []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS | ELEMENTS:
            self.wrong.append(f"<{tag}>")
        for name, value in attrs:
            if name not in ALLOWED.get(tag, set()) | (ATTRIBUTES if tag in ELEMENTS else set()):
                self.wrong.append(f"{tag}.{name}")
            if name == "href" and not (value or "").lower().startswith(("http://", "https://", "mailto:")):
                self.wrong.append(f"link to {value!r}")
        if tag == "a" and not {"target", "rel"} <= {name for name, _ in attrs}:
            self.wrong.append("a link that keeps its opener")

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_comment(self, data: str) -> None:
        self.wrong.append("a comment")

    def handle_decl(self, decl: str) -> None:
        self.wrong.append("a declaration")

    def unknown_decl(self, data: str) -> None:
        self.wrong.append("a declaration")

    def handle_pi(self, data: str) -> None:
        self.wrong.append("an instruction")


def test_no_payload_becomes_anything_that_runs_or_loads():
    payloads = all_payloads()
    assert len(payloads) >= 300
    found = {payload: Found(render(payload)).wrong for payload in payloads}
    assert not {payload: wrong for payload, wrong in found.items() if wrong}


PARTS = st.sampled_from(
    [
        "<",
        ">",
        "&",
        '"',
        "'",
        "`",
        "```",
        "$",
        "$$",
        "\\(",
        "\\)",
        "\\[",
        "\\]",
        "[",
        "](",
        ")",
        "![",
        "\n",
        "\n\n",
        "|",
        "- ",
        "> ",
        "#",
        "*",
        "_",
        "~~",
        "\\",
        "\0",
        "\t",
        "javascript:",
        "https://a.b",
        "onerror=trip()",
        "<script>",
        "</math>",
        "<!--",
        "\\text{",
        "\\frac",
        "{",
        "}",
        "^",
        "&#x3C;",
        "é",
        "猫",
        "\u202e",
    ]
)


@settings(max_examples=400, deadline=None)
@given(parts=st.lists(PARTS | st.text(max_size=6), max_size=40))
def test_no_text_becomes_anything_that_runs_or_loads(parts: list[str]):
    assert not Found(render("".join(parts))).wrong


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=60))
def test_code_keeps_every_character(text: str):
    for language in ("", "python", "html", "nonsense"):
        assert Found(render(f"~~~~{language}\n{text}\n~~~~")).words.rstrip("\n") == text


@pytest.mark.parametrize("formula", ["$x^2$", "\\(x^2\\)", "$$x^2$$", "\\[x^2\\]", "$$\nx^2\n$$", "\\[\nx^2\n\\]"])
def test_formulas_become_mathml(formula: str):
    html = render(f"See {formula}." if "\n" not in formula else formula)
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in html
    assert ('display="block"' in html) == (formula[:2] in ("$$", "\\["))


def test_a_formula_that_cannot_be_read_is_shown_as_it_was_written():
    for formula in (r"$\frac{$", r"$$\left($$", r"\(\begin{matrix}\)", r"$\def\a{\a\a}\a$", "$" + "{" * 900 + "x$"):
        assert Found(render(formula)).words.strip() == formula
        assert "<code>" in render(formula)


def test_a_formula_within_a_list_or_over_lines_that_look_like_lists_is_one_formula():
    assert render("$$\na\n- b\n+ c\n$$").count("<math") == 1
    assert "<ul>" not in render("\\[\na\n- b\n\\]")
    assert render("1. so $$a$$\n2. and\n\n   $$\n   b\n   $$").count("<math") == 2


def test_prices_are_no_formulas():
    assert "<math" not in render("It costs $5 or $6, not $ 7 $.")


def test_signs_in_formulas_survive():
    assert Found(render(r"$a < b \text{ if a<b & c>d}$")).words.replace("\xa0", " ").strip() == "a<b if a<b & c>d"


def test_images_are_links_and_load_nothing():
    assert render("![a cat](https://a.example/cat.png)") == (
        '<p><a class="image" href="https://a.example/cat.png" target="_blank" '
        'rel="noopener noreferrer nofollow">a cat</a></p>\n'
    )


def test_raw_html_is_text():
    assert Found(render("<b onclick=x>bold</b>")).words.strip() == "<b onclick=x>bold</b>"


def test_line_breaks_are_the_only_tags_that_are_read():
    assert "<td>x<br>\ny<br>\nz</td>" in render("| a |\n|---|\n| x<br>y<BR />z |")
    assert Found(render("`<br>` <br onclick=x>")).words.strip() == "<br> <br onclick=x>"


@pytest.mark.parametrize("text", ["**注意：**请看", "这是**“重点”**内容", "これは**「強調」**です", "**완료!**입니다"])
def test_emphasis_needs_no_spaces_where_a_script_has_none(text: str):
    before, within, after = text.split("**")
    assert render(text) == f"<p>{before}<strong>{within}</strong>{after}</p>\n"


def test_stars_between_spaces_are_no_emphasis_in_any_script():
    assert render("中 * 文 * 中") == "<p>中 * 文 * 中</p>\n"


def test_tables_are_aligned_without_styles():
    html = render("| a | b |\n|:--|--:|\n| 1 | 2 |")
    assert '<td align="right">2</td>' in html and "style" not in html


def test_known_languages_are_coloured_and_all_are_named():
    assert '<span class="k">def</span>' in render("```python\ndef f(): pass\n```")
    assert 'data-language="brainf"' in render("```brainf\n+\n```")
    assert unescape(render("```x<y\n+\n```")).count("x<y") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["[", "](", "![", "`", "**a*b ", "_a_ *", "> ", "$", "$$\n", "\\(", "\\[\n", "|a", "- ", "<a "]
)
def test_no_text_takes_long(part: str):
    """Nothing goes over the text again for each of its parts: nobody can stop the server with a long answer."""
    long = LONGEST // 4
    text, begin = (part * long)[:long], time.process_time()
    render(text)
    assert time.process_time() - begin < 4  # seconds; the slowest took 0.6
