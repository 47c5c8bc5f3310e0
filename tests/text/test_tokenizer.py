"""Laws: ids equal those of independent references, text survives the round trip, nobody forges a control token."""

import json
import random
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from octavo.core.errors import TokenizerError
from octavo.text.families import qwen3_added
from octavo.text.tokenizer import Tokenizer
from tests.text.samples import FLAGGED, QWEN_PATTERN, texts, trained

BUDGET_TEXT = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
    "</think>\n\n"
)
BUDGET_IDS = [
    271, 82796, 279, 7199, 882, 553, 279, 1196, 11, 358, 614, 311, 2968, 279, 6291, 3118, 389, 279, 7274, 5961, 1431,
    624, 151668, 271,
]  # fmt: skip


# --- the rank file of Qwen -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen_folder(qwen: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    qwen.save(folder)
    return folder


@pytest.fixture(scope="module")
def qwen_reference(qwen_ranks: Path) -> tokenizers.Tokenizer:
    """The converter of `transformers`: its own reading of ranks (every way to split a token is a merge)."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Converter(TikTokenConverter):
        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            import base64

            lines = (line.split() for line in Path(tiktoken_url).read_bytes().splitlines())
            return {base64.b64decode(token): int(rank) for token, rank in lines}

    made = Converter(vocab_file=str(qwen_ranks), pattern=QWEN_PATTERN).converted()
    made.normalizer = normalizers.NFC()
    made.add_tokens([AddedToken(token, special=special, normalized=False) for token, special in qwen3_added()])
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


@pytest.mark.parametrize(
    "spans",
    [
        [("a ab ", True), ("q q", False)], [("q q", False), (" ab", True), ("!", False)], [("ab", True), (" q", False)],
        [("q", False), ("ab", True)], [("a ab", True), ("q", False)], [("abe\u0301!", True), ("q", False)],
    ],
)  # fmt: skip
def test_a_single_word_is_one_by_its_literal_whatever_white_space_goes_with_it(
    tmp_path: Path, spans: list[tuple[str, bool]]
):
    word = AddedToken("ab", single_word=True, lstrip=True, rstrip=True, normalized=True)
    made = trained([word, AddedToken("e\u0301!", normalized=False)])
    made.save(str(tmp_path / "tokenizer.json"))
    whole = made.encode("".join(text for text, _ in spans), add_special_tokens=False).ids
    assert Tokenizer.from_folder(tmp_path).encode_spans(spans) == whole


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


def test_half_a_surrogate_pair_is_refused(flagged: Tokenizer):
    for encode in (flagged.encode, lambda text: flagged.encode_spans([(text, True), ("x", False)])):
        with pytest.raises(TokenizerError, match=r"character 2 of the text is U\+D83D"):
            encode("ab\ud83d")
