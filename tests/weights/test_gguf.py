"""GGUF: every type and family equals what `transformers` and the `gguf` package make of the same file."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from bench.parity import distance, packed, prompts, reference
from octavo.core.errors import CheckpointError, ConfigError
from octavo.models import read_config, skeleton
from octavo.models.decoder import Decoder
from octavo.nn.rope import Rope
from octavo.text.tokenizer import Tokenizer
from octavo.weights import default_model, gguf_config, load_weights, open_checkpoint
from octavo.weights.gguf_blocks import BLOCKS
from octavo.weights.gguf_config import banded_scaling
from octavo.weights.gguf_header import short_texts
from tests.weights.gguf_files import ARCHITECTURES, HEAD, TYPES, VOCAB, write_gguf


@pytest.fixture(autouse=True, scope="module")
def once() -> Iterator[None]:
    """The reference parses a file twice and makes its table of names per module: remembered, it is the same, sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", cache(gguf.GGUFReader))
        patch.setattr(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map))
        yield


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def read(path: Path) -> Decoder:
    checkpoint = open_checkpoint(path)
    model = skeleton(checkpoint.config)
    load_weights(checkpoint, model, dtype=torch.float32)
    return model.eval()


def theirs(path: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """Config and tensors as `transformers` loads them: what `from_pretrained(gguf_file=)` calls, less `accelerate`."""
    values = load_gguf_checkpoint(path)["config"]
    if values["model_type"].startswith("qwen3"):  # it leaves these two keys unread and takes its defaults
        values |= {"head_dim": HEAD} | ({"moe_intermediate_size": 256} if "moe" in values["model_type"] else {})
    config = transformers.AutoConfig.for_model(**values)
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(config)
    return config, load_gguf_checkpoint(path, return_tensors=True, model_to_load=empty)["tensors"]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_type_and_family_loads_as_in_transformers(architecture: str, kind: str, tmp_path: Path):
    tied = TYPES.index(kind) % 2 == 0
    made = write_gguf(tmp_path / "tiny.gguf", architecture, kind=kind, tied=tied)
    mine, (config, wanted) = read(tmp_path / "tiny.gguf"), theirs(tmp_path / "tiny.gguf")
    found = dict(mine.named_parameters())
    assert found.keys() == wanted.keys() and tied == ("lm_head.weight" not in wanted)
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name]), name
    if kind == "F32":
        for name, tensor in made.state_dict().items():
            assert name not in found or torch.equal(found[name], tensor), name
    other = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    other.load_state_dict(wanted, strict=not tied)
    sequences = [[t % VOCAB for t in tokens[:90]] for tokens in prompts(0)]
    assert distance(packed(mine, sequences), reference(other, sequences)) < 1e-4
    if kind not in ("Q4_K", "Q5_K", "Q6_K"):  # those were made of random bytes, not of the model
        error = torch.cat([(found[n] - t).flatten() for n, t in made.state_dict().items() if n in found]).abs().max()
        assert error < 0.1


def test_the_packaged_model_equals_transformers_tensor_by_tensor():
    path = default_model()
    checkpoint = open_checkpoint(path)
    _, wanted = theirs(path)
    assert set(checkpoint.names) == wanted.keys() and checkpoint.config["tie_word_embeddings"]
    for name in checkpoint.names:
        assert torch.equal(checkpoint.read(name), wanted[name]), name
        checkpoint.release(name)
    tokenizer = Tokenizer.from_gguf_fields(checkpoint.tokenizer_source)  # type: ignore[arg-type]
    assert tokenizer.decode(tokenizer.encode("Zwölf Boxkämpfer.")) == "Zwölf Boxkämpfer."
    assert checkpoint.generation_config == {"bos_token_id": 1, "eos_token_id": 2}


def test_metadata_equals_the_packages_own_reader():
    path = default_model()
    fields, reader = open_checkpoint(path).tokenizer_source, gguf.GGUFReader(path)
    assert isinstance(fields, dict)
    assert fields.keys() == {key for key in reader.fields if not key.startswith("GGUF.")}
    for key in fields:
        if not isinstance(fields[key], list) or len(fields[key]) < 1000:
            assert (
                reader.fields[key].contents() == pytest.approx(fields[key])
                or reader.fields[key].contents() == fields[key]
            )


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_llama3_scaling_comes_back_from_its_table(factor: float):
    rope = Rope(width=128, theta=5e5, kind="llama3", factor=factor, low=1.0, high=4.0, original=8192)
    factors = Rope(width=128, theta=5e5).frequencies()[0] / rope.frequencies()[0]
    found = banded_scaling(factors, width=128, theta=5e5)
    assert found["rope_type"] == "llama3" and found["factor"] == factor
    assert banded_scaling(np.ones(64, np.float32), width=128, theta=5e5) == {}
    with pytest.raises(ConfigError, match="not Llama 3's scaling"):
        banded_scaling(factors[::-1], width=128, theta=5e5)


