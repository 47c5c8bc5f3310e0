"""Replies as they stream: the cut changes nothing, no text is lost, no good call is lost, tags count where they may."""

import random
import time
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.core.messages import ToolCall, ToolSpec
from octavo.text.chat import FORMATS
from octavo.text.chat.calls import read_call
from octavo.text.chat.parser import Event, Piece, ReplyParser, Tag
from tests.text.chats import call, says, user

OFFERED = [ToolSpec(name="f")]
QWEN3, LLAMA = FORMATS["qwen3"](), FORMATS["llama3_1"]()
TAGS: dict[str, Tag] = {literal: tag for tag, literal in QWEN3.tags.spelled().items()}
GOOD = '<tool_call>\n{"name": "f", "arguments": {"x":  [1, "é"]}}\n</tool_call>'
TRICKY = '<tool_call>\n{"name": "f", "arguments": {"x": "</tool_call> <tool_call>\\" {"}}\n</tool_call>'
BAD = "<tool_call>\n{not json}\n</tool_call>"
OPEN_STRING = '<tool_call>\n{"name": "f", "arguments": {"x": "y}\n</tool_call>'

Joined = tuple[str, str, list[ToolCall], bool]


def joined(events: Iterable[Event]) -> Joined:
    """Thinking, text, calls, and whether there was any thinking block."""
    found = list(events)
    pieces = [event for event in found if isinstance(event, Piece)]
    thinking = "".join(piece.text for piece in pieces if piece.thinking)
    text = "".join(piece.text for piece in pieces if not piece.thinking)
    calls = [event for event in found if isinstance(event, ToolCall)]
    return thinking, text, calls, any(piece.thinking for piece in pieces)


def parse(pieces: Iterable[str], parser: ReplyParser) -> Joined:
    return joined([event for piece in pieces for event in parser.feed(piece)] + list(parser.finish()))


def read(text: str, *, opened: bool = False, tools: bool = True) -> Joined:
    return parse([text], QWEN3.parser(thinking_open=opened, tools=OFFERED if tools else ()))


def made(*arguments: str) -> list[ToolCall]:
    return [ToolCall(name="f", arguments=each, id=f"call_{i}") for i, each in enumerate(arguments)]


X = '{"x":  [1, "é"]}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", ("", "yes", [], False)),
        ("<think>\nxx\n</think>\n\nyy", ("xx", "yy", [], True)),
        ("<think>\n\n</think>\n\nyy\n", ("", "yy\n", [], True)),
        ("\n<think>a\n\nb</think>c", ("a\n\nb", "c", [], True)),
        (f"sure\n{GOOD}\n{GOOD}", ("", "sure", made(X, X), False)),
        (f"<think>\nt\n</think>\n\n{GOOD}\n", ("t", "", made(X), True)),
        (f"a\n{BAD}\n{GOOD}\n{BAD} b", ("", f"a\n{BAD}\n{BAD} b", made(X), False)),
        (f"{OPEN_STRING}\n{GOOD}", ("", OPEN_STRING, made(X), False)),
        (f"{OPEN_STRING} text", ("", f"{OPEN_STRING} text", [], False)),
        (TRICKY, ("", "", made('{"x": "</tool_call> <tool_call>\\" {"}'), False)),
        (f"<tool_call>\nhm {GOOD}", ("", "<tool_call>\nhm", made(X), False)),
        (GOOD.removesuffix("</tool_call>"), ("", "", made(X), False)),
        (GOOD.removesuffix("</tool_call>") + GOOD, ("", "", made(X, X), False)),
        (f"<think>\nI call it.\n{GOOD}", ("I call it.", "", made(X), True)),
        (f"<think>\nI call it.\n{GOOD}\n{GOOD}\n", ("I call it.", "", made(X, X), True)),
        (f"<think>\nor {GOOD}?\n</think>\n\n{GOOD}", (f"or {GOOD}?", "", made(X), True)),
        (f"<think>\nor {BAD}?\n</think>\n\nno", (f"or {BAD}?", "no", [], True)),
        ("<think>\nor <tool_call>\n</think>\n\nno", ("or <tool_call>", "no", [], True)),
        ("<think>a<think>b</think>c</think>d", ("a<think>b", "c</think>d", [], True)),
        ("<think>never closed\n", ("never closed\n", "", [], True)),
        ("a <think> b", ("", "a <think> b", [], False)),
        ("</tool_call> a < b <tool", ("", "</tool_call> a < b <tool", [], False)),
        ("", ("", "", [], False)),
    ],
)
def test_what_a_reply_comes_to(text: str, expected: Joined):
    assert read(text) == expected


def test_prompts_that_open_the_block():
    assert read("xx\n</think>\n\nyy", opened=True) == ("xx", "yy", [], True)
    assert read("\n</think>\n\nyy", opened=True) == ("", "yy", [], True)
    assert read("<think>\nxx\n</think>\n\nyy", opened=True) == ("xx", "yy", [], True)  # some models repeat the tag
    assert read("xx", opened=True) == ("xx", "", [], True)


