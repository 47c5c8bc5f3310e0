"""Thinking through the whole stack, with the real tokenizer and a tiny random Qwen3: budgets, early stops, channels."""

import pytest

from octavo.core.chat import complete
from octavo.core.deltas import Finished, ThinkingDelta
from octavo.core.errors import FormatError
from octavo.core.messages import Message, ToolSpec
from octavo.core.sampling import Sampling, Thinking
from tests.chat.models import nonsense

# Source: Qwen3 documentation, quickstart, "Thinking Budget"; 24 tokens.
EARLY_STOP = (271, 82796, 279, 7199, 882, 553, 279, 1196, 11, 358, 614, 311, 2968, 279, 6291, 3118, 389, 279, 7274,
              5961, 1431, 624, 151668, 271)  # fmt: skip
SENTENCE = "Considering the limited time by the user, I have to give the solution based on the thinking directly now."
ASK = [Message(role="user", content="Why?")]


def sampling(**settings) -> Sampling:
    return Sampling(
        **{"temperature": 1.0, "seed": 3, "max_tokens": 80, "logit_bias": {151645: -99, 151643: -99}} | settings
    )


@pytest.mark.parametrize("budget", [0, 1, 7, 30])
def test_the_budget_forces_exactly_the_official_text_in_one_pass(budget: int):
    chat = nonsense("qwen3_thinking")  # its prompt opens the thinking
    before = chat.engine.forwards
    end = complete(chat, ASK, sampling=sampling(), thinking=Thinking(budget_tokens=budget))[0]
    assert end.tokens[budget : budget + 24] == EARLY_STOP
    assert end.usage.thinking_stop == "budget" and end.usage.forced_tokens == 24
    assert end.usage.thinking_tokens == budget + 24 and len(end.tokens) == 80
    assert chat.engine.forwards - before <= 80 - 24 + 1
    assert end.message.thinking is not None and end.message.thinking.endswith(SENTENCE)
    assert SENTENCE not in end.message.text and "</think>" not in end.message.text


@pytest.mark.parametrize("tools", [(), (ToolSpec(name="f", parameters={}),)], ids=["no tools", "tools"])
@pytest.mark.parametrize("budget", [4, 8, 30])
def test_calls_that_are_thought_of_are_thinking_to_the_budget_and_to_the_reader(budget: int, tools: tuple[ToolSpec]):
    chat = nonsense("qwen3_thinking")
    loud = {151657: 15.0, 151658: 13.0, 151668: -99.0, 151645: -99.0, 151643: -99.0}  # a call's tags; no other ones
    for seed in range(3):
        end = complete(chat, ASK, tools=tools, sampling=sampling(seed=seed, logit_bias=loud),
                       thinking=Thinking(budget_tokens=budget))[0]  # fmt: skip
        assert 151657 in end.tokens[:budget] and end.tokens[budget : budget + 24] == EARLY_STOP
        assert end.usage.thinking_tokens == budget + 24 and end.usage.thinking_stop == "budget"
        assert end.message.thinking == chat.tokenizer.decode(end.tokens[: budget + 22]).strip("\n")


def test_forced_text_is_marked_and_comes_before_the_answer():
    deltas = list(nonsense("qwen3_thinking").stream(ASK, sampling=sampling(), thinking=Thinking(budget_tokens=5)))
    kinds = ["forced" if isinstance(d, ThinkingDelta) and d.forced else type(d).__name__ for d in deltas if not
             isinstance(d, Finished)]  # fmt: skip
    assert list(dict.fromkeys(kinds)) == ["ThinkingDelta", "forced", "TextDelta"]
    assert "".join(d.text for d in deltas if isinstance(d, ThinkingDelta) and d.forced).strip() == SENTENCE


def test_thinking_is_ended_by_the_user_at_once():
    reply, thought = nonsense("qwen3_thinking").stream(ASK, sampling=sampling()), 0
    for delta in reply:
        if isinstance(delta, ThinkingDelta) and not delta.forced:
            thought += 1
            if thought == 3:
                reply.end_thinking()
        if isinstance(delta, Finished):
            assert delta.usage.thinking_stop == "user" and delta.usage.forced_tokens == 24
            assert delta.usage.thinking_tokens < 24 + 10 and delta.message.text


def test_the_hard_switch_leaves_no_thinking_and_the_model_that_opens_it_itself_is_counted():
    off = complete(nonsense(), ASK, sampling=sampling(), thinking=Thinking(mode="off"))[0]
    assert off.usage.thinking_tokens == 0 and off.usage.thinking_stop is None
    eager = sampling(logit_bias={151667: 99.0, 151645: -99, 151643: -99}, max_tokens=60)
    on = complete(nonsense(), ASK, sampling=eager, thinking=Thinking(budget_tokens=10))[0]
    assert on.tokens[0] == 151667 and on.tokens[10:34] == EARLY_STOP and on.usage.thinking_tokens == 34
    none = complete(nonsense(), ASK, sampling=eager, thinking=Thinking(budget_tokens=0))[0]
    assert 151667 not in none.tokens and none.usage.thinking_tokens == 0


def test_a_schema_holds_after_thinking_and_not_in_it():
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    for name, thinking in (("qwen3_thinking", Thinking(budget_tokens=6)), ("qwen3", Thinking(mode="off"))):
        end = complete(
            nonsense(name), ASK, sampling=Sampling(seed=1, max_tokens=400, schema=schema), thinking=thinking
        )[0]
        assert end.message.text.replace(" ", "").replace("\n", "") in ('{"ok":true}', '{"ok":false}'), end
        assert end.reason == "stop" and (end.usage.thinking_tokens >= 6) == (name == "qwen3_thinking")


def test_every_token_is_thinking_or_text_and_none_is_lost():
    chat = nonsense("qwen3_thinking")
    end = complete(chat, ASK, sampling=sampling(max_tokens=200), thinking=Thinking(budget_tokens=50))[0]
    spelled = chat.tokenizer.decode(end.tokens, skip_special=True)
    before, _, after = spelled.partition("</think>")
    assert end.message.thinking == before.strip("\n")
    assert end.message.text == after.lstrip("\n")


def test_a_mode_that_the_model_lacks_is_said():
    with pytest.raises(FormatError, match="always thinks"):
        nonsense("qwen3_thinking").stream(ASK, thinking=Thinking(mode="off"))
    with pytest.raises(FormatError, match="cannot think"):
        nonsense("qwen3_instruct").stream(ASK, thinking=Thinking(mode="on"))


def test_the_mode_sets_the_recommended_sampling():
    form = nonsense().form
    thinking, quick = form.recommended(True), form.recommended(False)
    assert (thinking.temperature, thinking.top_p, thinking.top_k) == (0.6, 0.95, 20)
    assert (quick.temperature, quick.top_p, quick.top_k) == (0.7, 0.8, 20)
    talk = [Message(role="user", content="Why? /no_think")]
    assert not form.effective_thinking(talk, Thinking()) and form.effective_thinking(ASK, Thinking())
    assert not form.effective_thinking(ASK, Thinking(mode="off"))
