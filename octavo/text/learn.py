"""A tokenizer learnt from texts: byte-level BPE cut as Qwen's, with Qwen3's added tokens and its chat template."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Fast

from octavo.core.errors import TokenizerError
from octavo.text.families import QWEN2, qwen3_added
from octavo.text.tokenizer import Tokenizer

BYTES = 256
END_OF_TEXT, END_OF_TURN = "<|endoftext|>", "<|im_end|>"
TEMPLATE = Path(__file__).parent / "chat" / "qwen3.jinja"


def learn_tokenizer(texts: Iterable[str], *, size: int, context_tokens: int = 4096) -> Tokenizer:
    """The tokenizer whose merges shorten the texts most.

    size   tokens before the added ones (26 of them), at least 256: the bytes. Digits are always tokens of their own
    Raises TokenizerError for a smaller size. The same texts give the same tokenizer.
    """
    if size < BYTES:
        raise TokenizerError(f"size={size} is too small: the {BYTES} bytes are tokens already. Ask for more.")
    made = Fast(models.BPE())
    normalizer = QWEN2.normalizer()
    if normalizer is not None:
        made.normalizer = normalizer  # type: ignore[assignment]
    made.pre_tokenizer = QWEN2.pre_tokenizer()  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in qwen3_added()])
    config = {
        "tokenizer_class": "Qwen2Tokenizer", "eos_token": END_OF_TURN, "pad_token": END_OF_TEXT,
        "model_max_length": context_tokens, "chat_template": TEMPLATE.read_text(encoding="utf-8"),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        made.save(str(Path(folder) / "tokenizer.json"))
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return Tokenizer.from_folder(Path(folder))
