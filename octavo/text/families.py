r"""How each tokenizer family cuts text into words before byte-pair merging, and which added tokens Qwen3 has.

A family is regular expressions that cut one after the other (each match is a word, so is what lies between matches).
Sources: `tokenizer.json` of Qwen3, Llama 3 and SmolLM2; for names in GGUF, the pre-tokenizers of llama.cpp.
"""

from dataclasses import dataclass
from functools import cache

from tokenizers import Regex, normalizers, pre_tokenizers

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What a tokenizer does around its merges.

    cuts          regular expressions, applied in order
    nfc           text is normalised to NFC first
    whole_words   a word that is itself a token stays whole, whatever the merges say
    adds_bos      a plain prompt begins with the bos token, where the file does not say otherwise
    """

    cuts: tuple[str, ...]
    nfc: bool = False
    whole_words: bool = False
    adds_bos: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """The cuts, then bytes spelled as printable characters."""
        cuts = [pre_tokenizers.Split(Regex(cut), behavior="isolated") for cut in self.cuts]
        return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    def normalizer(self) -> normalizers.Normalizer | None:
        """NFC or nothing."""
        return normalizers.NFC() if self.nfc else None


QWEN2 = Family(cuts=(_QWEN2,), nfc=True)
LLAMA3 = Family(cuts=(_LLAMA3,), whole_words=True, adds_bos=True)
GPT2 = Family(cuts=(_GPT2,))
DIGITS = Family(cuts=(r"\p{N}", _GPT2))  # every digit is a word, so spaces before it are a word of their own
DEFAULT = Family(cuts=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))

GGUF_FAMILIES: dict[str, Family] = {  # by `tokenizer.ggml.pre`
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "gpt-2": GPT2,
    "phi-2": GPT2,
    "olmo": GPT2,
    "mpt": GPT2,
    "jais": GPT2,
    "smollm": DIGITS,
    "starcoder": DIGITS,
    "refact": DIGITS,
    "codeshell": DIGITS,
    "command-r": DIGITS,
    "default": DEFAULT,
}

FOLDER_FAMILIES: dict[str, Family] = {  # by `tokenizer_class` or `model_type`, for vocab.json + merges.txt
    "Qwen2Tokenizer": QWEN2,
    "Qwen2TokenizerFast": QWEN2,
    "qwen2": QWEN2,
    "qwen2_moe": QWEN2,
    "qwen3": QWEN2,
    "qwen3_moe": QWEN2,
    "GPT2Tokenizer": GPT2,
    "GPT2TokenizerFast": GPT2,
    "gpt2": GPT2,
}

_CONTROL = (
    "endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start",
    "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad",
)  # fmt: skip
_FILES = ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep")


@cache
def qwen3_added() -> tuple[tuple[str, bool], ...]:
    """The 26 added tokens of Qwen3 in the order of their ids, which follow the 151,643 ranks.

    True: a control token, left out of decoded text. Qwen2.5 has the first 22. Source: tokenizer_config.json of Qwen3.
    """

    def tags(name: str) -> tuple[tuple[str, bool], ...]:
        return (f"<{name}>", False), (f"</{name}>", False)

    control, files = (tuple(f"<|{name}|>" for name in names) for names in (_CONTROL, _FILES))
    return (
        *((literal, True) for literal in control), *tags("tool_call"), *((literal, False) for literal in files),
        *tags("tool_response"), *tags("think"),
    )  # fmt: skip
