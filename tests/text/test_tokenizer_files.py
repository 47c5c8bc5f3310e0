"""Tokenizers from folders: what the files beside them say, and broken files: one error each that names the fault."""

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import processors

from octavo.core.errors import TokenizerError
from octavo.text.tokenizer import Tokenizer
from tests.text.samples import PROSE, texts, trained


def folder_with(tmp_path: Path, document: dict[str, Any], **configs: Any) -> Path:
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    for name, config in configs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config), "utf-8")
    return tmp_path


def test_what_the_configs_beside_the_tokenizer_say(small: tokenizers.Tokenizer, tmp_path: Path):
    document = json.loads(small.to_str())
    size = small.get_vocab_size()
    config = {
        "eos_token": {"content": "<a>"},
        "bos_token": None,
        "chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}],
        "added_tokens_decoder": {str(size): {"content": "<new>", "special": True, "rstrip": True}},
        "auto_map": {"AutoTokenizer": ["their_code.Tokenizer"]},
    }
    folder = folder_with(tmp_path, document, tokenizer_config=config, config={"bos_token_id": 3, "eos_token_id": 4})
    ours = Tokenizer.from_folder(folder)
    assert (ours.eos_id, ours.bos_id, ours.chat_template) == (small.token_to_id("<a>"), None, "D")
    assert ours.encode("<new>  x", special=True) == [size, *ours.encode("x")]
    assert size in ours.special_ids
    (folder / "chat_template.jinja").write_text("J", "utf-8")
    assert Tokenizer.from_folder(folder).chat_template == "J"
    (folder / "tokenizer_config.json").unlink()
    ours = Tokenizer.from_folder(folder)
    assert (ours.bos_id, ours.eos_id) == (3, 4)


def test_post_processor_truncation_and_padding_of_the_file_do_not_reach_encode(
    small: tokenizers.Tokenizer, tmp_path: Path
):
    theirs = tokenizers.Tokenizer.from_str(small.to_str())
    bos = ("<a>", small.token_to_id("<a>"))
    theirs.post_processor = processors.TemplateProcessing(single="<a> $A", special_tokens=[bos])
    theirs.enable_truncation(3)
    theirs.enable_padding(length=9)
    folder = folder_with(tmp_path, json.loads(theirs.to_str()), tokenizer_config={"bos_token": "<a>"})
    ours = Tokenizer.from_folder(folder)
    assert ours.encode(PROSE[0]) == small.encode(PROSE[0]).ids
    assert ours.adds_bos
    (again := tmp_path / "again").mkdir()
    ours.save(again)
    assert Tokenizer.from_folder(again).adds_bos


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 0}, "Unigram"),
        ({"vocab": {}}, "empty vocabulary"),
        ({"vocab": {"a": -1}, "merges": []}, "ids from -1"),
        ({"vocab": {"a": 1 << 31}, "merges": []}, "ids from"),
        ({"vocab": {"a": 1 << 90}, "merges": []}, "tokenizer.json"),
        ({"vocab": {"a": 1, "b": 1}, "merges": []}, "gives id 1"),
        ({"vocab": {"a": "x"}, "merges": []}, "tokenizer.json"),
        ({"merges": ["a"]}, "merge 0"),
        ({"merges": [["a", ""]]}, "merge 0"),
        ({"merges": ["nowhere a"]}, "merge 0"),
        ({"merges": 3}, "tokenizer.json"),
        ({"byte_fallback": True}, "byte tokens"),
        ({"end_of_word_suffix": "</w>"}, "ends of words"),
    ],
)
def test_a_broken_model_gives_one_error(
    change: dict[str, Any], named: str, small: tokenizers.Tokenizer, tmp_path: Path
):
    document = json.loads(small.to_str())
    document["model"] |= change
    with pytest.raises(TokenizerError, match=named):
        Tokenizer.from_folder(folder_with(tmp_path, document))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"decoder": {"type": "WordPiece", "prefix": "##"}}, "WordPiece"),
        ({"decoder": None}, "decoder None"),
        ({"normalizer": {"type": "Telepathy"}}, "tokenizer.json"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}}, "tokenizer.json"),
        ({"added_tokens": [{"id": 3, "content": "<b>"}]}, "id 3"),
        ({"added_tokens": [{"id": 9999, "content": ""}]}, "9999"),
        ({"added_tokens": [{"id": 1 << 33, "content": "<b>"}]}, "ids from"),
        ({"added_tokens": [{"content": "<b>"}]}, "added_tokens"),
        ({"model": None}, "model"),
    ],
)
def test_a_broken_shell_gives_one_error(
    change: dict[str, Any], named: str, small: tokenizers.Tokenizer, tmp_path: Path
):
    with pytest.raises(TokenizerError, match=named):
        Tokenizer.from_folder(folder_with(tmp_path, json.loads(small.to_str()) | change))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"eos_token": "<nowhere>"}, "<nowhere>"),
        ({"chat_template": 3}, "chat_template"),
        ({"chat_template": [3]}, "tokenizer_config"),
        ({"added_tokens_decoder": {"x": {"content": "y"}}}, "tokenizer_config"),
        ({"added_tokens_decoder": {"700": {"content": 5}}}, "tokenizer_config"),
        ({"added_tokens_decoder": {"3": {"content": "<z>"}}}, "id 3"),
        ([], "tokenizer_config"),
    ],
)
def test_a_broken_config_gives_one_error(config: Any, named: str, small: tokenizers.Tokenizer, tmp_path: Path):
    with pytest.raises(TokenizerError, match=named):
        Tokenizer.from_folder(folder_with(tmp_path, json.loads(small.to_str()), tokenizer_config=config))


