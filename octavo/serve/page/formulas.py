"""LaTeX formulas -> MathML, written by us from the converter's tree: known elements and attributes, text escaped."""

import re
from html import escape
from xml.etree.ElementTree import Element

LONGEST = 4000  # characters of one formula
ELEMENTS = frozenset((
    "math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "msub", "msup", "msubsup", "munder", "mover",
    "munderover", "mfrac", "msqrt", "mroot", "mtable", "mtr", "mtd", "mstyle", "mphantom", "mpadded", "menclose",
    "mmultiscripts", "mprescripts", "none",
))  # fmt: skip
ATTRIBUTES = frozenset((
    "display", "mathvariant", "stretchy", "fence", "form", "separator", "accent", "accentunder", "movablelimits",
    "linethickness", "displaystyle", "scriptlevel", "columnalign", "rowspacing", "columnspacing", "columnlines",
    "rowlines", "lspace", "rspace", "minsize", "maxsize", "mathsize", "mathcolor", "width", "height", "depth",
    "voffset", "notation",
))  # fmt: skip
# Definitions may expand without end, and a chat needs none.
DEFINES = re.compile(
    r"\\(?:newcommand|renewcommand|providecommand|newenvironment|DeclareMathOperator|[gex]?def)(?![a-zA-Z])"
)
ENTITY = re.compile(r"&#x([0-9A-Fa-f]{1,6});")  # how the converter writes symbols


class FormulaError(ValueError):
    """A formula that is shown as it was written."""


def mathml(tex: str, *, display: bool) -> str:
    """MathML of a formula. Raises FormulaError for one that cannot be read."""
    from latex2mathml.converter import convert_to_element

    if len(tex) > LONGEST or DEFINES.search(tex):
        raise FormulaError("too long, or defines commands")
    try:
        return _written(convert_to_element(tex, display="block" if display else "inline"))
    except Exception as cause:  # its parser has a dozen errors without a common base, and fails in other ways besides
        raise FormulaError(f"{type(cause).__name__}: {cause}") from cause


def _written(element: Element) -> str:
    if element.tag not in ELEMENTS:
        raise FormulaError(f"element {element.tag}")
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in element.attrib.items() if name in ATTRIBUTES)
    inner = _text(element.text) + "".join(_written(child) + _text(child.tail) for child in element)
    return f"<{element.tag}{attributes}>{inner}</{element.tag}>"


def _text(text: str | None) -> str:
    return escape(ENTITY.sub(lambda found: _character(int(found[1], 16)), text or ""), quote=False)


def _character(code: int) -> str:
    return chr(code) if 0x20 <= code < 0xD800 or 0xE000 <= code <= 0x10FFFF else "\N{REPLACEMENT CHARACTER}"
