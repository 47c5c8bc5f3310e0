"""Safetensors: what is read is what is stored; what is wrong gives one error and leaves the model as it was."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bench import parity
from octavo.core.errors import CheckpointError, OctavoError
from octavo.models import skeleton
from octavo.weights import load_weights, open_checkpoint, save_checkpoint
from octavo.weights.checkpoint import INDEX

TINY = "Qwen3, tied"


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8",
                                   "uint8", "bool", "float8_e4m3fn", "float8_e5m2"])  # fmt: skip
def test_every_dtype_and_odd_size_reads_as_safetensors_reads_it(dtype: str, tmp_path: Path):
    kind = getattr(torch, dtype)
    shapes: dict[str, tuple[int, ...]] = {"a": (3, 5), "b": (7,), "c": (), "d": (2, 0, 4), "e": (1, 1, 3)}
    tensors = {name: (torch.randn(shape) * 9).to(kind) for name, shape in shapes.items()}
    save_file(tensors | {"odd": torch.ones(3, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    checkpoint, wanted = open_checkpoint(tmp_path), load_file(tmp_path / "model.safetensors")
    assert set(checkpoint.names) == wanted.keys()
    for name, tensor in wanted.items():
        found = checkpoint.read(name)
        assert found.dtype == tensor.dtype == checkpoint.dtype(name) and checkpoint.shape(name) == tensor.shape
        assert torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("family", ["Qwen3, tied", "Qwen3", "Qwen3-MoE", "Qwen2.5, tied", "Llama, biases"])
def test_every_layout_gives_the_same_parameters(family: str, tmp_path: Path):
    model = parity.oracle(family)
    wanted = {name: tensor for name, tensor in model.state_dict().items()}
    for number, layout in enumerate(parity.layouts(family)):
        (tmp_path / str(number)).mkdir()
        found = parity.read(parity.write(model, tmp_path / str(number), layout=layout)).state_dict()
        assert found.keys() == wanted.keys() - ({"lm_head.weight"} if "tied" in family else set()), layout
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items()), layout


def good(folder: Path, family: str = TINY, **layout: Any) -> Path:
    folder.mkdir(exist_ok=True)
    return parity.write(parity.oracle(family), folder, layout=parity.Layout(**layout))


def empty(path: Path) -> torch.nn.Module:
    return skeleton(json.loads((path / "config.json").read_text()))


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


def header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = (path / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    values = json.loads(data[8 : 8 + size])
    change(values)
    raw = json.dumps(values).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + data[8 + size :])


def binary(path: Path, change: Callable[[bytes], bytes]) -> None:
    file = path / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))


NORM = "model.norm.weight"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (lambda p: binary(p, lambda d: d[:-1]), "cut off or damaged"),
    "cut in the header": (lambda p: binary(p, lambda d: d[:100]), "a header of"),
    "shorter than 8 bytes": (lambda p: binary(p, lambda d: d[:5]), "a header of"),
    "empty": (lambda p: binary(p, lambda d: b""), "it is empty"),
    "longer than it says": (lambda p: binary(p, lambda d: d + b"x"), "promises"),
    "huge header": (lambda p: binary(p, lambda d: b"\xff" * 8 + d[8:]), "a header of 18,446"),
    "no JSON": (lambda p: binary(p, lambda d: d[:8] + b"[" + d[9:]), "not valid JSON"),
    "deep JSON": (lambda p: binary(p, lambda d: struct.pack("<Q", 500_005) + b'{"a":' + b"[" * 500_000), "not valid"),
    "name twice": (lambda p: binary(p, lambda d: d.replace(b"layers.1.input", b"layers.0.input")), "occurs twice"),
    "overlap": (lambda p: header(p, lambda h: h[NORM].update(data_offsets=[0, 256])), "neither overlap"),
    "wrong length": (lambda p: header(p, lambda h: h[NORM].update(shape=[63])), "needs 252 bytes"),
    "negative shape": (lambda p: header(p, lambda h: h[NORM].update(shape=[-64])), "cannot be"),
    "shape of booleans": (lambda p: header(p, lambda h: h[NORM].update(shape=[True, 64])), "cannot be"),
    "unknown dtype": (lambda p: header(p, lambda h: h[NORM].update(dtype="F4")), "has dtype 'F4'"),
    "no offsets": (lambda p: header(p, lambda h: h[NORM].pop("data_offsets")), "no dtype, shape"),
    "missing tensor": (lambda p: rewrite(p, lambda t: t.pop(NORM)), "lacks model.norm.weight"),
    "extra tensor": (lambda p: rewrite(p, lambda t: t.update(x=torch.zeros(1))), "also holds x"),
    "wrong shape": (lambda p: rewrite(p, lambda t: t.update({NORM: torch.zeros(65)})), r"has shape \[65\]"),
    "integers": (lambda p: rewrite(p, lambda t: t.update({NORM: t[NORM].int()})), "stored as I32"),
    "8 bits": (lambda p: rewrite(p, lambda t: t.update({NORM: t[NORM].to(torch.float8_e4m3fn)})), "without its scales"),
    "no config": (lambda p: (p / "config.json").unlink(), "cannot be read"),
    "bad config": (lambda p: (p / "config.json").write_text("{"), "not valid JSON"),
    "config is a list": (lambda p: (p / "config.json").write_text("[]"), "an object was needed"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "no safetensors or GGUF"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_each_fault_is_one_error_and_leaves_the_model_alone(fault: str, tmp_path: Path):
    path = good(tmp_path)
    model, (spoil, words) = empty(path), BAD[fault]
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    spoil(path)
    with pytest.raises(OctavoError, match=words):
        load_weights(open_checkpoint(path), model, dtype=torch.float32)
    after = dict(model.named_parameters())
    assert {name: id(parameter) for name, parameter in after.items()} == before
    assert all(parameter.is_meta for parameter in after.values())


def index(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((path / INDEX).read_text())
    change(values)
    (path / INDEX).write_text(json.dumps(values))


SHARD = "model-00002-of-00003.safetensors"
BAD_SHARDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard missing": (lambda p: (p / SHARD).unlink(), "1 of them are missing, first model-00002"),
    "shard cut off": (lambda p: (p / SHARD).write_bytes((p / SHARD).read_bytes()[:-4]), "cut off"),
    "shards swapped": (lambda p: (p / SHARD).rename(p / "model-00001-of-00003.safetensors"), "missing"),
    "other version": (lambda p: save_file({"x": torch.zeros(1)}, p / SHARD), "safetensors.index.json promises"),
    "tensor in two": (lambda p: save_file(load_file(p / SHARD) | {NORM: torch.zeros(64)}, p / SHARD), "two files hold"),
    "no index": (lambda p: (p / INDEX).unlink(), "3 safetensors files and no model.safetensors.index.json"),
    "no map": (lambda p: index(p, lambda i: i.pop("weight_map")), "has no weight_map"),
    "path escape": (lambda p: index(p, lambda i: i["weight_map"].update({NORM: "../x.safetensors"})), "beside it"),
    "pickle in map": (lambda p: index(p, lambda i: i["weight_map"].update({NORM: "x.bin"})), "beside it"),
    "number in map": (lambda p: index(p, lambda i: i["weight_map"].update({NORM: 3})), "beside it"),
    "index is no JSON": (lambda p: (p / INDEX).write_text('{"weight_map": '), "not valid JSON"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_SHARDS)
def test_each_fault_of_a_sharded_model_is_one_error(fault: str, tmp_path: Path):
    path = good(tmp_path, files="sharded")
    spoil, words = BAD_SHARDS[fault]
    spoil(path)
    with pytest.raises(OctavoError, match=words):
        open_checkpoint(path)


def test_a_missing_expert_is_named(tmp_path: Path):
    path = good(tmp_path, "Qwen3-MoE", experts="each")
    model = empty(path)
    rewrite(path, lambda tensors: tensors.pop("model.layers.1.mlp.experts.5.up_proj.weight"))
    with pytest.raises(CheckpointError, match=r"lacks model.layers.1.mlp.experts.5.up_proj.weight"):
        load_weights(open_checkpoint(path), model, dtype=torch.float32)


class Bomb:
    """What a pickle could do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_pickled_files_are_never_opened(tmp_path: Path):
    path, canary = good(tmp_path), tmp_path / "exploded"
    for name in ("pytorch_model.bin", "model.pt", "consolidated.00.pth", "old.ckpt"):
        torch.save(Bomb(canary), path / name)
    load_weights(open_checkpoint(path), empty(path), dtype=torch.float32)  # safetensors beside them is read
    (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"only pickled weights .* never does"):
        open_checkpoint(path)
    with pytest.raises(CheckpointError, match="is no GGUF file"):
        open_checkpoint(path / "pytorch_model.bin")
    (path / "pytorch_model.bin").rename(path / "model.safetensors")
    with pytest.raises(CheckpointError, match="download it again"):
        open_checkpoint(path)
    assert not canary.exists()


