"""The law of the next turn, counted by `make laws`: it finds all of its history, and says what a cold engine says."""

import random
import tempfile
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from octavo.chat.local import LocalChat
from octavo.chat.next_turn import Conversation
from octavo.core.chat import complete
from octavo.core.messages import Message
from octavo.core.sampling import Sampling, Thinking
from octavo.engine.engine import Engine
from octavo.engine.torch_backend import TorchBackend
from octavo.models.decoder import Decoder
from octavo.text.chat import FORMATS
from octavo.text.tokenizer import Tokenizer

SHARE = 0.99  # of the history's tokens that the next turn finds at least: bar 9
CACHE_BYTES = 1 << 24
ON, OFF, AUTO = Thinking(mode="on", budget_tokens=12), Thinking(mode="off"), Thinking(budget_tokens=12)
MODES = {"qwen3": (ON, OFF), "qwen3_thinking": (AUTO,), "qwen3_instruct": (OFF,), "smollm2": (AUTO,)}
WORDS = ("\n\nWhy", " the rain", "?", "\n", " falls in", "er", " 12", "猫", "...", " /no_think", "<think>")


def small_tokenizer() -> Tokenizer:
    """All bytes, a few merges, and the control tokens of Qwen3."""
    ranks = [bytes([byte]) for byte in range(256)] + [b"\n\n", b"th", b" t", b"in", b"er", b" \n", b"an", b"re"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.tiktoken")
        path.write_bytes(b"".join(b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ranks)))
        return Tokenizer.from_tiktoken(path)


def talk(chat: LocalChat, turns: Iterable[tuple[str, Thinking]], *, sampling: Sampling) -> dict[str, int]:
    """Hold a conversation and idle between turns. Raises AssertionError where a turn does not find its history.

    Of the greedy replies each must be that of a cold engine, which has the same weights and knows nothing.
    """
    backend, said = chat.engine.backend, list[Message]()
    assert isinstance(backend, TorchBackend)
    figures = dict.fromkeys(("turns", "thinking tokens", "history tokens", "of them found", "computed meanwhile"), 0)
    for text, thinking in turns:
        said.append(Message(role="user", content=text))
        prompt = Conversation(messages=tuple(said), thinking=thinking).tokens(chat.form, chat.tokenizer)
        history = [i for i, token in enumerate(prompt) if token == chat.markers.turn_open][-2] if said[1:] else 0
        own = replace(sampling, logit_bias=sampling.logit_bias if thinking != OFF else {})
        end = complete(chat, said, sampling=own, thinking=thinking)[0]
        engine = Engine(TorchBackend(backend.model, cache_bytes=CACHE_BYTES, page_tokens=backend.page_tokens))
        cold = LocalChat(name="cold", engine=engine, tokenizer=chat.tokenizer, form=chat.form)
        assert end.tokens == complete(cold, said, sampling=own, thinking=thinking)[0].tokens, said
        assert end.usage.cached_tokens >= SHARE * history, (end.usage.cached_tokens, history, said)
        before = chat.engine.computed_tokens
        said.append(end.message)
        while chat.idle():
            pass
        figures["turns"] += 1
        figures["thinking tokens"] += end.usage.thinking_tokens
        figures["history tokens"] += history
        figures["of them found"] += min(history, end.usage.cached_tokens)
        figures["computed meanwhile"] += chat.engine.computed_tokens - before
    return figures


def next_turns_find_their_history(model: Decoder, tokenizer: Tokenizer, *, count: int) -> dict[str, int]:
    """Conversations in all formats, with thinking and without, and changing between the two."""
    rng, total = random.Random(4), {"conversations": 0}
    opening = {id: 99.0 for id in (tokenizer.id_of("<think>"),) if id is not None}
    while total["conversations"] < count:
        name = rng.choice(list(MODES))
        engine = Engine(TorchBackend(model, cache_bytes=CACHE_BYTES, page_tokens=rng.choice([1, 4, 16, 32])))
        chat = LocalChat(name=name, engine=engine, tokenizer=tokenizer, form=FORMATS[name]())
        texts = ["".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(rng.randint(2, 5))]
        turns = [(text, rng.choice(MODES[name])) for text in texts]
        sampling = Sampling(temperature=0, repetition_penalty=1.3, max_tokens=rng.randint(1, 60),
                            logit_bias=opening if name == "qwen3" else {})  # fmt: skip
        found = talk(chat, turns, sampling=sampling)
        total |= {key: total.get(key, 0) + value for key, value in found.items()}
        total["conversations"] += 1
        assert engine.pool.unused == engine.pool.size and not engine.warming
    return total


def law(count: int) -> dict[str, int]:
    """With a tiny Qwen3 of random weights, in fp32."""
    from bench.laws import tiny_model

    tokenizer = small_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer.vocabulary(size=320, end=0).tokens))
    assert isinstance(model, Decoder)
    return next_turns_find_their_history(model, tokenizer, count=count)
