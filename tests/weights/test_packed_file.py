"""The file of packed weights: found again by content, made anew when damaged, done without where it cannot be."""

import os
from pathlib import Path

import numpy as np
import pytest

from octavo.weights import open_checkpoint, save_checkpoint
from octavo.weights.packed_file import open_packed, packed_bytes, remove_packed
from tests.engine.test_cpu_backend import FAMILIES, model_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    save_checkpoint(tmp_path / "m", model=model_of("qwen3_moe"), config=FAMILIES["qwen3_moe"])
    return tmp_path / "m"


def arrays(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.array(a) for name, a in open_packed(open_checkpoint(folder), recipe="w4").arrays.items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_it_is_made_once_and_made_anew_when_damaged(folder: Path):
    made = arrays(folder)
    (file,) = (folder.parent / "cache/packed").iterdir()
    whole, written = file.read_bytes(), file.stat().st_mtime_ns
    assert same(arrays(folder), made) and file.stat().st_mtime_ns == written
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole[:-60] + b"x" + whole[-59:], b"x" + whole[1:]):
        file.write_bytes(damaged)
        assert same(arrays(folder), made) and file.read_bytes() == whole


def test_other_weights_have_another_file(folder: Path):
    arrays(folder)
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    arrays(folder)
    assert len([*(folder.parent / "cache/packed").iterdir()]) == 2


def test_weights_that_differ_between_the_samples_have_another_file(folder: Path):
    arrays(folder)
    file = folder / "model.safetensors"
    data, before = file.read_bytes(), file.stat()
    assert len(data) > 2 * 4096 * 64  # so that the samples leave gaps
    step = (len(data) - 4096) // 63
    changed = bytearray(data)
    changed[10 * step + 4096 + 100] ^= 1
    file.write_bytes(changed)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    arrays(folder)
    assert len([*(folder.parent / "cache/packed").iterdir()]) == 2


def test_without_a_place_to_keep_it_the_weights_are_packed_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch):
    made = arrays(folder)
    (folder.parent / "taken").write_text("a file, not a folder")
    monkeypatch.setenv("OCTAVO_CACHE", str(folder.parent / "taken"))
    assert same(arrays(folder), made)


def test_one_that_can_neither_be_read_nor_replaced_is_done_without(folder: Path):
    made = arrays(folder)
    (file,) = (folder.parent / "cache/packed").iterdir()
    file.unlink()
    (file / "x").mkdir(parents=True)  # a folder cannot be opened or replaced, as a file of another user cannot
    assert same(arrays(folder), made) and file.is_dir()
    assert [*file.parent.iterdir()] == [file]


def test_what_is_packed_is_counted_and_cleared_and_an_open_model_stays_whole(folder: Path):
    assert packed_bytes() == remove_packed() == 0
    made = open_packed(open_checkpoint(folder), recipe="w4").arrays
    before = {name: np.array(array) for name, array in made.items()}
    (file,) = (folder.parent / "cache/packed").iterdir()
    (file.parent / "killed.part").write_bytes(b"half")
    (file.parent / "gone").symlink_to(file.parent / "nothing")  # as one that vanishes between listing and counting
    size = file.stat().st_size + 4
    assert packed_bytes() == size and remove_packed() == size and packed_bytes() == 0
    assert same(dict(made), before) and same(arrays(folder), before) and file.exists()
