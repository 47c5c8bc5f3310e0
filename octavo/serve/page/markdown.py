"""A model's markdown -> HTML that can do nothing: no raw HTML but line breaks, no images, three kinds of links.

What the parser writes is clean already; nh3 goes over it once more with a list of all that may stand there.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline, emphasis
from markdown_it.token import Token

from octavo.serve.page import formulas
from octavo.serve.page.formulas import ATTRIBUTES, ELEMENTS, FormulaError, mathml

LONGEST = 100_000  # characters of one text
LONGEST_CODE = 30_000  # characters of a block that is coloured
MOST_LINES = 100  # of a displayed formula
LINKS = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
LINE_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
# Chinese, Japanese and Korean, with their punctuation: scripts that set no spaces around what they stress.
UNSPACED = re.compile(r"[\u1100-\u11ff\u2e80-\ua4cf\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f"
                      r"\uff00-\uffef\U00020000-\U0003ffff]")  # fmt: skip
LANGUAGE = re.compile(r"[A-Za-z0-9+#.-]{1,20}")
# Lexers that read their input in a straight line; others are shown without colours.
LEXERS = frozenset((
    "bash", "c", "c++", "c#", "cpp", "csharp", "css", "diff", "docker", "dockerfile", "go", "html", "ini", "java",
    "javascript", "js", "json", "jsx", "kotlin", "latex", "lua", "make", "makefile", "markdown", "nix", "php",
    "powershell", "python", "py", "r", "ruby", "rust", "scala", "sh", "shell", "sql", "swift", "toml", "ts", "tsx",
    "typescript", "xml", "yaml", "zig",
))  # fmt: skip
TAGS = frozenset((
    "a", "blockquote", "br", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p",
    "pre", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
))  # fmt: skip
BOUNDS = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"))  # of formulas; the first two are displayed


def render(text: str) -> str:
    """The HTML of a text of at most LONGEST characters; what is longer is cut."""
    return _cleaner().clean(_parser().render(text[:LONGEST]))


# What differs from plain markdown, by kind of token. `at`: the token's index, the parser's options and environment.


def _image(html: RendererHTML, tokens: Sequence[Token], *at: Any) -> str:
    """A link: loading it would tell its server what was said here."""
    token = tokens[at[0]]
    alt = html.renderInlineAsText(token.children, *at[1:]) if token.children else ""
    target = escape(str(token.attrs.get("src", "")))
    return f'<a class="image" href="{target}">{escape(alt) or target}</a>'


def _fence(html: RendererHTML, tokens: Sequence[Token], *at: Any) -> str:
    """Code, with its language beside it where it has one."""
    token = tokens[at[0]]
    return _code(token.content, token.info.strip().partition(" ")[0])


def _cell(html: RendererHTML, tokens: Sequence[Token], *at: Any) -> str:
    """A cell, aligned without a style: the page's policy allows none in line."""
    token = tokens[at[0]]
    side = str(token.attrs.get("style", "")).rpartition(":")[2]
    return f'<{token.tag} align="{side}">' if side else f"<{token.tag}>"


def _formula(html: RendererHTML, tokens: Sequence[Token], *at: Any) -> str:
    """MathML, or the formula as it was written."""
    token = tokens[at[0]]
    try:
        return mathml(token.content, display=token.block)
    except FormulaError:
        return f"<code>{escape(token.info + token.content + token.meta['close'])}</code>"


def _formula_block(html: RendererHTML, tokens: Sequence[Token], *at: Any) -> str:
    """A formula that stands by itself."""
    return f"<p>{_formula(html, tokens, *at)}</p>\n"


class _Markdown(MarkdownIt):
    """Three kinds of links; the rest stays text."""

    def validateLink(self, url: str) -> bool:
        """Whether it may be followed."""
        return LINKS.match(url) is not None


def _code(code: str, language: str) -> str:
    shown = language.lower() if LANGUAGE.fullmatch(language) else ""
    return f'<div class="code" data-language="{escape(shown)}"><pre><code>{_coloured(code, shown)}</code></pre></div>\n'


