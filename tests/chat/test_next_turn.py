"""Bar 9 of the issue on CPU speed: what was said is in the cache when the next turn comes, in every mode."""

import random
from threading import Event, Thread

import pytest
import torch

from bench.next_turn import OFF, ON, SHARE, law, next_turns_find_their_history, talk
from octavo.chat.local import LocalChat
from octavo.chat.next_turn import Conversation
from octavo.core.chat import complete
from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.core.sampling import Sampling, Thinking
from octavo.engine.engine import Engine
from octavo.engine.torch_backend import TorchBackend
from octavo.text.chat import FORMATS
from tests.chat.models import nonsense, qwen_tokenizer, smollm2, tiny_qwen3

WHY = Message(role="user", content="Why?")
THINKS = Sampling(temperature=0, repetition_penalty=1.3, max_tokens=50, logit_bias={151667: 99.0})
TEXTS = ("", "\n", "\n\n\n", " ", "a", "Hello there", "1", "'s", "…", "<|im_end|>", "\r\n\t x", "/no_think")


def fresh(name: str = "qwen3") -> LocalChat:
    """A tiny Qwen3 that remembers nothing yet."""
    engine = Engine(TorchBackend(tiny_qwen3().model, cache_bytes=1 << 24))
    return LocalChat(name="fresh", engine=engine, tokenizer=qwen_tokenizer(), form=FORMATS[name]())


@pytest.mark.parametrize("modes", [(ON, ON, ON), (OFF, OFF, OFF), (ON, OFF, ON, OFF), (OFF, ON, OFF)],
                         ids=lambda modes: "-".join(mode.mode for mode in modes))  # fmt: skip
def test_a_qwen3_finds_its_history_thinking_or_not_and_across_the_switch(modes: tuple[Thinking, ...]):
    texts = ("Why does rain fall?", "\n\nAnd snow?", " 12 * 12", "Danke!")
    found = talk(fresh(), zip(texts, modes, strict=False), sampling=THINKS)
    assert found["of them found"] == found["history tokens"] > 0
    assert (found["thinking tokens"] > 0) == (ON in modes)


def test_the_real_tokenizer_in_all_formats():
    found = next_turns_find_their_history(tiny_qwen3().model, qwen_tokenizer(), count=12)
    assert found["of them found"] == found["history tokens"] > 0 and found["thinking tokens"] > 0


@pytest.mark.slow
def test_the_small_real_model_finds_its_history():
    backend, chat = smollm2().engine.backend, smollm2()
    assert isinstance(backend, TorchBackend)
    own = LocalChat(name="own", engine=Engine(TorchBackend(backend.model, cache_bytes=1 << 27)), form=chat.form,
                    tokenizer=chat.tokenizer)  # fmt: skip
    turns = [(text, Thinking()) for text in ("What is the capital of France?", "And of Italy?", "Thanks!")]
    found = talk(own, turns, sampling=Sampling(temperature=0, max_tokens=24))
    assert found["of them found"] == found["history tokens"] > 100


def test_without_idling_the_answer_after_a_thinking_is_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LocalChat, "idle", lambda self: False)
    with pytest.raises(AssertionError):
        law(20)


@pytest.mark.parametrize("name", ["qwen3", "qwen3_thinking", "qwen3_instruct", "smollm2", "qwen2"])
def test_the_history_begins_every_next_prompt_and_leaves_out_what_is_said(name: str):
    tokenizer, form = qwen_tokenizer(), FORMATS[name]()
    reply = Message(role="assistant", content="  Because.\n", thinking="Hm." if form.thinks != "never" else None)
    so_far = Conversation(messages=(WHY, reply))
    history, modes = so_far.history(form, tokenizer), [Thinking()]
    modes += [OFF] if form.thinks == "optional" else []
    for mode in modes:
        prompts = [
            Conversation(messages=(WHY, reply, Message(role="user", content=text)), thinking=mode).tokens(
                form, tokenizer
            )
            for text in TEXTS
        ]
        assert all(prompt[: len(history)] == history for prompt in prompts)
        assert len(history) >= [i for i, t in enumerate(prompts[0]) if t == form.markers(tokenizer).turn_open][-2]


def test_after_a_tool_call_the_result_comes_next_and_the_thinking_stays():
    tokenizer, form = qwen_tokenizer(), FORMATS["qwen3"]()
    call = Message(role="assistant", thinking="I must look.", tool_calls=(ToolCall(name="look"),))
    so_far = Conversation(messages=(WHY, call), tools=(ToolSpec(name="look"),))
    history = so_far.history(form, tokenizer)
    after = so_far.saying(Message(role="tool", content="It rains.")).tokens(form, tokenizer)
    assert after[: len(history)] == history and len(history) >= SHARE * (len(after) - 12)
    assert "I must look." in tokenizer.decode(history)
    plain = Conversation(messages=(WHY, call)).history(FORMATS["smollm2"](), tokenizer)
    assert plain == ()  # it knows no tools: there is no next turn


def test_only_a_single_reply_that_was_read_to_its_end_is_prepared_for():
    chat = fresh()
    assert not chat.idle()
    complete(chat, [WHY], sampling=Sampling(n=2, max_tokens=4, seed=1))
    next(iter(chat.stream([WHY], sampling=Sampling(max_tokens=40, seed=1, logit_bias={151645: -99, 151643: -99}))))
    assert not chat.idle() and not chat.engine.warming
    complete(chat, [WHY], sampling=Sampling(max_tokens=4, seed=1))
    assert chat.idle() and chat.engine.warming
    while chat.idle():
        pass
    assert not chat.engine.warming and chat.engine.pool.unused == chat.engine.pool.size


def test_nothing_is_prepared_while_somebody_waits():
    chat = nonsense()
    complete(chat, [WHY], sampling=Sampling(max_tokens=4, seed=1))
    reply = chat.stream([WHY], sampling=Sampling(max_tokens=4, seed=1))
    before = chat.engine.forwards
    assert not chat.idle() and chat.engine.forwards == before
    list(reply)
    assert chat.idle()


def test_replies_while_another_thread_idles_are_those_without_it():
    wanted = [complete(fresh(), [Message(role="user", content=f"Why {i}?")], sampling=THINKS)[0] for i in range(4)]
    chat, over = fresh(), Event()

    def idle() -> None:
        while not over.is_set():
            chat.idle()

    thread = Thread(target=idle)
    thread.start()
    try:
        found = [complete(chat, [Message(role="user", content=f"Why {i}?")], sampling=THINKS)[0] for i in range(4)]
    finally:
        over.set()
        thread.join()
    assert [end.tokens for end in found] == [end.tokens for end in wanted]


def test_a_conversation_that_fills_the_context_is_left_alone():
    torch.manual_seed(0)
    engine = Engine(TorchBackend(tiny_qwen3().model, cache_bytes=3 * 16 * 2 * 16 * 4))
    chat = LocalChat(name="short", engine=engine, tokenizer=qwen_tokenizer(), form=FORMATS["qwen3"]())
    complete(chat, [WHY], sampling=Sampling(seed=random.Random(1).randrange(9), logit_bias={151645: -99, 151643: -99}))
    assert not chat.idle() and not engine.warming
