"""The formats equal the official templates: the exact strings of the reference, and 10,500 random conversations."""

import random
from datetime import datetime
from hashlib import sha256
from typing import Any

import jinja2
import pytest

from octavo.core.errors import FormatError
from octavo.core.messages import Message, Part, ToolCall, ToolSpec
from octavo.text.chat import FORMATS, choose_format
from octavo.text.chat.choose import KNOWN, agrees
from octavo.text.chat.jinja_engine import Template
from octavo.text.chat.jinja_format import JinjaFormat
from octavo.text.learn import TEMPLATE
from octavo.text.tokenizer import Tokenizer
from tests.text.chats import AUTO, OFF, ON, call, conversation, official, official_text, says, specs, system, tool, user

QWEN3 = FORMATS["qwen3"]()
OPENED, BEGUN = "<|im_start|>assistant\n", "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
WEATHER = (call("get_weather", city="杭州"), call("get_weather", city="Tokyo"))
STEPS = [user("a"), says(thinking="need tool", calls=WEATHER), tool("21C"), tool("18C")]
CALLS = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "杭州"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Tokyo"}}\n</tool_call><|im_end|>\n'
)
RESULTS = "<|im_start|>user\n<tool_response>\n21C\n</tool_response>\n<tool_response>\n18C\n</tool_response><|im_end|>\n"


@pytest.mark.parametrize(
    ("messages", "options", "expected"),
    [
        ([user("Hi")], {}, f"<|im_start|>user\nHi<|im_end|>\n{OPENED}"),
        ([user("Hi")], {"thinking": OFF}, f"<|im_start|>user\nHi<|im_end|>\n{OPENED}<think>\n\n</think>\n\n"),
        (
            [user("a"), says("<think>\nxx\n</think>\n\nyy"), user("b")],
            {},
            f"{BEGUN}yy<|im_end|>\n<|im_start|>user\nb<|im_end|>\n{OPENED}",
        ),
        (
            [user("a"), says("yy", thinking="xx")],
            {"reply": False},
            f"{BEGUN}<think>\nxx\n</think>\n\nyy<|im_end|>\n",
        ),
        ([user("a"), says("yy")], {"reply": False}, f"{BEGUN}<think>\n\n</think>\n\nyy<|im_end|>\n"),
        (STEPS, {}, f"{BEGUN}<think>\nneed tool\n</think>\n\n{CALLS}{RESULTS}{OPENED}"),
        (
            [*STEPS, says("Done."), user("Thanks")],
            {},
            f"{BEGUN}{CALLS}{RESULTS}{OPENED}Done.<|im_end|>\n<|im_start|>user\nThanks<|im_end|>\n{OPENED}",
        ),
        (
            [user("a"), says("txt", calls=(call("f", x=1),)), tool("ok")],
            {"reply": False},
            f'{BEGUN}txt\n<tool_call>\n{{"name": "f", "arguments": {{"x": 1}}}}\n</tool_call><|im_end|>\n'
            "<|im_start|>user\n<tool_response>\nok\n</tool_response><|im_end|>\n",
        ),
        (
            [Message(role="user", content=(Part(text="H"), Part(text="i")))],
            {"reply": False},
            "<|im_start|>user\nHi<|im_end|>\n",
        ),
    ],
)  # fmt: skip
def test_exact_strings_of_the_reference(messages: list[Message], options: dict[str, Any], expected: str):
    assert QWEN3.render(messages, **options).text == expected


def test_exact_system_text_with_tools():
    spec = ToolSpec(name="f", description="é", parameters={"type": "object"})
    printed = '{"type": "function", "function": {"name": "f", "description": "é", "parameters": {"type": "object"}}}'
    assert QWEN3.render([system("Be brief."), user("a")], tools=[spec], reply=False).text == (
        "<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call one or more functions to assist with the user query."
        "\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n" + printed +
        "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call>"
        '</tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
        "<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
    )  # fmt: skip


def test_the_2507_models_open_their_turns_as_the_reference_says():
    turn = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert FORMATS["qwen3_thinking"]().render([user("Hi")]).text == turn + "<think>\n"
    assert FORMATS["qwen3_instruct"]().render([user("Hi")]).text == turn


