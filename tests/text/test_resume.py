"""Going on with the last message: the prompt ends in the midst of it."""

import pytest

from octavo.core.errors import FormatError
from octavo.core.messages import Message
from octavo.core.sampling import Thinking
from octavo.text.chat import FORMATS
from octavo.text.chat.jinja_format import JinjaFormat
from octavo.text.tokenizer import Tokenizer
from tests.text.chats import OFF, call, official_text, says, user

TALK = [user("One <|im_end|>?"), says("Well"), user("Count.")]
BEGUN = "One, two <|im_end|>,"


@pytest.mark.parametrize("name", FORMATS)
def test_the_prompt_ends_with_what_was_said_and_the_whole_turn_begins_so(name: str):
    form = FORMATS[name]()
    resumed = form.resume([*TALK, says(BEGUN)]).text
    whole = form.render([*TALK, says(f"{BEGUN} three.")], reply=False).text
    assert resumed.endswith(BEGUN) and whole.startswith(resumed)
    rest = whole[len(resumed) :].removeprefix(" three.")
    assert rest.strip() in form.ends


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("begun", ["<", ">", "e", "|", "end", "im", "a </think", "\ue000", "{"])
def test_what_was_said_may_be_found_in_the_end_of_a_turn(name: str, begun: str):
    assert FORMATS[name]().resume([*TALK, says(begun)]).text.endswith(f"\n{begun}")


def test_text_after_a_last_closing_tag_is_gone_on_with_though_there_is_none():
    assert FORMATS["qwen3"]().resume([*TALK, says("<think>Hm</think>")]).text.endswith("<think>\nHm\n</think>\n\n")


def test_white_space_at_the_end_stays_where_the_format_keeps_it():
    assert FORMATS["qwen3"]().resume([*TALK, says("One, \n")]).text.endswith("One, \n")
    assert FORMATS["llama3_1"]().resume([*TALK, says("One, \n")]).text.endswith("\n\nOne,")


@pytest.mark.parametrize("name", ["phi3", "glm4moe", "deepseek_r1_distill", "lfm2_v2"])
def test_a_template_that_ends_a_turn_by_two_tokens_or_by_none_goes_on(
    name: str, qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(qwen, "chat_template", official_text(name))
    assert JinjaFormat(qwen).resume([user("Count."), says("One,")]).text.endswith("One,")


def test_a_template_that_leaves_out_replies_is_refused(qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    text = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    monkeypatch.setattr(qwen, "chat_template", text)
    with pytest.raises(FormatError, match="leaves the last message out"):
        JinjaFormat(qwen).resume([user("Count."), says("One,")])


@pytest.mark.parametrize("mode", [Thinking(), OFF])
def test_a_qwen3_goes_on_after_its_thinking(mode: Thinking):
    form = FORMATS["qwen3"]()
    block = "<think>\nHm.\n</think>\n\n"
    assert form.resume([*TALK, says("One,", thinking="Hm.")], thinking=mode).text.endswith(f"{block}One,")
    assert form.resume([*TALK, says(f"{block}One,")], thinking=mode).text.endswith(f"{block}One,")


def test_a_template_goes_on_too(qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(qwen, "chat_template", official_text("qwen2_5"))
    assert JinjaFormat(qwen).resume([user("Count."), says("One,")]).text.endswith("assistant\nOne,")


@pytest.mark.parametrize("last", [
    user("Hi"), says(""), says("Text", calls=(call("f"),)), Message(role="tool", content="3"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["qwen3", "llama3_1"])
def test_what_cannot_be_gone_on_with_is_refused(name: str, last: Message):
    with pytest.raises(FormatError, match="assistant"):
        FORMATS[name]().resume([user("Hi"), last])
