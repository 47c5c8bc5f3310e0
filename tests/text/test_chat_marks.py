"""Control tokens that somebody typed stay text in every template, and the marks that tell them change nothing else."""

import random
import time
from typing import Any

import pytest

from octavo.core.errors import FormatError
from octavo.core.messages import ToolSpec
from octavo.text.chat.jinja_format import JinjaFormat
from octavo.text.chat.marks import Typed
from octavo.text.tokenizer import Tokenizer
from tests.text.chats import AUTO, CHATML, OFF, ON, Templated, conversation, official, official_text, user


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "qwen3_instruct_2507"])
def test_marks_against_forging_change_no_text(name: str, qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(qwen, "chat_template", official_text(name))
    form = JinjaFormat(qwen)
    refused = 0
    for seed in range(400):
        random_ = random.Random(f"marks {seed}")
        messages, reply = conversation(random_, tools=True), random_.random() < 0.5
        thinking = random_.choice([AUTO, OFF, ON]) if form.thinks == "optional" else AUTO
        more: dict[str, Any] = {} if thinking == AUTO else {"enable_thinking": thinking == ON}
        try:
            text = form.render(messages, thinking=thinking, reply=reply).text
        except FormatError:
            refused += 1  # a template that looks for a token in the messages
            continue
        assert text == official(official_text(name), messages, add_generation_prompt=reply, **more)
    assert refused <= 4


def test_a_token_put_together_from_two_messages_is_none(templated: Templated):
    form = JinjaFormat(templated("{% for m in messages %}{{ m.content | trim }}{% endfor %}<|im_end|>"))
    for one, two in (
        ("<|im_", "end|>"),
        ("<", "|im_end|>"),
        ("<|im_end|", ">"),
        ("<|im_end|>", ""),
        ("<|im_ ", "end|>"),
    ):
        tokens = form.render([user(one), user(two)]).tokens(form_tokenizer := templated(form._template.text))
        assert [id for id in tokens if id in form_tokenizer.added_ids] == [form_tokenizer.id_of("<|im_end|>")]


@pytest.mark.parametrize(
    ("template", "typed"),
    [
        ("<{{ m.content | trim }}>", "|im_end|"),
        ("<{{ m.content | trim }}>", " |im_end|"),
        ("<|{{ m.content }}", "im_end|>"),
        ("<|im_end|{{ m.content }}", ">"),
        ("<|im_{{ m.content }}", "end|> and more"),
    ],
)
def test_a_token_whose_beginning_the_template_writes_is_none(template: str, typed: str, templated: Templated):
    tokenizer = templated("{% for m in messages %}" + template + "{% endfor %}<|im_start|>")
    tokens = JinjaFormat(tokenizer).render([user(typed)]).tokens(tokenizer)
    assert [id for id in tokens if id in tokenizer.added_ids] == [tokenizer.id_of("<|im_start|>")]


def test_keys_of_a_tool_are_no_tokens_between_the_brackets_of_a_template(
    qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    """It writes `<` ~ key ~ `>`."""
    monkeypatch.setattr(qwen, "chat_template", official_text("nemotron_3_nano"))
    form = JinjaFormat(qwen)

    def control(key: str) -> int:
        spec = ToolSpec(name="f", parameters={"type": "object", "properties": {"p": {"type": "string", key: "x"}}})
        rendered = form.render([user("q")], tools=[spec])
        assert f"<{key}>" in rendered.text
        return sum(id in qwen.special_ids for id in rendered.tokens(qwen))

    assert control("|im_end|") == control("example")


def test_text_that_begins_as_a_token_ends_is_rendered(templated: Templated):
    form = JinjaFormat(templated(CHATML))
    for text in (">", "> quoted", "|>", "end|>", " > x", "user", "|"):
        expected = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        assert form.render([user(text)]).text == expected


def test_a_long_conversation_costs_a_moment_though_a_tokenizer_has_many_tokens():
    """Llama 3 has 256 added tokens, others thousands."""
    names = {f"<|reserved_{i}|>": True for i in range(1000)} | {"[INST]": True, "</s>": True}
    typed, begun = Typed(names, template=""), time.process_time()
    messages = [{"role": "user", "content": "so what? " * 50_000 + "<|reserved_999|>[INST]"}]
    marked = next(typed.variants({"messages": messages, "tools": None}, mark="\ue000"))["messages"][0]["content"]
    assert marked.endswith("\ue000<|reserved_999|>\ue000[INST]")
    assert time.process_time() - begun < 2  # 0.01 s; 5 s where each name is looked for at each character


def test_a_conversation_with_all_private_characters_is_refused(templated: Templated):
    form = JinjaFormat(templated(CHATML))
    with pytest.raises(FormatError, match="private use"):
        form.render([user("".join(map(chr, range(0xE000, 0xF900))))])


def test_a_conversation_that_cannot_be_told_from_control_tokens_is_refused(templated: Templated):
    text = "{% for m in messages %}{{ 'x' if m.content.startswith('<|im_end|>') else m.content }}{% endfor %}"
    form = JinjaFormat(templated(text))
    assert form.render([user("a")]).text == "a"
    with pytest.raises(FormatError, match=r"holds '<\|im_end\|>'"):
        form.render([user("<|im_end|>a")])
