"""A tiny Qwen3 as an official checkpoint folder, made here: a tokenizer of its own, random weights.

It talks nonsense in the right format, loads in a blink, and needs no file but this one.
"""

import json
import os
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer as Fast
from tokenizers import models, trainers

from octavo.models import build
from octavo.text.families import QWEN2, qwen3_added
from octavo.weights.save import save_checkpoint

TEXT = Path(__file__).read_text(encoding="utf-8")  # to learn some merges from
WORDS = 600


def config(vocab_size: int) -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": vocab_size, "hidden_size": 64,
        "intermediate_size": 128, "head_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 4096, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "tie_word_embeddings": True,
    }  # fmt: skip


def write_tokenizer(folder: Path, texts: list[str]) -> int:
    """Byte-level BPE with Qwen3's added tokens. Returns the number of ids."""
    made = Fast(models.BPE())
    made.normalizer, made.pre_tokenizer = QWEN2.normalizer(), QWEN2.pre_tokenizer()  # type: ignore[assignment]
    from tokenizers import decoders, pre_tokenizers

    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=WORDS, initial_alphabet=alphabet, show_progress=False)
    )
    from tokenizers import AddedToken

    made.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in qwen3_added()])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    )
    return made.get_vocab_size()


def mini_random() -> Path:
    """The folder, made when it is not there yet; several processes may ask at once."""
    place = Path(tempfile.gettempdir()) / f"octavo-mini-random-{os.getuid()}-1"
    if place.exists():
        return place
    with tempfile.TemporaryDirectory(dir=place.parent) as made:
        folder = Path(made) / "mini-qwen3"
        torch.manual_seed(0)
        vocab = 704 + 64  # more than the tokenizer has, as official models
        model = build(config(vocab))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
        save_checkpoint(folder, model=model, config=config(vocab))
        assert write_tokenizer(folder, [TEXT]) <= vocab
        try:
            folder.rename(place)
        except OSError:  # another process was faster
            assert place.exists()
    return place


def mini_qwen3() -> Path:
    """Until there is a trained one."""
    return mini_random()