def test_parameters_are_views_and_what_is_written_stays_in_memory(tmp_path: Path):
    path = good(tmp_path)
    before, checkpoint, model = (path / "model.safetensors").read_bytes(), open_checkpoint(path), empty(path)
    load_weights(checkpoint, model, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            assert not parameter.requires_grad
            parameter.zero_()
    assert (path / "model.safetensors").read_bytes() == before
    checkpoint.release(NORM)


@pytest.mark.parametrize("family", ["Qwen3, tied", "Qwen3-MoE", "Llama, biases"])
@pytest.mark.parametrize("shard_bytes", [1 << 40, 40_000])
def test_what_is_saved_reads_back_here_and_in_transformers(family: str, shard_bytes: int, tmp_path: Path):
    theirs = parity.oracle(family)
    path = good(tmp_path, family)
    mine = parity.read(path)
    values = json.loads((path / "config.json").read_text())
    save_checkpoint(tmp_path / "out", model=mine, config=values, shard_bytes=shard_bytes)
    assert (tmp_path / "out" / INDEX).exists() == (shard_bytes < 1 << 30)
    back = parity.read(tmp_path / "out").state_dict()
    assert back.keys() == mine.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in mine.state_dict().items())
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    found, wanted = again.state_dict(), theirs.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    with pytest.raises(CheckpointError, match="not empty"):
        save_checkpoint(tmp_path / "out", model=mine, config=values)