def test_without_tools_their_tags_are_text():
    assert read(f"a\n{GOOD}\n", tools=False) == ("", f"a\n{GOOD}\n", [], False)
    assert parse(["<think>x"], FORMATS["qwen2_5"]().parser(thinking_open=False, tools=OFFERED))[:2] == ("", "<think>x")
    assert parse([GOOD], FORMATS["chatml"]().parser(thinking_open=False, tools=OFFERED))[:2] == ("", GOOD)


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "f"}', "{}"),
        ('{"name": "f", "arguments": null}', "{}"),
        ('{"name": "f", "id": null, "arguments": {"a": 1}}', '{"a": 1}'),
        ('{"name": "f", "id": 7}', "{}"),
        ('{"name": "f", "parameters": {"a":1}}', '{"a":1}'),
        ('{"arguments": {"a" : 1}, "name": "f", "more": 2}', '{"a" : 1}'),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"name": "f", "arguments": "a"}', None),
        ('{"name": "f", "arguments": [1]}', None),
        ('{"name": "", "arguments": {}}', None),
        ('{"name": 1, "arguments": {}}', None),
        ('{"name": "f", "arguments": {"a": 1}', None),
        ('{"name": "f", "arguments": {"a": 1}} x', None),
        ('[{"name": "f"}]', None),
        ("", None),
        ('{"name": "f", "arguments": ' + '{"a":' * 50_000, None),
        ('{"name": "\ud83d"}', None),
    ],
)
def test_what_a_call_is(body: str, arguments: str | None):
    found = read_call(body)
    assert (None if found is None else found.arguments) == arguments
    assert found is None or (found.name, found.id) == ("f", "")


def test_ids_of_the_model_are_kept():
    written = '<tool_call>{"name": "f", "id": "abc"}</tool_call><tool_call>{"name": "g"}</tool_call>'
    assert [each.id for each in read(written)[2]] == ["abc", "call_1"]


# --- Llama 3: bare JSON --------------------------------------------------------------------------------------------

ONE = '{"name": "f", "parameters": {"x": "}"}}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ONE, ("", "", made('{"x": "}"}'), False)),
        (f" {ONE}; {ONE}\n", ("", "", made('{"x": "}"}', '{"x": "}"}'), False)),
        (f"<|python_tag|>{ONE}", ("", "", made('{"x": "}"}'), False)),
        (f"text <|python_tag|>{ONE}", ("", "text ", made('{"x": "}"}'), False)),
        ("<|python_tag|>print(1)", ("", "<|python_tag|>print(1)", [], False)),
        (f"so {ONE}", ("", f"so {ONE}", [], False)),
        ('{"a": 1} and', ("", '{"a": 1} and', [], False)),
        ('{"name": "f"}', ("", '{"name": "f"}', [], False)),  # without tags a name alone says too little
        (ONE[:-1], ("", ONE[:-1], [], False)),
        (f"{ONE} done", ("", " done", made('{"x": "}"}'), False)),
        ("", ("", "", [], False)),
    ],
)
def test_bare_calls(text: str, expected: Joined):
    for size in (1, 2, 3, 7, 1000):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        assert parse(pieces, LLAMA.parser(thinking_open=False, tools=OFFERED)) == expected
        assert parse(pieces, LLAMA.parser(thinking_open=False, tools=()))[:3] == ("", text, [])


def test_bare_calls_by_the_token():
    parser = LLAMA.parser(thinking_open=False, tools=OFFERED)
    events = [*parser.feed("a"), *parser.mark("tool_open"), *parser.feed(ONE), *parser.finish()]
    assert joined(events) == ("", "a", made('{"x": "}"}'), False)


# --- laws ----------------------------------------------------------------------------------------------------------

ATOMS = [*TAGS, GOOD, TRICKY, BAD, OPEN_STRING, ONE, "<|python_tag|>", "<", "<th", "</", "</tool_", "\n", "\n\n", " ",
         "a", "杭州 x", '"', "\\", '{"name": "f"}', ";"]  # fmt: skip
REPLIES = st.lists(st.sampled_from(ATOMS), max_size=12).map("".join)


def kinds() -> list[ReplyParser]:
    return [
        *(QWEN3.parser(thinking_open=opened, tools=tools) for opened in (False, True) for tools in ((), OFFERED)),
        *(LLAMA.parser(thinking_open=False, tools=tools) for tools in ((), OFFERED)),
    ]


@settings(max_examples=500)
@given(REPLIES, st.lists(st.integers(0, 400), max_size=8))
def test_the_cut_changes_nothing(text: str, cuts: list[int]):
    borders = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[a:b] for a, b in pairwise(borders)]
    for whole, cut, each in zip(kinds(), kinds(), kinds(), strict=True):
        expected = parse([text], whole)
        assert parse(pieces, cut) == expected
        assert parse(text, each) == expected