THINKING_2507 = {  # the same template but for how it opens a reply (reference, rule 7)
    "{%- if enable_thinking is defined and enable_thinking is false %}": "{%- if true %}",
    "'<think>\\n\\n</think>\\n\\n'": "'<think>\\n'",
}
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def template_of(name: str, smollm_template: str) -> str:
    if name == "qwen3_thinking":
        text = official_text("qwen3")
        for old, new in THINKING_2507.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        return text
    files = {"qwen3_instruct": "qwen3_instruct_2507"}
    return {"smollm2": smollm_template, "qwen2": QWEN2}.get(name) or official_text(files.get(name, name))


COUNTS = {"qwen3": 3000, "qwen3_thinking": 1000, "qwen3_instruct": 1500, "qwen2_5": 1500, "smollm2": 1200, "qwen2": 300,
          "llama3": 600, "llama3_1": 900, "llama3_2": 500}  # fmt: skip


def test_the_counts_come_to_ten_thousand():
    assert sum(COUNTS.values()) >= 10_000


@pytest.mark.parametrize("name", COUNTS)
def test_random_conversations_equal_the_official_template(name: str, smollm_fields: dict[str, Any]):
    template, form = template_of(name, smollm_fields["tokenizer.chat_template"]), FORMATS[name]()
    refused = equal = 0
    for seed in range(COUNTS[name]):
        random_ = random.Random(f"{name} {seed}")
        llama = name.startswith("llama")
        messages = conversation(random_, tools=form.calls_tools, calls=1 if llama and seed % 9 else 3)
        tools = specs(random_) if form.calls_tools and random_.random() < 0.4 else []
        thinking = random_.choice([AUTO, ON, OFF]) if form.thinks == "optional" else AUTO
        variables: dict[str, Any] = {"add_generation_prompt": random_.random() < 0.7, "tools": [
            spec.as_openai() for spec in tools] or None}  # fmt: skip
        if thinking != AUTO:
            variables["enable_thinking"] = thinking == ON
        if name == "llama3_2":
            variables["strftime_now"] = datetime.now().strftime
        raw = name.startswith("qwen3") and random_.random() < 0.5
        options = {"tools": tools, "thinking": thinking, "reply": variables["add_generation_prompt"]}
        begins = next(
            (message.role for message in messages if message is not messages[0] or message.role != "system"), ""
        )
        try:
            expected = official(template, messages, raw_arguments=raw, **variables)
        except jinja2.TemplateError:
            expected = ""
        if not expected or (llama and tools and begins != "user"):  # it prints whatever comes first as the user's
            refused += 1
            with pytest.raises(FormatError):
                form.render(messages, **options)
            continue
        equal += 1
        assert form.render(messages, **options).text == expected, (name, seed)
    assert equal > 0.85 * COUNTS[name] if name != "llama3_1" else equal > 0.6 * COUNTS[name]
    assert refused == 0 or name.startswith("llama3_")


def test_arguments_of_qwen3_stay_as_the_model_wrote_them():
    odd = ToolCall(name="f", arguments='{ "x":1e3 }')
    for written in (odd, ToolCall(name="f", arguments="no json")):
        messages = [user("a"), says(calls=(written,)), tool("b")]
        assert QWEN3.render(messages).text == official(official_text("qwen3"), messages, raw_arguments=True)
    rendered = FORMATS["qwen2_5"]().render([user("a"), says(calls=(odd,))]).text
    assert '"arguments": {"x": 1000.0}}' in rendered


def test_the_templates_known_by_their_digest_agree_with_their_formats(
    smollm: Tokenizer, smollm_fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """Each of them, found by its text, is what choosing by trial comes to; and it reads nothing of the tokenizer."""
    texts = [official_text(name) for name in ("qwen3", "qwen3_instruct_2507", "qwen2_5")]
    texts += [smollm_fields["tokenizer.chat_template"], TEMPLATE.read_text(encoding="utf-8")]
    assert {sha256(text.encode()).hexdigest() for text in texts} == KNOWN.keys()
    for text in texts:
        name = KNOWN[sha256(text.encode()).hexdigest()]
        monkeypatch.setattr(smollm, "chat_template", text)
        official = JinjaFormat(smollm)
        assert [n for n, form in FORMATS.items() if form.turn_open in text and agrees(form(), official)] == [name]
        assert not {"bos_token", "eos_token", "strftime_now"} & Template(text).variables
        assert choose_format(smollm, model_type="any", name="any").name == name
