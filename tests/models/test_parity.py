"""Every family equals `transformers`; `make parity` prints the whole table, here is what keeps each cell honest."""

import pytest
import torch
import transformers

from bench import parity


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.mark.parametrize("family", parity.FAMILIES)
def test_every_family_and_layout_is_within_bounds(family: str):
    layouts = parity.layouts(family)
    for seed, layout in enumerate(layouts[:: max(1, len(layouts) // 4)]):
        row = parity.measure(family, layout, seed=seed)
        assert row["within"], row


def test_a_wrong_model_is_out_of_bounds(monkeypatch: pytest.MonkeyPatch):
    """The table can fail: without the queries' and keys' norms no Qwen3 passes."""
    read = parity.read

    def broken(folder, *, dtype=torch.float32):
        model = read(folder, dtype=dtype)
        for layer in model.model.layers:
            layer.self_attn.q_norm = torch.nn.Identity()
        return model

    monkeypatch.setattr(parity, "read", broken)
    row = parity.measure("Qwen3", parity.Layout())
    assert not row["within"] and row["packed"] > 0.01 and row["paged"] > 0.01
