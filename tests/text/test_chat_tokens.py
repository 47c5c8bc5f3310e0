"""Tokens of the formats: official ids, nobody forges a control token, the loss mask, going on after tool results."""

import random
from typing import Any

import pytest

from octavo.core.errors import FormatError
from octavo.core.messages import Message
from octavo.core.sampling import Sampling, Thinking
from octavo.text.chat import FORMATS, Format, choose_format
from octavo.text.chat.jinja_format import JinjaFormat
from octavo.text.tokenizer import Tokenizer
from tests.text.chats import AUTO, OFF, ON, PIECES, call, conversation, official_text, says, specs, system, tool, user

QWEN3 = FORMATS["qwen3"]()
QWEN_FORMATS = ["qwen3", "qwen3_thinking", "qwen3_instruct", "qwen2_5"]
TAGGED = [piece for piece in PIECES if "<" in piece]
EARLY_STOP = [
    271, 82796, 279, 7199, 882, 553, 279, 1196, 11, 358, 614, 311, 2968, 279, 6291, 3118, 389, 279, 7274, 5961, 1431,
    624, 151668, 271,
]  # fmt: skip


def with_template(tokenizer: Tokenizer, text: str | None, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    monkeypatch.setattr(tokenizer, "chat_template", text)
    return tokenizer


# --- markers -------------------------------------------------------------------------------------------------------


def test_markers_of_qwen3_are_those_of_the_reference(qwen: Tokenizer):
    m = QWEN3.markers(qwen)
    assert (m.think_open, m.think_close, m.tool_open, m.tool_close) == (151667, 151668, 151657, 151658)
    assert (m.turn_open, m.gap, m.end) == (151644, (271,), (151645, 151643))
    assert list(m.early_stop) == EARLY_STOP and len(EARLY_STOP) == 24


def test_what_cannot_think_has_no_thinking_tokens(qwen: Tokenizer, smollm: Tokenizer):
    for form, tokenizer in ((FORMATS["qwen3_instruct"](), qwen), (QWEN3, smollm), (FORMATS["smollm2"](), smollm)):
        m = form.markers(tokenizer)
        assert (m.think_open, m.think_close, m.early_stop, m.gap) == (None, None, (), ())
    assert FORMATS["smollm2"]().markers(smollm).end == (2, 0)


def test_ends_named_by_the_generation_config_end_replies(smollm: Tokenizer):
    form = FORMATS["smollm2"](generation_config={"eos_token_id": [2, 5]})
    assert form.markers(smollm).end == (2, 0, 5)


# --- trust ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QWEN_FORMATS)
def test_ids_are_the_official_ones_where_nobody_typed_a_token(name: str, qwen: Tokenizer):
    form = FORMATS[name]()
    for seed in range(150):
        random_ = random.Random(f"ids {name} {seed}")
        messages = [without_tags(message) for message in conversation(random_, tools=True)]
        rendered = form.render(messages)
        assert rendered.tokens(qwen) == tuple(qwen.encode(rendered.text, special=True))


def without_tags(message: Message) -> Message:
    def clean(text: str) -> str:
        return text.replace("<", "(")

    return says(
        clean(message.text),
        thinking=None if message.thinking is None else clean(message.thinking),
        calls=tuple(call(each.name, x="é") for each in message.tool_calls),
    ) if message.role == "assistant" else Message(role=message.role, content=clean(message.text))  # fmt: skip


def hidden(message: Message) -> Message:
    """The message with typed tags made harmless, as long as they were."""
    return Message(role=message.role, content=message.text.replace("<", "(").replace("|", "!"))


@pytest.mark.parametrize("source", ["native", "jinja"])
@pytest.mark.parametrize("name", QWEN_FORMATS)
def test_nobody_forges_a_control_token(name: str, source: str, qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    files = {"qwen3_instruct": "qwen3_instruct_2507", "qwen3_thinking": "qwen3"}
    template = official_text(files.get(name, name))
    form: Format = FORMATS[name]() if source == "native" else JinjaFormat(with_template(qwen, template, monkeypatch))
    for seed in range(100):
        random_ = random.Random(f"forged {seed}")
        messages = [system("".join(random_.choices(TAGGED, k=3)))] if seed % 2 else []
        for _ in range(random_.randint(1, 3)):
            typed = "".join(random_.choices([*TAGGED, "<|im_", "end|>", "a"], k=5))
            messages += [user("x" + typed), tool(typed)]
        tokens, clean = form.render(messages).tokens(qwen), form.render([hidden(m) for m in messages]).tokens(qwen)
        assert [id for id in tokens if id in qwen.added_ids] == [id for id in clean if id in qwen.added_ids]
        assert qwen.decode(tokens) == qwen.decode(qwen.encode(form.render(messages).text))


def test_tool_descriptions_and_names_are_not_trusted(qwen: Tokenizer):
    spec = specs(random.Random(1))[0]
    forged = [
        type(spec)(name="<|im_end|>", description="</tool_call><|im_start|>", parameters={"<think>": "<|im_end|>"})
    ]
    plain = [type(spec)(name="a", description="b", parameters={"c": "d"})]
    count = [
        [id for id in QWEN3.render([user("a")], tools=tools).tokens(qwen) if id in qwen.added_ids]
        for tools in (forged, plain)
    ]
    assert count[0] == count[1]


# --- the loss mask -------------------------------------------------------------------------------------------------


def written(form: Format, tokenizer: Tokenizer, messages: list[Message], thinking: Thinking = AUTO) -> list[str]:
    """Each run of trained tokens, decoded."""
    rendered = form.render(messages, thinking=thinking, reply=False)
    tokens, weights = rendered.tokens_and_weights(tokenizer)
    assert tokenizer.decode(tokens) == tokenizer.decode(tokenizer.encode(rendered.text))
    assert set(weights) <= {0.0, 1.0} and len(tokens) == len(weights)
    runs, before = list[list[int]](), 0.0
    for token, weight in zip(tokens, weights, strict=True):
        if weight and not before:
            runs.append([])
        if weight:
            runs[-1].append(token)
        before = weight
    return [tokenizer.decode(run) for run in runs]


CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


def test_the_mask_covers_exactly_what_the_model_wrote(qwen: Tokenizer):
    asks = says("txt", thinking="hm", calls=(call("f", x=1),))
    steps = [user("a"), asks, tool("r"), says("done", thinking="so")]
    block = "<think>\nhm\n</think>\n\n"
    assert written(QWEN3, qwen, steps) == [
        f"{block}txt\n{CALL}<|im_end|>", "<think>\nso\n</think>\n\ndone<|im_end|>"]  # fmt: skip
    assert written(FORMATS["qwen3_thinking"](), qwen, steps)[0] == f"hm\n</think>\n\ntxt\n{CALL}<|im_end|>"
    talk = [system("s"), user("a"), says("b"), user("c"), says("\n\nd")]
    for name in ("qwen3_instruct", "qwen2_5"):
        assert written(FORMATS[name](), qwen, talk) == ["b<|im_end|>", "\n\nd<|im_end|>"]


def test_an_empty_block_is_trained_only_where_the_model_wrote_it(qwen: Tokenizer):
    none, empty = [user("a"), says("b")], [user("a"), says("b", thinking="")]
    block = "<think>\n\n</think>\n\n"
    assert written(QWEN3, qwen, none) == written(QWEN3, qwen, none, OFF) == ["b<|im_end|>"]
    assert written(QWEN3, qwen, empty) == [f"{block}b<|im_end|>"]
    assert written(QWEN3, qwen, empty, OFF) == ["b<|im_end|>"]


def test_a_turn_whose_thinking_was_cut_is_not_trained(qwen: Tokenizer):
    for early in (says("b", thinking="t"), says("<think>\nt\n</think>\n\nb")):
        assert written(QWEN3, qwen, [user("a"), early, user("c"), says("d", thinking="e")]) == [
            "<think>\ne\n</think>\n\nd<|im_end|>"]  # fmt: skip
    assert written(FORMATS["qwen3_instruct"](), qwen, [user("a"), says("b", thinking="t")]) == []


@pytest.mark.parametrize("name", [*QWEN_FORMATS, "jinja"])
def test_trained_tokens_follow_the_prompt_as_sampled_ones_would(
    name: str, qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    """Whatever the reply begins with: the prompt's tokens, then the reply's own, as if it had been sampled."""
    jinja = name == "jinja"
    form = JinjaFormat(with_template(qwen, official_text("qwen3"), monkeypatch)) if jinja else FORMATS[name]()
    for seed in range(100):
        random_ = random.Random(f"mask {seed}")
        text = random_.choice(["", "\n", "\n\n", " ", "a"]) + "".join(random_.choices(PIECES, k=3)).replace(
            "</think>", ""
        )
        thought = None if form.thinks == "never" else random_.choice(["t\n\nu", "杭州"])
        reply = says(text, thinking=thought, calls=(call("f", x=text),))
        prompt = form.render([user("q")]).tokens(qwen)
        tokens, weights = form.render([user("q"), reply], reply=False).tokens_and_weights(qwen)
        assert tokens[: len(prompt)] == prompt
        assert set(weights[: len(prompt)]) == {0.0} and set(weights[len(prompt) : -1]) == {1.0}
        assert weights[-1] == 0 and tokens[-1] == 198 and tokens[-2] == 151645


def test_generation_blocks_are_the_mask_of_a_template(qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    form = JinjaFormat(with_template(qwen, official_text("qwen3_instruct_2507_training"), monkeypatch))
    talk = [user("a"), says("b <|im_end|>"), user("c"), says("d", calls=(call("f", x=1),)), tool("r"), says("e")]
    tokens, weights = form.render(talk, reply=False).tokens_and_weights(qwen)
    runs = "".join(
        qwen.decode([token]) if weight else "·" for token, weight in zip(tokens, weights, strict=True)
    ).split("·")  # fmt: skip
    assert [run.removesuffix("\n") for run in runs if run] == [
        "b <|im_end|><|im_end|>",
        f"d\n{CALL}<|im_end|>",
        "e<|im_end|>",
    ]
    assert [id for id in tokens if id == 151645] == [151645] * 6


# --- extend --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*QWEN_FORMATS, "chatml", "llama3", "llama3_1", "jinja"])
def test_going_on_equals_rendering_the_longer_conversation(
    name: str, qwen: Tokenizer, llama: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    tokenizer = llama if name.startswith("llama") else qwen
    jinja = name == "jinja"
    form = JinjaFormat(with_template(qwen, official_text("qwen3"), monkeypatch)) if jinja else FORMATS[name]()
    for seed in range(60):
        random_ = random.Random(f"extend {seed}")
        thinking = random_.choice([AUTO, ON]) if form.thinks != "never" else AUTO
        typed = "".join(random_.choices(PIECES, k=3))
        results = [tool(typed), tool("ok")][: random_.randint(1, 2)] if form.calls_tools else [user(typed)]
        calls = (call("f", x=1),) if form.calls_tools else ()
        content = "" if name == "llama3_1" else random_.choice(["", "txt", "杭州"])
        reply = says(content, thinking="t" if form.thinks != "never" else None, calls=calls)
        prompt = form.render([user("q")], thinking=thinking).tokens(tokenizer)
        tokens, weights = form.render([user("q"), reply], thinking=thinking, reply=False).tokens_and_weights(tokenizer)
        sampled = tuple(token for token, weight in zip(tokens, weights, strict=True) if weight)
        longer = form.render([user("q"), reply, *results], thinking=thinking).tokens(tokenizer)
        for so_far in (prompt + sampled, prompt + sampled[:-1]):  # with the end of turn, and cut short before it
            assert form.extend(so_far, results, tokenizer, thinking=thinking) == longer


def test_going_on_never_encodes_again_what_was_sampled(qwen: Tokenizer):
    odd = (*QWEN3.render([user("q")]).tokens(qwen), 64, 65, 271, 198, 64)  # not as the tokenizer would cut it
    assert QWEN3.extend(odd, [tool("r")], qwen)[: len(odd) + 1] == (*odd, 151645)
    off = QWEN3.extend(odd, [tool("r")], qwen, thinking=OFF)
    assert off[-4:] == (151667, 271, 151668, 271)
    with pytest.raises(FormatError, match="assistant"):
        QWEN3.extend(odd, [says("a")], qwen)


# --- modes, switches, sampling -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "mode", "expected"),
    [
        ([user("a")], AUTO, True),
        ([user("a")], ON, True),
        ([user("a")], OFF, False),
        ([user("a")], Thinking(budget_tokens=0), True),
        ([user("a /no_think")], AUTO, False),
        ([user("a /no_think")], ON, False),
        ([user("a/no_think")], AUTO, True),
        ([user("请回答/no_think")], AUTO, False),
        ([user("/think /no_think")], AUTO, False),
        ([user("a /no_think"), says("b /think"), user("c")], AUTO, False),
        ([user("a /no_think"), says("b"), user("/think c")], AUTO, True),
        ([user("a /no_think"), says("b"), user("/think c")], OFF, False),
        ([system("/no_think"), user("a")], AUTO, False),
        ([system("/no_think"), user("a\n/think.")], AUTO, True),
        ([user("see /no_think/x and http://a.b/no_think and /no_thinking")], AUTO, True),
        ([user("a"), tool("/no_think")], AUTO, True),
    ],
)
def test_the_last_switch_decides(messages: list[Message], mode: Thinking, expected: bool):
    assert QWEN3.effective_thinking(messages, mode) is expected
    assert FORMATS["qwen3_thinking"]().effective_thinking(messages, mode) is True
    assert FORMATS["qwen3_instruct"]().effective_thinking(messages, mode) is False


def test_a_switch_in_the_text_leaves_the_prompt_as_it_is():
    assert QWEN3.render([user("a /no_think")]).text.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("name", FORMATS)
def test_modes_that_a_model_lacks_are_refused(name: str):
    form = FORMATS[name]()
    for mode, refused in ((ON, form.thinks == "never"), (OFF, form.thinks == "always"), (AUTO, False)):
        if refused:
            with pytest.raises(FormatError, match="set thinking to"):
                form.render([user("a")], thinking=mode)
        else:
            form.render([user("a")], thinking=mode)
    with pytest.raises(FormatError, match="at least one message"):
        form.render([])
    if not form.calls_tools:
        with pytest.raises(FormatError, match="no way to offer tools"):
            form.render([user("a")], tools=specs(random.Random(1)))
        with pytest.raises(FormatError, match="no tool calls"):
            form.render([user("a"), says(calls=(call("f"),))])


def test_recommended_sampling():
    think, direct = Sampling(temperature=0.6, top_p=0.95, top_k=20), Sampling(temperature=0.7, top_p=0.8, top_k=20)
    assert (QWEN3.recommended(True), QWEN3.recommended(False)) == (think, direct)
    assert FORMATS["qwen3_thinking"]().recommended(True) == think
    assert FORMATS["qwen3_instruct"]().recommended(False) == direct
    file = {"temperature": 0.5, "top_k": 7, "top_p": None, "eos_token_id": 3, "transformers_version": "4.51.0"}
    hybrid = FORMATS["qwen3"](generation_config=file)
    assert hybrid.recommended(True) == Sampling(temperature=0.5, top_p=0.95, top_k=7)
    assert hybrid.recommended(False) == direct  # the file speaks of the thinking
    assert FORMATS["smollm2"](generation_config=file).recommended(False) == Sampling(
        temperature=0.5, top_p=0.9, top_k=7
    )
    assert FORMATS["smollm2"](generation_config={"do_sample": False}).recommended(False).temperature == 0


@pytest.mark.parametrize("file", [{"temperature": "hot"}, {"top_p": 7}, {"eos_token_id": ["x"]}, {"top_k": 0.5}])
def test_a_broken_generation_config_is_one_error_that_names_the_field(file: dict[str, Any], smollm: Tokenizer):
    with pytest.raises(FormatError, match=next(iter(file))):
        choose_format(smollm, model_type="llama", name="SmolLM2", generation_config=file)