def test_yarn_and_unknown_keys(tmp_path: Path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, "qwen3", extra={"qwen3.rope.scale_linear": 2.0})
    assert open_checkpoint(path).config["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    write_gguf(path, "qwen3", extra={"qwen3.attention.sliding_window": 64})
    with pytest.raises(ConfigError, match=r"qwen3.attention.sliding_window=64 is not understood"):
        open_checkpoint(path)
    write_gguf(path, "qwen3", extra={"qwen3.rope.dimension_count": 32})
    with pytest.raises(ConfigError, match="equally wide"):
        open_checkpoint(path)


def test_a_width_of_heads_that_is_no_number_is_one_clear_error():
    fields = {"general.architecture": "qwen3", "qwen3.embedding_length": 64, "qwen3.attention.head_count": 4}
    with pytest.raises(ConfigError, match="head_dim=nan was found"):
        read_config(gguf_config.read_config(fields | {"qwen3.attention.key_length": float("nan")}, {}))


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"type": "none", "factor": 4.0}, None), ({"type": "linear"}, None), ({"factor": 0.0}, None),
        ({"factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"type": "yarn", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0}),
    ],
)  # fmt: skip
def test_scaling_is_read_as_llama_cpp_reads_it(tmp_path: Path, keys: dict[str, Any], wanted: dict[str, Any] | None):
    write_gguf(tmp_path / "tiny.gguf", "qwen3", extra={f"qwen3.rope.scaling.{key}": keys[key] for key in keys})
    assert open_checkpoint(tmp_path / "tiny.gguf").config.get("rope_scaling") == wanted


def test_frequencies_that_are_scaled_twice_are_refused(tmp_path: Path):
    rope = Rope(width=HEAD, theta=1e6, kind="llama3", factor=8.0, low=1.0, high=4.0, original=8192)
    bands = Rope(width=HEAD, theta=1e6).frequencies()[0] / rope.frequencies()[0]
    path = tmp_path / "tiny.gguf"
    write_gguf(path, "llama", bands=bands)
    assert open_checkpoint(path).config["rope_scaling"]["rope_type"] == "llama3"
    write_gguf(path, "llama", bands=bands, extra={"llama.rope.scale_linear": 2.0})
    with pytest.raises(ConfigError, match=r"rope_freqs.weight and rope scaling .*linear.* one of the two"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value", "taken"),
    [
        ("attention.causal", False, False), ("attention.causal", True, True),
        ("expert_weights_norm", False, False), ("expert_weights_norm", True, True),
        ("expert_gating_func", 0, False), ("expert_gating_func", 2, False),
        ("expert_weights_scale", 2.5, False), ("expert_weights_scale", 0.0, True),  # llama.cpp's "not given"
        ("attention.sliding_window", 0, True),
    ],
)  # fmt: skip
def test_what_is_switched_off_is_refused_where_it_changes_answers(tmp_path: Path, key: str, value: float, taken: bool):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, "qwen3moe", extra={f"qwen3moe.{key}": value})
    if taken:
        assert open_checkpoint(path).config["norm_topk_prob"]
        return
    with pytest.raises(ConfigError, match=f"qwen3moe.{key}={value} is not understood"):
        open_checkpoint(path)


def test_types_that_are_not_read_say_so(tmp_path: Path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, "qwen3", kind="F16")
    with pytest.raises(CheckpointError, match=r"stored as GGUF type 2\d, Octavo reads F32"):
        data = path.read_bytes()
        name = b"blk.0.attn_q.weight"
        place = data.index(name) + len(name) + 4 + 16
        path.write_bytes(data[:place] + (20).to_bytes(4, "little") + data[place + 4 :])
        open_checkpoint(path)


def test_the_tables_of_block_types_are_the_packages():
    for name, block in BLOCKS.items():
        kind = gguf.GGMLQuantizationType[name]
        assert (kind.value, *gguf.GGML_QUANT_SIZES[kind]) == block, name


@pytest.mark.parametrize("architecture", ["llama", "qwen3moe"])
@pytest.mark.parametrize("kind", TYPES)
def test_rows_of_blocks_stand_for_the_rows_of_numbers(architecture: str, kind: str, tmp_path: Path):
    """`raw` is in the official order as `array` is, queries and keys of the Llama family too."""
    write_gguf(tmp_path / "tiny.gguf", architecture, kind=kind)
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    for name in checkpoint.names:
        raw, numbers, stored = checkpoint.raw(name), checkpoint.array(name), checkpoint.dtype_name(name)
        assert raw.dtype == np.uint8 and len(raw) == np.prod(checkpoint.shape(name)[:-1])
        alone = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[stored]).reshape(checkpoint.shape(name))
        assert torch.equal(checkpoint.read(name).float(), torch.from_numpy(alone)), name
        if stored == "BF16":
            assert numbers.dtype == np.uint16 and torch.equal(
                torch.from_numpy(numbers).view(torch.bfloat16), checkpoint.read(name)
            )
        else:
            assert np.array_equal(numbers, checkpoint.read(name).numpy()), name


def test_plain_numbers_are_views_of_the_file(tmp_path: Path):
    write_gguf(tmp_path / "tiny.gguf", "qwen3", kind="BF16")
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert np.shares_memory(checkpoint.array(name), checkpoint.array(name))
    assert np.shares_memory(checkpoint.raw(name), checkpoint.array(name))


@given(
    texts=st.lists(st.text(max_size=70) | st.text(min_size=250, max_size=260), max_size=12),
    after=st.binary(max_size=12), cut=st.integers(0, 20),
)  # fmt: skip
def test_strings_read_at_once_are_those_of_the_walk(texts: list[str], after: bytes, cut: int):
    """Whatever is in them; and where the short way does not take them, it takes none."""
    encoded = [text.encode() for text in texts]
    whole = b"".join(len(text).to_bytes(8, "little") + text for text in encoded)
    data = np.frombuffer(whole[: max(0, len(whole) - cut)] if cut else whole + after, np.uint8)
    found, size = short_texts(data, len(texts))
    plain = all(0 < len(text) < 256 and 0 not in text for text in encoded)
    assert found is None or (found, size) == (texts, len(whole))
    assert (found is not None) == (not texts or (plain and not cut))


def test_a_string_that_is_no_text_is_left_to_the_walk():
    assert short_texts(np.frombuffer(b"\x01" + bytes(7) + b"\xff", np.uint8), 1) == (None, 0)
