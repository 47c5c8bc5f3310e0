"""Calls of plain text between tags: what a template writes is read as what it was, however it is cut."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.text.chat.hermes import TOOLS
from octavo.text.chat.jinja_format import JinjaFormat
from octavo.text.chat.parser import ReplyParser, TagParser
from octavo.text.chat.xml_calls import XmlCalls
from tests.text.chats import Templated, user
from tests.text.test_chat_parser import Joined, parse

KINDS: dict[str, Any] = {
    "text": {"type": "string"}, "count": {"type": "integer"}, "size": {"type": "number"}, "yes": {"type": "boolean"},
    "many": {"type": "array"}, "one": {"type": "object"}, "maybe": {"type": ["string", "null"]},
    "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "pointed": {"$ref": "#/$defs/Place"},
}  # fmt: skip
TOOL = ToolSpec(name="look_up", parameters={"type": "object", "properties": KINDS})
TEMPLATE = (  # scalars as Python or as JSON spells them, like the models of this kind
    "{% if tools %}{{ tools | tojson }} answer with <tool_call><function=..>{% endif %}{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    "\n<tool_call>\n<function={{ c.function.name }}>\n"
    "{% for name, value in c.function.arguments.items() %}<parameter={{ name }}>\n"
    "{{ value if value is string else value | tojson if value is mapping or value is iterable else value | string }}"
    "\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = st.text(alphabet="ab 5é猫\n\"'{}[]<>/,:", max_size=12)
PLAIN = st.one_of(st.integers(-9, 99), st.booleans(), WORDS)
ARGUMENTS = st.fixed_dictionaries({}, optional={
    "text": st.one_of(WORDS, st.sampled_from(["5", "true", "null", "None", "{}", "</tool_call>", "</parameter> x"])),
    "count": st.integers(-(10**20), 10**20), "size": st.floats(-1e6, 1e6), "yes": st.booleans(),
    "many": st.lists(PLAIN, max_size=3), "one": st.dictionaries(WORDS, PLAIN, max_size=3),
    "maybe": st.one_of(st.none(), st.sampled_from(["a", "5"])), "either": st.one_of(st.none(), st.integers(0, 9)),
    "pointed": st.dictionaries(WORDS, PLAIN, max_size=2), "unheard_of": st.sampled_from(["x", "5", "true"]),
})  # fmt: skip


def parser(*tools: ToolSpec) -> ReplyParser:
    return TagParser(TOOLS, thinking_open=False, tools=True, calls=XmlCalls(tools or (TOOL,)))


def called(found: Joined) -> list[tuple[str, Any]]:
    assert found[:2] == ("", "")
    return [(call.name, json.loads(call.arguments)) for call in found[2]]


@settings(deadline=None, max_examples=300)
@given(talk=st.lists(ARGUMENTS, min_size=1, max_size=2), data=st.data())
def test_what_a_template_writes_is_read(talk: list[dict[str, Any]], data: st.DataObject):
    """Also cut anywhere."""
    written = "".join(
        f"\n<tool_call>\n<function=look_up>\n{''.join(parameter(*one) for one in arguments.items())}"
        "</function>\n</tool_call>"
        for arguments in talk
    )
    wanted = [("look_up", arguments) for arguments in talk]
    assert called(parse([written], parser())) == wanted
    at = data.draw(st.integers(0, len(written)))
    assert called(parse([written[:at], written[at:]], parser())) == wanted
    assert called(parse(written, parser())) == wanted


def parameter(name: str, value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict | list) else str(value)
    return f"<parameter={name}>\n{shown}\n</parameter>\n"


def test_a_model_whose_template_shows_such_calls(templated: Templated):
    """Its earlier calls are rendered, and its new ones are read with their types."""
    form = JinjaFormat(tokenizer := templated(TEMPLATE))
    call = ToolCall(name="look_up", arguments='{"count": 7, "text": "7", "yes": true}', id="call_0")
    talk = [user("well?"), Message(role="assistant", tool_calls=(call,))]
    text = form.render(talk, tools=[TOOL], reply=False).text
    said = text[text.index("assistant\n") + len("assistant\n") : text.rindex("<|im_end|>")]
    assert "<parameter=text>\n7\n" in said and "<parameter=yes>\nTrue\n" in said
    assert called(parse([said], form.parser(thinking_open=False, tools=[TOOL]))) == [
        ("look_up", {"count": 7, "text": "7", "yes": True})
    ]
    assert tokenizer.chat_template == TEMPLATE
    forced = '<tool_call>\n{"name": "look_up", "arguments": {"count": 7}}\n</tool_call>'
    assert called(parse([forced], form.parser(thinking_open=False, tools=[TOOL]))) == [("look_up", {"count": 7})]


@pytest.mark.parametrize("body", [
    "<function=look_up>\n<parameter=text>\nx\n</function>",
    "<function=look_up>\n<parameter=text>\nx\n</parameter>\n",
    "<function=look_up>\n<parameter=text>\nx\n</parameter>\n</function> and more",
    "<function=>\n</function>", "<function=look_up>\nwords\n</function>", "look_up",
])  # fmt: skip
def test_what_is_no_call_is_text(body: str):
    """Exactly as it was written, and the call after it is a call all the same."""
    good = "<tool_call><function=look_up></function></tool_call>"
    bad = f"<tool_call>\n{body}\n</tool_call>"
    assert parse([bad], parser())[:3] == ("", bad, [])
    found = parse([f"{bad}\n{good}"], parser())
    assert (found[1], [call.name for call in found[2]]) == (bad, ["look_up"])


def test_values_of_the_wrong_type_stay_as_they_were_written():
    values = f"{parameter('count', 'seven')}{parameter('one', '{x')}"
    written = parse([f"<tool_call><function=look_up>{values}</function></tool_call>"], parser())
    assert called(written) == [("look_up", {"count": "seven", "one": "{x"})]
