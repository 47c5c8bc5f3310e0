"""A learnt tokenizer: bytes of any text come back, digits stay alone, and other programs read it the same."""

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.core.errors import TokenizerError
from octavo.core.messages import Message
from octavo.core.sampling import Thinking
from octavo.text.chat import choose_format
from octavo.text.chat.qwen3 import Qwen3
from octavo.text.learn import TEMPLATE, learn_tokenizer
from octavo.text.tokenizer import Tokenizer
from tests.text.chats import conversation, official, specs

TEXTS = [f"What is {a}+{b}? The sum of {a} and {b} is {a + b}." for a in range(30) for b in range(30)]


@pytest.fixture(scope="module")
def learnt() -> Tokenizer:
    return learn_tokenizer(TEXTS, size=340)


def test_frequent_words_become_tokens_and_digits_do_not(learnt):
    spelled = [learnt.decode([id]) for id in learnt.encode("The sum of 123 and 45")]
    assert len(spelled) < 20 and [one for one in spelled if one.strip().isdigit()] == list("12345")
    assert 256 + 26 < learnt.vocab_size <= 340 + 26


@settings(max_examples=50)
@given(st.text(max_size=40).map(lambda text: unicodedata.normalize("NFC", text)))
def test_any_text_comes_back(learnt, text):
    assert learnt.decode(learnt.encode(text)) == text


def test_the_same_texts_give_the_same_tokenizer(learnt):
    assert learn_tokenizer(TEXTS, size=340).encode("sum of What") == learnt.encode("sum of What")


def test_fewer_tokens_than_bytes_are_refused():
    with pytest.raises(TokenizerError, match="256"):
        learn_tokenizer(TEXTS, size=100)


def test_it_speaks_qwen3_and_transformers_reads_it(learnt, tmp_path):
    from transformers import AutoTokenizer

    learnt.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    form = choose_format(again, model_type="qwen3", name="mini", generation_config={})
    assert form.name == "qwen3"
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "What is 12+3? /no_think"}]
    ours = form.render([Message(**messages[0])], thinking=Thinking(mode="off"))
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert text == ours.text and theirs(text)["input_ids"] == list(ours.tokens(again))


def test_the_template_renders_what_the_format_does():
    template = TEMPLATE.read_text(encoding="utf-8")
    for seed in range(1500):
        draw = random.Random(seed)
        tools = specs(draw) if draw.random() < 0.5 else []
        messages, mode, reply = conversation(draw, tools=True), draw.choice(["auto", "off"]), draw.random() < 0.7
        ours = Qwen3().render(messages, tools=tools, thinking=Thinking(mode=mode), reply=reply).text
        offered = [tool.as_openai() for tool in tools] or None
        variables = {"tools": offered, "enable_thinking": mode == "auto", "add_generation_prompt": reply}
        assert ours == official(template, messages, raw_arguments=seed % 2 == 0, **variables)