def test_ten_thousand_random_cuts_change_nothing():
    random_ = random.Random(20)
    for _ in range(1000):
        text = "".join(random_.choices(ATOMS, k=random_.randint(2, 10)))
        number = random_.randrange(len(kinds()))
        expected = parse([text], kinds()[number])
        for _ in range(10):
            cuts = [0, *sorted(random_.choices(range(len(text) + 1), k=random_.randint(1, 9))), len(text)]
            assert parse([text[a:b] for a, b in pairwise(cuts)], kinds()[number]) == expected


def bare(text: str) -> str:
    """Without tags and white space: what no reading of a reply may lose."""
    for tag in (*TAGS, "<|python_tag|>"):
        text = text.replace(tag, "")
    text = text.replace('{"name": "f"}', '{"name": "f", "arguments": {}}').replace("parameters", "arguments")
    return "".join(text.split())


@settings(max_examples=800)
@given(REPLIES)
def test_no_text_is_lost(text: str):
    for parser in kinds()[:4]:
        events = [*parser.feed(text), *parser.finish()]
        said = [e.text if isinstance(e, Piece) else f'{{"name":"{e.name}","arguments":{e.arguments}}}' for e in events]
        assert bare("".join(said)) == bare(text)


def exact(text: str, parser: ReplyParser) -> Joined:
    """As the engine gives a reply: tags by their tokens, the text between them without any."""
    events: list[Event] = []
    while text:
        at, literal = min(((i, tag) for tag in TAGS if (i := text.find(tag)) >= 0), default=(len(text), ""))
        events += parser.feed(text[:at], literal=True)
        events += parser.mark(TAGS[literal]) if literal else []
        text = text[at + len(literal) :]
    return joined(events + list(parser.finish()))


@settings(max_examples=500)
@given(st.text("ab \n<é", max_size=8), st.text("ab \n<é", max_size=8), st.lists(st.sampled_from([GOOD, BAD, TRICKY])))
def test_tags_by_token_equal_tags_in_text(thought: str, answer: str, calls: list[str]):
    text = f"<think>\n{thought}\n</think>\n\n{answer}\n" + "\n".join(calls)
    assert exact(text, QWEN3.parser(thinking_open=False, tools=OFFERED)) == read(text)


def test_literal_text_that_looks_like_a_tag_is_text_where_tokens_tell():
    parser = QWEN3.parser(thinking_open=False, tools=OFFERED)
    events = [*parser.feed("say <think> and <tool_", literal=True), *parser.feed("call>", literal=True)]
    assert joined([*events, *parser.finish()]) == ("", "say <think> and <tool_call>", [], False)


@settings(max_examples=300)
@given(st.lists(st.sampled_from([GOOD, BAD, OPEN_STRING, "text", "<tool_call>", "</tool_call>"]), max_size=30))
def test_no_good_call_is_lost(parts: list[str]):
    assert len(read("\n".join(parts))[2]) == parts.count(GOOD)
    assert len(read("<think>\n" + "\n".join(parts))[2]) == parts.count(GOOD)


SAFE = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<"), max_size=20)


@settings(max_examples=400)
@given(
    SAFE.map(str.strip), SAFE.map(str.strip), st.lists(SAFE, max_size=3), st.sampled_from(["qwen3", "qwen3_thinking"])
)
def test_what_was_rendered_is_read_back(thought: str, answer: str, values: list[str], name: str):
    form = FORMATS[name]()
    calls = tuple(call("f", x=value) for value in values)
    reply = says(answer, thinking=thought, calls=calls)
    rendered = form.render([user("q"), reply], reply=False)
    written = "".join(span.text for span in rendered.spans if span.trained).removesuffix("<|im_end|>")
    found = parse(written, form.parser(thinking_open=name == "qwen3_thinking", tools=OFFERED))
    assert found[:2] == (thought, answer)
    assert [(each.name, each.arguments) for each in found[2]] == [(each.name, each.arguments) for each in calls]


@pytest.mark.parametrize(
    "atom", ["<tool_call>", '<tool_call>{"', "</tool_call>", "<think>", "</think>", " ", "\n", '{"a":']
)
def test_a_reply_of_10_000_tags_costs_a_moment(atom: str):
    for parser in kinds():
        begun = time.process_time()
        parse((atom for _ in range(10_000)), parser)
        assert time.process_time() - begun < 5  # the slowest took 0.1 s


def test_a_call_that_never_begins_costs_a_moment():
    parser, begun = LLAMA.parser(thinking_open=False, tools=OFFERED), time.process_time()
    assert parse(("\n" for _ in range(60_000)), parser)[1] == "\n" * 60_000
    assert time.process_time() - begun < 3  # 0.2 s; 15 s where all of it is read again with each newline