def test_ids_with_gaps_are_kept(small: tokenizers.Tokenizer, tmp_path: Path):
    document = json.loads(small.to_str())
    document["added_tokens"] = [{"id": 5000, "content": "<far>", "special": True}]
    ours = Tokenizer.from_folder(folder_with(tmp_path, document))
    assert ours.encode("<far>x", special=True) == [5000, *ours.encode("x")]
    assert (ours.vocab_size, ours.token_bytes(4999), ours.token_bytes(5001)) == (5001, b"", b"")


def test_vocab_and_merges_need_a_known_family_and_good_lines(small: tokenizers.Tokenizer, tmp_path: Path):
    model = json.loads(small.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    lines = [" ".join(pair) for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines), "utf-8")
    with pytest.raises(TokenizerError, match="cut into words"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|x|>": len(model["vocab"])}))
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<|x|>"}')
    ours = Tokenizer.from_folder(tmp_path)
    assert ours.eos_id == len(model["vocab"]) and ours.special_ids == {ours.eos_id}
    bare = trained([])
    for text in texts(200, seed=11):
        assert ours.encode(text) == bare.encode(text, add_special_tokens=False).ids
    for bad in ("a", "a b c", " a", "nowhere a", "\udcff"):
        text = "\n".join([*lines, bad])
        (tmp_path / "merges.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(TokenizerError, match=r"merge|UTF-8"):
            Tokenizer.from_folder(tmp_path)


def test_an_empty_folder_says_what_is_needed(tmp_path: Path):
    with pytest.raises(TokenizerError, match=r"neither tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(TokenizerError, match="cannot be read"):
        Tokenizer.from_tiktoken(tmp_path / "absent.tiktoken")


def byte_ranks(*more: bytes) -> bytes:
    lines = [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)]
    return b"\n".join([*lines, *more]) + b"\n"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "no rank 0"),
        (b"\x00\xff garbage \n", "line 1"),
        (byte_ranks(b"YWI= 256", b"YWM= 256"), "line 258: rank 256 occurs twice"),
        (byte_ranks(b"YWI= 256", b"YWI= 257"), "occurs twice"),
        (byte_ranks(b"YWI= 300"), "no rank 256"),
        (byte_ranks(b"Y$I= 256"), "not base64"),
        (byte_ranks(b"YW= 256"), "not base64"),
        (byte_ranks(b"YWI= -1"), "line 257"),
        (byte_ranks(b"YWI= 99999999999999999999"), "line 257"),
        (byte_ranks(b"YWI="), "line 257"),
        (byte_ranks(b"QUFB" * 2000 + b" 256"), "token of 6000 bytes"),
        (b"YQ== 0\n", "byte 0x00"),
    ],
)
def test_broken_rank_files_give_one_error_that_names_the_line(data: bytes, named: str, tmp_path: Path):
    (tmp_path / "x.tiktoken").write_bytes(data)
    with pytest.raises(TokenizerError, match=named):
        Tokenizer.from_tiktoken(tmp_path / "x.tiktoken")


def test_a_rank_file_in_a_folder_and_a_token_no_merge_leads_to(tmp_path: Path):
    (tmp_path / "x.tiktoken").write_bytes(byte_ranks(b"YWI= 256", b"eHl6 257"))  # "ab", and "xyz" without "xy" or "yz"
    ours = Tokenizer.from_folder(tmp_path)
    assert ours.encode("ab xyz") == [256, 32, 120, 121, 122]
    assert ours.encode("xyz") == [257]
    assert ours.id_of("<|im_end|>") == ours.eos_id == 260
    assert ours.vocab_size == 258 + 26
    config = {"added_tokens_decoder": {"258": {"content": "<x>", "special": True}}, "eos_token": "<x>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = Tokenizer.from_folder(tmp_path)
    assert (ours.vocab_size, ours.eos_id, ours.encode("ab<x>", special=True)) == (259, 258, [256, 258])


@pytest.mark.slow
def test_two_thousand_mutated_files_load_or_say_why_not(small_folder: Path, tmp_path: Path):
    random_ = random.Random(12)
    good = {"tokenizer.json": (small_folder / "tokenizer.json").read_bytes(), "x.tiktoken": byte_ranks(b"YWI= 256")}
    refused = 0
    for round_ in range(2000):
        name = random_.choice(["tokenizer.json", "tokenizer.json", "x.tiktoken"])
        data = bytearray(good[name])
        if round_ % 3 == 0:
            del data[random_.randrange(len(data)) :]
        for _ in range(random_.randint(1, 5) if round_ % 3 else 0):
            at = random_.randrange(len(data))
            junk = random_.choice([b"", b"null", b"-1", b'"', b"[]", b"9" * 12, random_.randbytes(3), data[:20]])
            data[at : at + random_.randint(0, 8)] = junk
        folder = tmp_path / f"{round_}"
        folder.mkdir()
        (folder / name).write_bytes(bytes(data))
        try:
            ours = Tokenizer.from_folder(folder)
        except TokenizerError as error:
            refused += 1
            assert len(str(error)) < 2000 and str(error).isprintable()
        else:
            assert ours.vocab_size < 1 << 22
            ours.decode(ours.encode("any text, 12 <a>", special=True))
    assert 1000 < refused < 2000
