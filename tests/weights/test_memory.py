"""What a model needs, and what the machine has: from files as the system writes them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from octavo.core.errors import ConfigError, MemoryNeeded
from octavo.models import build, read_config, skeleton
from octavo.models.decoder import count_parameters
from octavo.models.packed import pack
from octavo.weights import check_memory, needs, open_checkpoint, save_checkpoint
from octavo.weights.hub import SHIPPED
from octavo.weights.memory import KERNELS_BYTES, SMALLER, Needs, available_bytes, gigabytes, packed_needs
from octavo.weights.packed_file import CheckpointWeights
from tests.weights.gguf_files import write_gguf
from tests.weights.hub_server import CONFIG

GIB = 1 << 30


@pytest.mark.parametrize("tied", [True, False])
def test_needs_are_what_the_model_and_its_cache_take(tied: bool, tmp_path: Path):
    config = CONFIG | {"tie_word_embeddings": tied}
    model = build(config)
    save_checkpoint(tmp_path / "m", model=model, config=config)
    checkpoint = open_checkpoint(tmp_path / "m")
    numbers = count_parameters(model) + (96 * 64 if tied else 0)  # a tied head is packed beside the embedding
    for bytes_each in (2, 4, 0.5):
        found = needs(checkpoint, dtype_bytes=bytes_each, context_tokens=100)
        assert found.weights_bytes == int(numbers * bytes_each)
        assert found.cache_bytes == 100 * 2 * 2 * 2 * 16 * 2  # tokens, k and v, layers, heads, width, bytes
        assert found.disk_bytes == (tmp_path / "m" / "model.safetensors").stat().st_size
    assert needs(checkpoint).cache_bytes == found.cache_bytes * 128 // 100  # the model's own limit
    assert 1 << 28 < found.available_bytes < 1 << 45


QWEN3 = {  # of models.md: width, layers, heads of keys, tied, parameters
    "0.6B": (1024, 28, 8, True, 596_049_920), "1.7B": (2048, 28, 8, True, 1_720_574_976),
    "4B": (2560, 36, 8, True, 4_022_468_096), "8B": (4096, 36, 8, False, 8_190_735_360),
    "14B": (5120, 40, 8, False, 14_768_307_200), "32B": (5120, 64, 8, False, 32_762_123_264),
}  # fmt: skip


@pytest.mark.parametrize("name", QWEN3)
def test_the_advice_knows_how_much_each_model_needs(name: str):
    width, layers, heads, tied, parameters = QWEN3[name]
    weights = 2 * (parameters + (151_936 * width if tied else 0))
    needed = weights + 2 * layers * heads * 128 * 2 * 8192 + KERNELS_BYTES
    assert needed <= SMALLER[f"Qwen/Qwen3-{name}"] < needed * 1.03


def test_refusal_is_polite_and_says_what_to_do():
    whole = Needs(disk_bytes=16_400_000_000, weights_bytes=16_400_000_000, cache_bytes=1_200_000_000,
                  work_bytes=600_000_000, available_bytes=8_000_000_000)  # fmt: skip
    with pytest.raises(MemoryNeeded, match=r"needs 18.2 GB .* has 8.0 GB free. Take .* such as Qwen/Qwen3-1.7B"):
        check_memory(whole)
    tight = Needs(disk_bytes=1, weights_bytes=1_000_000_000, cache_bytes=9_000_000_000, work_bytes=1,
                  available_bytes=2_000_000_000)  # fmt: skip
    with pytest.raises(MemoryNeeded, match="shorter context"):
        check_memory(tight)
    none = Needs(disk_bytes=1, weights_bytes=1_000_000_000, cache_bytes=0, work_bytes=1, available_bytes=500_000_000)
    with pytest.raises(MemoryNeeded, match="small model that comes with the install"):
        check_memory(none)
    with pytest.raises(MemoryNeeded, match=r"free\. Close other programs\.$"):  # there is none that needs less
        check_memory(replace(needs(open_checkpoint(SHIPPED / "octavo-mini")), available_bytes=100_000_000))
    check_memory(Needs(disk_bytes=1, weights_bytes=10, cache_bytes=0, work_bytes=5, available_bytes=15))
    assert whole.line == "16.4 GB on disk; 18.2 GB of memory (weights 16.4 GB, context 1.2 GB), 8.0 GB free"
    assert [gigabytes(n) for n in (0, 98_362_432, 999_600_000, 1_192_135_096)] == ["0 MB", "98 MB", "1.0 GB", "1.2 GB"]


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


SYSTEM = {"proc/meminfo": f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\nMemAvailable: {8 << 20} kB\n"}
V2 = {"proc/self/cgroup": "0::/user/box\n"}
V2_LIMIT = {
    "sys/fs/cgroup/user/memory.max": f"{4 * GIB}\n", "sys/fs/cgroup/user/memory.current": f"{3 * GIB}\n",
    "sys/fs/cgroup/user/memory.stat": f"anon 5\nfile 6\ninactive_file {2 * GIB}\n",
    "sys/fs/cgroup/user/box/memory.max": "max\n", "sys/fs/cgroup/user/box/memory.current": "17\n",
}  # fmt: skip
V2_CONTAINER = {
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.max": f"{2 * GIB}",
    "sys/fs/cgroup/memory.current": "0",
}
V1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/docker/abc\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
    "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": f"{3 * GIB}\n",
    "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": f"{GIB}\n",
    "sys/fs/cgroup/memory/docker/abc/memory.stat": "cache 3\ntotal_inactive_file 4096\n",
}
V1_CONTAINER = V1 | {  # the path of the host is not there
    "proc/self/cgroup": "4:memory:/docker/elsewhere\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}",
}  # fmt: skip
OVERDRAWN = V2_CONTAINER | {"sys/fs/cgroup/memory.current": f"{3 * GIB}"}


@pytest.mark.parametrize(
    "files, wanted",
    [({}, 8 * GIB), (V2, 8 * GIB), (V2 | V2_LIMIT, 3 * GIB), (V2_CONTAINER, 2 * GIB), (V1, 2 * GIB + 4096),
     (V1_CONTAINER, GIB - 1), (OVERDRAWN, 0)],
)  # fmt: skip
def test_a_containers_limit_counts(files: dict[str, str], wanted: int, tmp_path: Path):
    assert available_bytes(root=tree(tmp_path, SYSTEM | files)) == wanted


@pytest.mark.parametrize("wished", ["8GB", "8e9", "-1", "0x10"])
def test_a_limit_that_is_no_number_is_refused(wished: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OCTAVO_MEMORY_BYTES", wished)
    with pytest.raises(ConfigError, match=r"OCTAVO_MEMORY_BYTES is .*, a number of bytes was needed"):
        available_bytes()


def test_without_proc_the_system_is_asked(tmp_path: Path):
    assert 1 << 28 < available_bytes(root=tmp_path) < 1 << 45


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("architecture", ["qwen3", "qwen3moe"])
def test_the_estimate_of_a_quantised_file_is_what_its_packed_weights_take(architecture: str, kind: str, tied: bool,
                                                                          tmp_path: Path):  # fmt: skip
    write_gguf(tmp_path / "m.gguf", architecture, kind=kind, tied=tied)
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    pieces = pack(read_config(checkpoint.config), CheckpointWeights(checkpoint), recipe="stored")
    taken = sum(array.nbytes for piece in pieces for array in piece.arrays.values())
    assert 0.97 * taken < packed_needs(checkpoint, recipe="stored").weights_bytes < 1.03 * taken


def test_the_estimate_covers_what_a_packed_model_takes(tmp_path: Path):
    """A lower bound would refuse nothing: the numbers of a packed model are counted from its tensors."""
    from octavo.nn.linear import Packing

    config: dict[str, Any] = CONFIG | {"tie_word_embeddings": True}
    save_checkpoint(tmp_path / "m", model=build(config), config=config)
    checkpoint = open_checkpoint(tmp_path / "m")
    assert read_config(checkpoint.config).tied
    from octavo.weights import load_weights

    model = skeleton(config)
    load_weights(checkpoint, model, dtype=torch.bfloat16, place=Packing(model, kind="plain", tied=True))
    kept = [t for m in model.modules() for t in vars(m).values() if isinstance(t, torch.Tensor)]
    counted = sum(t.numel() for t in kept) + sum(p.numel() for p in model.parameters())
    assert counted * 2 == needs(checkpoint).weights_bytes