def _coloured(code: str, language: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    if language not in LEXERS or len(code) > LONGEST_CODE:
        return escape(code)
    lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    return highlight(code, lexer, HtmlFormatter(nowrap=True)).removesuffix("" if code.endswith("\n") else "\n")


def _line_break(state: StateInline, silent: bool) -> bool:
    """The one tag that models cannot do without: lines within a cell of a table."""
    found = LINE_BREAK.match(state.src, state.pos)
    if found is None:
        return False
    if not silent:
        state.push("hardbreak", "br", 0)
    state.pos = found.end()
    return True


def _emphasis(state: StateInline, silent: bool) -> bool:
    """As in plain markdown, whose rule goes by spaces; beside a script that has none, `**` opens and closes all words.

    Source: github.com/tats-u/markdown-cjk-friendly.
    """
    start, known = state.pos, len(state.delimiters)
    if not emphasis.tokenize(state, silent):
        return False
    left, right = state.src[max(0, start - 1) : start], state.src[state.pos : state.pos + 1]
    if state.src[start] == "*" and (UNSPACED.match(left) or UNSPACED.match(right)):
        for one in state.delimiters[known:]:
            one.open, one.close = bool(right.strip()), bool(left.strip())
    return True


def _inline(state: StateInline, silent: bool) -> bool:
    """A formula within a line: `$x$` as Pandoc reads it, `\\(x\\)`, and displayed ones that do not stand alone."""
    src, start = state.src, state.pos
    opening, closing = next((pair for pair in BOUNDS if src.startswith(pair[0], start)), ("", ""))
    if not opening:
        return False
    end = _closing(src, start + len(opening), closing=closing)
    if end < 0:
        return False
    if not silent:
        token = state.push("formula", "math", 0)
        token.content, token.info, token.meta = src[start + len(opening) : end], opening, {"close": closing}
        token.block = len(opening) == 2 and opening != "\\("
    state.pos = end + len(closing)
    return True


def _closing(src: str, start: int, *, closing: str) -> int:
    """Where a formula that begins at `start` ends; -1 where it is none."""
    latest = start + formulas.LONGEST  # also keeps the search short where many begin and none ends
    end = src.find(closing, start, latest)
    if closing != "$":
        return end if end > start and src[start:end].strip() else -1
    while end > start and src[end - 1] == "\\":
        end = src.find("$", end + 1, latest)
    if end <= start or src[start].isspace() or src[end - 1].isspace() or src[end + 1 : end + 2].isdigit():
        return -1
    return -1 if "\n\n" in src[start:end] else end


def _block(state: StateBlock, start: int, *rest: Any) -> bool:
    """A displayed formula whose first line begins with `$$` or `\\[` and whose last one ends with the like."""
    end, silent = rest
    first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
    opening, closing = next((pair for pair in BOUNDS[:2] if first.startswith(pair[0])), ("", ""))
    if not opening or state.is_code_block(start):
        return False
    lines = [first[len(opening) :].rstrip()]
    row, last = start, min(end, start + MOST_LINES)
    while not lines[-1].endswith(closing):
        row += 1
        if row >= last or not (line := state.src[state.bMarks[row] : state.eMarks[row]]).strip():
            return False
        lines.append(line.rstrip())
    content = "\n".join(lines)[: -len(closing)]
    if closing in content or not content.strip():
        return False
    if not silent:
        token = state.push("formula_block", "math", 0)
        token.content, token.info, token.meta, token.block = content, opening, {"close": closing}, True
        token.map = [start, row + 1]
        state.line = row + 1
    return True


@lru_cache
def _parser() -> MarkdownIt:
    made = _Markdown("commonmark", {"html": False}).enable(["table", "strikethrough"])
    made.inline.ruler.before("escape", "formula", _inline)
    made.inline.ruler.before("escape", "line_break", _line_break)
    made.inline.ruler.at("emphasis", _emphasis)
    made.block.ruler.before("fence", "formula", _block, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    rules = {"image": _image, "fence": _fence, "code_block": _fence, "td_open": _cell, "th_open": _cell,
             "formula": _formula, "formula_block": _formula_block}  # fmt: skip
    for name, rule in rules.items():
        made.add_render_rule(name, rule)
    return made


@lru_cache
def _cleaner() -> nh3.Cleaner:
    from pygments.token import STANDARD_TYPES

    return nh3.Cleaner(
        tags=set(TAGS | ELEMENTS),
        attributes={"*": set(), "a": {"href"}, "ol": {"start"}, "td": {"align"}, "th": {"align"},
                    "div": {"data-language"}, **{element: set(ATTRIBUTES) for element in ELEMENTS}},
        allowed_classes={"a": {"image"}, "div": {"code"}, "span": set(filter(None, STANDARD_TYPES.values()))},
        set_tag_attribute_values={"a": {"target": "_blank"}},
        link_rel="noopener noreferrer nofollow",
        url_schemes={"http", "https", "mailto"},
    )  # fmt: skip
