"""Texts, and a small tokenizer made by `tokenizers` itself, that several tests of the tokenizer read."""

import random

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PROSE = [
    "The quick brown fox doesn't jump; it's I'LL and WE'VE over 1234567890 lazy dogs -- 3.14159!",
    "杭州西湖的天气今天很好，气温二十一度。東京は雨です。한국어도 됩니다",
    "مرحبا بالعالم ١٢٣ नमस्ते दुनिया १२३ שלום ไทยแลนด์ Ελληνικά Привет",
    "def f(x):\n    if x:\r\n\treturn {'a': [1, 2], \"b\": x ** 2}  # ok\n\n\nclass A: pass\n",
    "   leading, trailing   \n \n\n  \t\t mixed \u00a0 and \u3000 wide  ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 e\u0301 \u0041\u030a ﬁ ² ½ Ⅷ ㎏",
    "<|im_start|>user\nhi<|im_end|> <think> </tool_call> <|endoftext|>",
    "https://example.org/a?b=c&d=%20#frag foo_bar camelCase $100,000.00 §12(3)",
    "",
    " ",
    "\n",
]


def texts(count: int, seed: int) -> list[str]:
    """The fixed texts and random mixtures of their pieces."""
    random_ = random.Random(seed)
    pieces = [word for line in PROSE for word in line.split(" ")] + ["  ", "\n\n", "\t", "12", " 7", "'s", "\r\n"]
    mixed = ["".join(random_.choices([*pieces, " ", " "], k=random_.randint(1, 25))) for _ in range(count)]
    return PROSE + mixed


FLAGGED = [
    AddedToken("<left>", lstrip=True, normalized=False, special=True),
    AddedToken("<right>", rstrip=True, normalized=False, special=False),
    AddedToken("<both>", lstrip=True, rstrip=True, normalized=False, special=True),
    AddedToken("word", single_word=True, normalized=False, special=False),
    AddedToken("<nfc é>", normalized=True, special=False),
    AddedToken("<a>", normalized=False, special=True),
    AddedToken("<a><a>", normalized=False, special=False),
]


def trained(added: list[AddedToken] = FLAGGED) -> tokenizers.Tokenizer:
    """A small byte-level BPE tokenizer made by `tokenizers` itself."""
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(PROSE * 2, trainer)
    made.add_tokens(added)
    return made
