"""Packing holds little beside what it makes."""

import tracemalloc

import numpy as np
import pytest

import octavo.models.packed
from octavo.models import build, read_config
from octavo.models.packed import Recipe, pack
from tests.engine.test_cpu_backend import FAMILIES, ModuleWeights, packed

WIDE = FAMILIES["qwen3"] | {"hidden_size": 512, "vocab_size": 8192, "num_hidden_layers": 1}
NUMBERS = WIDE["hidden_size"] * WIDE["vocab_size"]  # of the head


@pytest.mark.parametrize("head", ["w8", "w4"])
def test_a_head_is_never_whole_in_float32(head: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(octavo.models.packed, "AT_ONCE", NUMBERS // 32)
    weights = ModuleWeights(build(WIDE))
    weights.tensors = {name: tensor.astype(np.float16) for name, tensor in weights.tensors.items()}
    tracemalloc.start()
    pieces = list(pack(read_config(WIDE), weights, recipe="w8", head=head))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pieces[-1].name == "head"
    assert peak - kept < 4 * NUMBERS


@pytest.mark.parametrize("recipe", ["w8", "w4"])
def test_weights_are_the_same_however_many_are_rounded_at_once(recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    whole = packed("qwen3", recipe)
    monkeypatch.setattr(octavo.models.packed, "AT_ONCE", 1000)
    few = packed("qwen3", recipe)
    assert whole.arrays.keys() == few.arrays.keys()
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(few.arrays[name], array)