def test_saving_whole_or_not_at_all(tmp_path: Path):
    class Broken:
        def __init__(self, *cause: Any) -> None:
            self.cause = cause

        def save(self, folder: Path) -> None:
            raise OSError(*self.cause)

    path = good(tmp_path)
    values = json.loads((path / "config.json").read_text())
    for *cause, says in ((28, "No space left"), ("8 requested and 0 written",)):  # NumPy has no number for its fault
        with pytest.raises(CheckpointError, match=says):
            tokenizer = Broken(*cause, says)
            save_checkpoint(tmp_path / "out", model=parity.read(path), config=values, tokenizer=tokenizer)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["model", "plain"]
    save_checkpoint(tmp_path / "out", model=parity.read(path), config=values, dtype=torch.bfloat16)
    assert open_checkpoint(tmp_path / "out").dtype(NORM) == torch.bfloat16


def test_a_file_larger_than_memory_is_opened(tmp_path: Path):
    """A model that is too large for the machine is told so by what it needs, not as a file that is damaged."""
    size = 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    raw = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(raw)) + raw)
        out.truncate(8 + len(raw) + size)  # a hole: it takes no disk
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.shape("x") == (size,) and checkpoint.array("x")[-1] == 0


def test_place_takes_what_it_says_and_nothing_else(tmp_path: Path):
    path = good(tmp_path, "Qwen3-MoE")
    seen: list[str] = []

    def place(name: str, tensor: torch.Tensor) -> bool:
        seen.append(name)
        assert tensor.dtype == torch.bfloat16
        return name.endswith("experts.down_proj")

    model = empty(path)
    names = [name for name, _ in model.named_parameters()]
    load_weights(open_checkpoint(path), model, dtype=torch.bfloat16, place=place)
    assert seen == names
    left = {name for name, parameter in model.named_parameters() if parameter.is_meta}
    assert left == {name for name in names if name.endswith("experts.down_proj")} != set()


BIG = {
    "model_type": "qwen3", "vocab_size": 65_536, "hidden_size": 1024, "num_hidden_layers": 16, "head_dim": 128,
    "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 3072, "tie_word_embeddings": True,
    "max_position_embeddings": 4096, "hidden_act": "silu",
}  # fmt: skip
MEASURE = """
import sys, torch
from pathlib import Path
def peak():  # of this program alone: getrusage would count what its parent had before it started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
torch.ones(64, 64).bfloat16() @ torch.ones(64, 64).bfloat16()
base = peak()
from octavo.models import skeleton
from octavo.nn.linear import Packing, best_kind
from octavo.weights import load_weights, open_checkpoint
checkpoint = open_checkpoint(sys.argv[1])
model = skeleton(checkpoint.config)
place = Packing(model, kind=best_kind(), tied=True) if sys.argv[2] == "packed" else None
load_weights(checkpoint, model, dtype=torch.bfloat16, place=place)
if place is None:
    assert all(float(p[..., -1].float().sum()) == float(p[..., -1].float().sum()) for p in model.parameters())
    sum(int(p.view(torch.uint8).max()) for p in model.parameters())  # every page is touched
print(base, peak(), checkpoint.size_bytes)
"""


def test_peak_memory_of_loading_stays_under_the_size_and_700_mb(tmp_path: Path):
    model = skeleton(BIG)
    for name, parameter in list(model.named_parameters()):
        owner = model.get_submodule(name.rpartition(".")[0])
        filled = torch.full(parameter.shape, 0.01, dtype=torch.bfloat16)
        setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(filled, requires_grad=False))
    save_checkpoint(tmp_path / "big", model=model, config=BIG)
    del model
    for how in ("plain", "packed"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path / "big"), how], capture_output=True, text=True, check=True
        )
        base, peak, size = map(int, done.stdout.split())
        assert size > 600e6 and size < peak - base < size + 700e6, (how, base, peak, size)
