"""Tokenizers from GGUF metadata: equal to `transformers` and `tokenizers`; a wrong field is one error that names it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, pre_tokenizers

from octavo.core.errors import TokenizerError
from octavo.text.families import GGUF_FAMILIES
from octavo.text.tokenizer import Tokenizer
from tests.text.samples import texts, trained

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5


@pytest.mark.slow
def test_smollm_from_gguf_equals_transformers(smollm: Tokenizer, smollm_file: Path, smollm_fields: dict[str, Any]):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(smollm_file.parent, gguf_file=smollm_file.name)
    # Their GGUF reader takes GPT-2's way of cutting words for every model it does not name. SmolLM2's own
    # tokenizer.json (and llama.cpp) make a word of each digit first, so that spaces before a digit stay together
    # and digits beyond ASCII never merge with a space.
    backend = theirs.backend_tokenizer
    different = 0
    for text in texts(1500, seed=6):
        ids, gpt2_cut = smollm.encode(text, special=True), backend.encode(text, add_special_tokens=False).ids
        different += ids != gpt2_cut
        assert ids == gpt2_cut or re.search(r"\s\s\d", text) or any(c.isnumeric() and not c.isascii() for c in text), (
            text
        )
    assert different  # else the next lines would be idle
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for text in texts(1500, seed=7):
        assert smollm.encode(text, special=True) == backend.encode(text, add_special_tokens=False).ids, text
    assert (smollm.bos_id, smollm.eos_id, smollm.vocab_size) == (theirs.bos_token_id, theirs.eos_token_id, len(theirs))
    assert smollm.special_ids == frozenset(range(17))
    assert smollm.chat_template == theirs.chat_template == smollm_fields["tokenizer.chat_template"]
    assert not smollm.adds_bos


def test_smollm_saved_to_a_folder_is_the_same(smollm: Tokenizer, tmp_path: Path):
    smollm.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    for text in texts(200, seed=8):
        assert again.encode(text, special=True) == smollm.encode(text, special=True)
        assert again.encode(text) == smollm.encode(text)
    for name in ("bos_id", "eos_id", "vocab_size", "special_ids", "added_ids", "chat_template", "adds_bos"):
        assert getattr(again, name) == getattr(smollm, name), name


def small_fields(pre: str, **more: Any) -> dict[str, Any]:
    """GGUF metadata of the small trained tokenizer: control and user-defined tokens, then unused padding."""
    document = json.loads(trained([]).to_str())
    tokens = list(document["model"]["vocab"])
    types = [1] * len(tokens) + [CONTROL, USER_DEFINED, UNUSED]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, "<|end|>", "<tool>", "[PAD602]"],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in document["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": len(tokens),
        **more,
    }


def test_gguf_token_types(flagged: Tokenizer):
    ours = Tokenizer.from_gguf_fields(small_fields("qwen2"))
    end, tool = ours.id_of("<|end|>"), ours.id_of("<tool>")
    assert end == ours.eos_id
    assert end is not None and tool == end + 1
    assert ours.vocab_size == end + 2  # unused ids at the end only pad the model's rows
    assert ours.special_ids == {end} and ours.added_ids == {end, tool}
    assert ours.encode("<|end|><tool>", special=True) == [end, tool]
    assert ours.decode([end, tool, tool + 1], skip_special=True) == "<tool>"


def test_every_way_of_cutting_words_equals_transformers():
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    names = sorted(GGUF_FAMILIES.keys() & GGUF_PRE_TOKENIZER_SPLITS.keys())
    assert {"qwen2", "llama-bpe"} <= set(names)
    for name in names:
        theirs = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), "isolated"),
                pre_tokenizers.ByteLevel(False, use_regex=False),
            ]
        )
        ours = GGUF_FAMILIES[name].pre_tokenizer()
        for text in texts(300, seed=9):
            assert ours.pre_tokenize_str(text) == theirs.pre_tokenize_str(text)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    for text in texts(300, seed=10):
        assert GGUF_FAMILIES["gpt-2"].pre_tokenizer().pre_tokenize_str(text) == gpt2.pre_tokenize_str(text)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("qwen2", ["Hi", ",", "Ġ", "1", "2", "3", "4", "5", "Ġ", "Ġx", "'S", "!", "Ċ"]),
        ("llama-bpe", ["Hi", ",", "Ġ", "123", "45", "Ġ", "Ġx", "'S", "!", "Ċ"]),
        ("gpt-2", ["Hi", ",", "Ġ12345", "Ġ", "Ġx", "'", "S", "!", "Ċ"]),
        ("smollm", ["Hi", ",", "Ġ", "1", "2", "3", "4", "5", "Ġ", "Ġx", "'", "S", "!", "Ċ"]),
        ("default", ["Hi", ",", "Ġ", "123", "45", "Ġ", "Ġx", "'", "S", "!", "Ċ"]),
    ],
)
def test_words_of_each_family(name: str, words: list[str]):
    found = [word for word, _ in GGUF_FAMILIES[name].pre_tokenizer().pre_tokenize_str("Hi, 12345  x'S!\n")]
    assert [piece for word in found for piece in ([word[:-1], "Ċ"] if word == "!Ċ" else [word])] == words


def test_llama_keeps_whole_words_and_begins_with_bos(tmp_path: Path):
    """`ignore_merges` of Llama 3: a word that is a token stays whole though no merge leads to it."""
    fields = small_fields("llama-bpe")
    fields["tokenizer.ggml.tokens"].insert(-3, "zzzqq")
    fields["tokenizer.ggml.token_type"].insert(0, 1)
    bos = fields["tokenizer.ggml.tokens"].index("<|end|>")
    fields |= {"tokenizer.ggml.bos_token_id": bos, "tokenizer.ggml.eos_token_id": bos}
    ours = Tokenizer.from_gguf_fields(fields)
    assert ours.encode("zzzqq") == [bos - 1]
    assert ours.adds_bos
    assert not Tokenizer.from_gguf_fields(fields | {"tokenizer.ggml.add_bos_token": False}).adds_bos
    ours.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert (again.adds_bos, again.bos_id, again.encode("zzzqq x")) == (True, bos, ours.encode("zzzqq x"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model is 'llama'"),
        ({"tokenizer.ggml.model": 3}, "tokenizer.ggml.model"),
        ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model is missing"),
        ({"tokenizer.ggml.pre": "martian"}, "'martian'"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre is None"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokenizer.ggml.tokens": "abc"}, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.tokens": ["a", 3]}, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.tokens": ["a"] * 700, "tokenizer.ggml.token_type": [1] * 700}, "both 'a'"),
        ({"tokenizer.ggml.tokens": [], "tokenizer.ggml.token_type": []}, "eos_token_id is"),
        ({"tokenizer.ggml.token_type": [1, 2]}, "token types"),
        ({"tokenizer.ggml.token_type": ["x"]}, "tokenizer.ggml.token_type"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges is missing"),
        ({"tokenizer.ggml.merges": ["ab"]}, "merge 0"),
        ({"tokenizer.ggml.merges": ["a b", "a  b"]}, "merge 1"),
        ({"tokenizer.ggml.merges": ["qqqq z"]}, "merge 0"),
        ({"tokenizer.ggml.eos_token_id": 1 << 40}, "eos_token_id"),
        ({"tokenizer.ggml.eos_token_id": -1}, "eos_token_id"),
        ({"tokenizer.ggml.bos_token_id": "1"}, "bos_token_id"),
        ({"tokenizer.ggml.add_bos_token": "yes"}, "add_bos_token"),
        ({"tokenizer.chat_template": ["x"]}, "chat_template"),
    ],
)
def test_bad_gguf_fields_give_one_error_that_names_the_key(change: dict[str, Any], named: str):
    with pytest.raises(TokenizerError, match=named):
        Tokenizer.from_gguf_fields(small_fields("qwen2") | change)
