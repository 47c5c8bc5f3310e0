"""Damaged files: `python -m bench.fuzz_files` runs thousands of cases, here is what keeps it honest."""

import os
import time
from pathlib import Path

import pytest
import torch

from bench import fuzz_files
from octavo.core.errors import CheckpointError


def test_two_hundred_damaged_files_load_whole_or_are_refused():
    lines: list[str] = []
    found = fuzz_files.fuzz(200, report=lines.append)
    assert found["faults"] == [], "\n".join(lines)
    assert found["loaded"] + found["refused"] == 200 and min(found["loaded"], found["refused"]) > 20
    assert found["max_rss_growth_mb"] < 200 and found["slowest_s"] < 5
    assert set(found["targets"]) == set(fuzz_files.TARGETS)


def half_load(checkpoint: object, model: torch.nn.Module, *, dtype: torch.dtype) -> None:
    """What a careless loader does: it fills as it reads, and stops at what is wrong."""
    del checkpoint, dtype
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight = torch.nn.Parameter(torch.zeros(module.weight.shape))
            raise CheckpointError("the next one is missing")


def test_what_is_half_loaded_or_raises_something_else_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fuzz_files.make_models(tmp_path)
    whole = fuzz_files.run_case(tmp_path, "safetensors", -1)
    assert fuzz_files.verdict(whole) == "loaded"
    monkeypatch.setattr(fuzz_files, "load_weights", half_load)
    assert fuzz_files.verdict(fuzz_files.run_case(tmp_path, "safetensors", -1)) == "half-loaded"
    monkeypatch.setattr(fuzz_files, "load_weights", lambda *_a, **_k: None)
    assert fuzz_files.verdict(fuzz_files.run_case(tmp_path, "safetensors", -1)) == "half-loaded"
    monkeypatch.setattr(fuzz_files, "open_checkpoint", lambda path: path.missing)
    assert fuzz_files.verdict(fuzz_files.run_case(tmp_path, "GGUF, F32", -1)) == "other exception"


def hostile(models: Path, pipe: object) -> None:
    """A worker that dies at case 1 and hangs at case 2."""
    pipe.send("ready")  # type: ignore[attr-defined]
    while (case := pipe.recv()) is not None:  # type: ignore[attr-defined]
        if case[1] == 1:
            os.abort()
        if case[1] == 2:
            time.sleep(60)
        pipe.send({"stages": {"weights": "loaded"}, "peak_kb": 0, "seconds": 0.0})  # type: ignore[attr-defined]


def test_a_crash_and_a_hang_are_seen_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzz_files, "work", hostile)
    monkeypatch.setattr(fuzz_files, "TIME_LIMIT_S", 0.5)
    pool = fuzz_files.Pool(tmp_path)
    found = [fuzz_files.verdict(pool.run("safetensors", number)["stages"]) for number in (0, 1, 0, 2, 0)]
    pool.stop()
    assert found == ["loaded", "crash", "loaded", "hang", "loaded"]
