"""Quantising whole models: functions that must stay, errors that must fall, files that must come back."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench import parity
from octavo.core.errors import CheckpointError
from octavo.models.decoder import Decoder
from octavo.nn.quant import Int4Weight, Int8Weight, quantise_w4, quantise_w8, round_w4, round_w8
from octavo.weights import open_checkpoint
from octavo.weights.balance import balance
from octavo.weights.gptq import gptq_w4, gptq_w8
from octavo.weights.quantise import Quantised, Recipe, quantise
from octavo.weights.quantised_file import packed4, read_quantised, unpacked
from octavo.weights.rotate import rotate_layer, rotation_of, turned
from octavo.weights.save_quantised import save_quantised
from octavo.weights.stream import Stream

FAMILIES = ["Qwen3, tied", "Qwen3", "Qwen3-MoE", "Qwen2.5, tied", "Llama, biases"]


def model(family: str, folder: Path) -> Decoder:
    if not (folder / "model").exists():
        parity.write(parity.oracle(family), folder, layout=parity.layouts(family)[0])
    return parity.read(folder / "model")


def texts(count: int, seed: int) -> list[torch.Tensor]:
    return [*torch.randint(0, parity.VOCAB, (count, 48), generator=torch.Generator().manual_seed(seed))]


@pytest.mark.parametrize("search, gptq, plain", [(quantise_w8, gptq_w8, round_w8), (quantise_w4, gptq_w4, round_w4)])
def test_feedback_lowers_the_error_of_what_a_layer_gives(search: Any, gptq: Any, plain: Any):
    chance = torch.Generator().manual_seed(0)
    mixing = torch.randn(96, 96, generator=chance)
    x_TK = torch.randn(2048, 96, generator=chance) @ mixing + 0.1 * torch.randn(2048, 96, generator=chance)
    weight_NK = torch.randn(64, 96, generator=chance)

    def error(found: Any) -> float:
        return float(((torch.from_numpy(found.dense()) - weight_NK) @ x_TK.T).square().sum())

    found, importance = error(gptq(weight_NK.clone(), x_TK.T @ x_TK)), (x_TK**2).mean(0).numpy()
    assert found < 0.7 * error(search(weight_NK.numpy(), importance_K=importance))
    assert found < 0.7 * error(plain(weight_NK.numpy()))
    silent = gptq(weight_NK.clone(), torch.zeros(96, 96))  # nothing was seen: nothing to make up for
    assert error(silent) <= 1.05 * error(search(weight_NK.numpy()))


@pytest.mark.parametrize("width", [1, 2, 12, 20, 28, 36, 60, 64, 128, 576, 896, 1536, 22, 100])
def test_rotations_are_orthogonal_and_flat_where_a_hadamard_matrix_fits(width: int):
    turn_DD = rotation_of(width, seed=3)
    torch.testing.assert_close(turn_DD @ turn_DD.T, torch.eye(width, dtype=torch.float64), atol=1e-12, rtol=0)
    if width not in (22, 100):  # these have none by Sylvester or Paley here, and get a random orthogonal matrix
        assert torch.allclose(turn_DD.abs(), torch.tensor(width**-0.5, dtype=torch.float64))
    assert not torch.equal(turn_DD, rotation_of(width, seed=4)) or width < 12


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_rotation_and_balance_leave_the_logits_as_they_were(family: str, tmp_path: Path):
    plain, prompts = model(family, tmp_path), parity.prompts(0)
    wanted, heads = parity.packed(plain, prompts), plain.config.heads
    stream_DD, head_KK = rotation_of(heads.width, seed=0), rotation_of(heads.head_width, seed=1)
    turned_model, body = model(family, tmp_path), plain.model
    shown = Stream([body.embed_tokens.weight[t] for t in texts(4, 0)], rope=plain.config.rope)
    balanced = model(family, tmp_path)
    for layer, other in zip(turned_model.model.layers, balanced.model.layers, strict=True):
        rotate_layer(layer, stream_DD, head_KK)
        before = other.input_layernorm.weight.clone()
        balance(other, shown)
        assert not torch.equal(before, other.input_layernorm.weight)
        shown.advance(other)
    head = body.embed_tokens if plain.lm_head is None else plain.lm_head
    turned_model.lm_head = torch.nn.Linear(heads.width, parity.VOCAB, bias=False)
    turned_model.lm_head.weight.copy_(turned(head.weight, stream_DD, gain=body.norm.weight))
    turned_model.model.embed_tokens.weight.copy_(turned(body.embed_tokens.weight, stream_DD))
    turned_model.model.norm.weight.fill_(1)
    for changed in (turned_model, balanced):
        assert parity.distance(parity.packed(changed, prompts), wanted) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rotate", [False, True])
def test_eight_bits_are_near_the_model_and_four_are_farther(family: str, rotate: bool, tmp_path: Path):
    network, far = model(family, tmp_path), dict[str, float]()
    for kind in ("w8", "w4"):
        recipe = Recipe(format=kind, method="gptq", balance=True, rotate=rotate)
        found = quantise(network, recipe, calibration=texts(6, 0), held_out=texts(2, 1))
        assert found.measured is not None and found.measured.kl_T.shape == (96,)
        assert found.measured.surprise_T.shape == found.measured.plain_T.shape == (94,)
        far[kind] = float(found.measured.kl_T.mean())
    assert far["w8"] < 0.2 and far["w8"] < far["w4"], far


def written(folder: Path, family: str, recipe: Recipe) -> tuple[Quantised, Path]:
    network = model(family, folder)
    calibration = [] if recipe.method == "rtn" else texts(4, 0)
    found = quantise(network, recipe, calibration=calibration)
    save_quantised(folder / "small", found, checkpoint=open_checkpoint(folder / "model"), tokenizer=NoTokenizer())
    return found, folder / "small"


class NoTokenizer:
    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", [Recipe(format="w4", method="mse", balance=True), Recipe(format="w8", method="rtn"),
                                    Recipe(format="w4", method="rtn", rotate=True)])  # fmt: skip
def test_a_written_model_comes_back_as_it_was(family: str, recipe: Recipe, tmp_path: Path):
    found, folder = written(tmp_path, family, recipe)
    checkpoint = open_checkpoint(folder)
    assert "quantization_config" in json.loads((folder / "config.json").read_text())
    back = dict(read_quantised(checkpoint))
    assert back.keys() >= found.weights.keys()
    for name, weight in found.weights.items():
        assert (back[name].dense() == weight.dense()).all() and type(back[name]) is type(weight)
    loaded = parity.read(folder)
    for name, parameter in loaded.named_parameters():
        if name in found.weights:
            assert (parameter.numpy() == found.weights[name].dense()).all()
    tokens_T = texts(1, 5)[0]
    torch.testing.assert_close(loaded.model.embed_tokens(tokens_T), found.ends.embedded(tokens_T), rtol=1e-6, atol=0)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_four_bits_are_packed_first_input_low():
    q_NK = np.arange(-8, 8, dtype=np.int8)[None]
    assert packed4(q_NK)[0, :2].tolist() == [0x98, 0xBA] and (unpacked(packed4(q_NK)) == q_NK).all()


def change(folder: Path, **changes: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        full = "model.layers.0.mlp.up_proj." + name
        tensors.pop(full) if value is None else tensors.update({full: value(tensors[full])})
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [{"q": None}, {"scale": None}, {"group": None}, {"q": lambda q: q.float()},
     {"scale": lambda s: -s - 1}, {"scale": lambda s: s * torch.nan}, {"scale": lambda s: s.double()},
     {"group": lambda g: g * 0}, {"group": lambda g: g * 0 + 16}, {"group": lambda g: g[:, :1].clone()},
     {"q": lambda q: q.view(torch.int8)}],
)  # fmt: skip
def test_a_damaged_folder_gives_one_error_that_names_the_weight(changes: dict[str, Any], tmp_path: Path):
    _, folder = written(tmp_path, "Qwen3, tied", Recipe(format="w4", method="rtn"))
    change(folder, **changes)
    with pytest.raises(CheckpointError, match="up_proj"):
        dict(read_quantised(open_checkpoint(folder)))
    with pytest.raises(CheckpointError, match="up_proj"):
        parity.read(folder)


def test_a_weight_that_is_too_narrow_for_the_config_is_refused_when_loaded(tmp_path: Path):
    _, folder = written(tmp_path, "Qwen3, tied", Recipe(format="w4", method="rtn"))
    change(folder, q=lambda q: q[:, :-1].clone())
    with pytest.raises(CheckpointError, match=r"up_proj.*shape"):
        parity.read(folder)


def test_a_plain_folder_is_no_quantised_one_and_a_taken_folder_stays(tmp_path: Path):
    found, folder = written(tmp_path, "Qwen3, tied", Recipe(format="w8", method="rtn"))
    plain = open_checkpoint(tmp_path / "model")
    with pytest.raises(CheckpointError, match="octavo quantize"):
        dict(read_quantised(plain))
    with pytest.raises(CheckpointError, match="exists already"):
        save_quantised(folder, found, checkpoint=plain, tokenizer=NoTokenizer())
    assert isinstance(dict(read_quantised(open_checkpoint(folder)))["lm_head.weight"], Int8Weight)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path):
    network = model("Qwen3, tied", tmp_path)
    network.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp.* not finite"):
        quantise(network, Recipe(format="w4", method="rtn"))


def test_a_model_of_four_bits_has_only_the_kinds_it_names(tmp_path: Path):
    found, _ = written(tmp_path, "Qwen3-MoE", Recipe(format="w4", method="mse"))
    assert all(isinstance(weight, Int4Weight) for weight in found.weights.values())
    assert any(".experts.7.down_proj" in name for name in found.weights)
    assert not any(name.endswith("mlp.gate.weight") for name in found.weights), "routers are never rounded"


def test_a_quantised_model_is_read_without_torch(tmp_path: Path):
    _, folder = written(tmp_path, "Qwen3, tied", Recipe(format="w4", method="rtn"))
    code = (
        "import sys; from octavo.weights import open_checkpoint; from octavo.weights.quantised_file import "
        "read_quantised; print(len(dict(read_quantised(open_checkpoint(sys.argv[1])))), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["22", "False"]  # 3 layers of 7 linears, and the table
