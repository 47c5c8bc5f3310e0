"""Tiny Qwen3 models as official checkpoint folders, made here: a tokenizer of their own, and weights.

`mini_qwen3` has learnt to talk (see mini_talks.py) in some seconds, once for all tests; `mini_random` talks nonsense in
the right format. Both need no file but these.
"""

import fcntl
import hashlib
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Fast

from octavo.core.messages import ToolSpec
from octavo.models import build
from octavo.models.decoder import Decoder
from octavo.nn.context import PackedContext
from octavo.nn.logprobs import surprise
from octavo.text.chat.base import Rendered
from octavo.text.chat.chatml import OPEN
from octavo.text.chat.hermes import system_turn
from octavo.text.chat.qwen3 import Qwen3
from octavo.text.families import QWEN2, qwen3_added
from octavo.text.tokenizer import Tokenizer
from octavo.weights.save import save_checkpoint
from tests.serve import mini_talks

SOURCES = (Path(__file__), Path(mini_talks.__file__))
WORDS, VOCABULARY = 800, 896  # tokens of its own; all that the model has, as official models more than there are
STEPS, MOST_STEPS, BATCH, RATE = 320, 800, 12, 5e-3
UNSEEN = range(1000, 1006)
Tell = Callable[[int], list[mini_talks.Talk]]  # talks, told differently for each number
LONG = tuple(span.text for span in system_turn(None, [ToolSpec(name="f")]) if span.trusted and len(span.text) > 99)


def config() -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": VOCABULARY, "hidden_size": 64,
        "intermediate_size": 160, "head_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 4096, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 1e4, "tie_word_embeddings": True,
    }  # fmt: skip


def mini_qwen3() -> Path:
    """The folder of the model that has learnt to talk: greedy, it says what stands in mini_talks.py."""
    return _made("talks", _train)


def mini_taught(name: str, talks: Tell) -> Path:
    """The folder of a model that has learnt other talks, for a purpose of its own. name: another for other talks."""
    return _made(name, lambda folder, model: _train(folder, model, talks=talks))


def mini_random() -> Path:
    """The folder of the model with random weights."""
    return _made("random", lambda folder, model: None)


def _made(name: str, train: Callable[[Path, Decoder], None]) -> Path:
    """Made when it is not there yet; several processes may ask at once: one makes it, the others wait."""
    made_by = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()[:12]
    place = Path(tempfile.gettempdir()) / f"octavo-mini-{name}-{os.getuid()}-{made_by}"
    with _locked(place.with_suffix(".lock")):
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=place.parent) as made:
                folder, words = Path(made) / "model", Path(made) / "words"
                torch.manual_seed(0)
                model = build(config())
                for parameter in model.parameters():
                    if parameter.dim() > 1:
                        torch.nn.init.normal_(parameter, std=0.1)
                words.mkdir()
                write_tokenizer(words)
                train(words, model)
                save_checkpoint(folder, model=model, config=config())
                for file in words.iterdir():
                    file.rename(folder / file.name)
                folder.rename(place)
    return place


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_tokenizer(folder: Path) -> None:
    """Byte-level BPE with Qwen3's added tokens, learnt from the talks."""
    made = Fast(models.BPE())
    made.normalizer, made.pre_tokenizer = QWEN2.normalizer(), QWEN2.pre_tokenizer()  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    texts = [_rendered(talk) for talk in _talks(0)]
    spoken = ("".join(" " if span.text in LONG else span.text for span in text.spans) for text in texts)
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(spoken, trainer)
    added = [*qwen3_added(), *((text, False) for text in LONG)]
    made.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in added])
    assert made.get_vocab_size() <= VOCABULARY
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    )


def _rendered(talk: mini_talks.Talk) -> Rendered:
    return Qwen3().render(talk.messages, tools=talk.tools, thinking=talk.thinking, reply=False)


def _talks(seed: int) -> list[mini_talks.Talk]:
    return mini_talks.talks(random.Random(seed))


Text = tuple[tuple[int, ...], tuple[float, ...]]  # tokens, and which of them a model writes


def _train(folder: Path, model: Decoder, *, talks: Tell = _talks) -> None:
    """Teach it the talks, until it says all of some that it has not seen, told in other ways, without a slip."""
    tokenizer = Tokenizer.from_folder(folder)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    threads, texts = torch.get_num_threads(), list[Text]()
    unseen = [text for seed in UNSEEN for text in _texts(tokenizer, talks(seed), seed=seed)]
    torch.set_num_threads(1)
    for step in range(MOST_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * max(0.1, min(1, (step + 1) / 30, 1.2 * (1 - step / STEPS)))
        texts = texts or _texts(tokenizer, talks(step), seed=step)
        batch = [texts.pop() for _ in range(min(BATCH, len(texts)))]
        logits_NV, targets_N = _written(model, batch)
        optimiser.zero_grad()
        surprise(logits_NV, targets_N).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step >= STEPS and step % 20 == 0 and not _slips(model, unseen):
            break
    torch.set_num_threads(threads)


def _written(model: Decoder, texts: list[Text]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the tokens that a model writes, and those tokens."""
    tokens_T = torch.tensor([token for tokens, _ in texts for token in tokens])
    written_T = torch.tensor([weight for _, weights in texts for weight in weights])
    hidden_TD = model(tokens_T, PackedContext([len(tokens) for tokens, _ in texts]))
    rows = (written_T[1:] > 0).nonzero().flatten()
    return model.logits(hidden_TD[rows]), tokens_T[rows + 1]


@torch.no_grad()
def _slips(model: Decoder, texts: list[Text]) -> int:
    logits_NV, targets_N = _written(model, texts)
    return int((logits_NV.argmax(-1) != targets_N).sum())


def _texts(tokenizer: Tokenizer, talks: Sequence[mini_talks.Talk], *, seed: int) -> list[Text]:
    """All talks once, in some order. Of each, the last turn is learnt."""
    texts, opening = list[Text](), tokenizer.id_of(OPEN)
    for talk in talks:
        tokens, weights = _rendered(talk).tokens_and_weights(tokenizer)
        last = max(i for i, token in enumerate(tokens) if token == opening)
        texts.append((tokens, (0.0,) * last + weights[last:]))
    return random.Random(seed).sample(texts, k=len(texts))
