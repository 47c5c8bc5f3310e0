"""The table of parameters that needs no torch is the module's own, name by name and in its order."""

import pytest

from bench import parity
from octavo.models import read_config, skeleton
from octavo.models.parameters import parameter_shapes
from tests.models.test_sizes import COMMON, SUITE


def values_of(family: str) -> dict:
    """The config.json that `transformers` writes for a family of the parity table."""
    values = parity.oracle(family).config.to_diff_dict()
    return {name: value for name, value in values.items() if name != "rope_parameters"} | {
        "rope_scaling": None, "rope_theta": 1e4
    }  # fmt: skip


def module_shapes(values: dict) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(parameter.shape)) for name, parameter in skeleton(values).named_parameters()]


@pytest.mark.parametrize("family", parity.FAMILIES)
def test_every_family_of_the_parity_table(family: str):
    values = values_of(family)
    assert [*parameter_shapes(read_config(values)).items()] == module_shapes(values)


@pytest.mark.parametrize("name", SUITE)
def test_every_official_qwen3(name: str):
    values = COMMON | SUITE[name][0]
    assert [*parameter_shapes(read_config(values)).items()] == module_shapes(values)


def test_the_families_differ_where_they_must():
    """Each switch of a config changes the table: a test over one dense family could not fail for the others."""
    tables = {family: parameter_shapes(read_config(values_of(family))) for family in parity.FAMILIES}
    assert "lm_head.weight" in tables["Qwen3"] and "lm_head.weight" not in tables["Qwen3, tied"]
    assert "model.layers.0.self_attn.k_proj.bias" in tables["Qwen2.5"]
    assert "model.layers.0.mlp.up_proj.bias" in tables["Llama, biases"]
    sparse = tables["Qwen3-MoE, every 2nd layer"]
    assert "model.layers.0.mlp.up_proj.weight" in sparse and "model.layers.1.mlp.experts.down_proj" in sparse
