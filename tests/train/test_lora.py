"""LoRA: nothing is changed at first, only the changes learn, folding changes no logit, files come back."""

import json

import pytest
import torch

from octavo.core.errors import CheckpointError, ConfigError
from octavo.nn.context import PackedContext
from octavo.train.lora import Lora, adapt, adapted, fold, load_lora, save_lora
from octavo.train.optimiser import Optimisation
from octavo.train.step import CrossEntropy
from octavo.train.trainer import Trainer
from tests.train.minis import batch, tiny
from tests.train.models import small

LORA = Lora(rank=4, alpha=8.0)


@torch.no_grad()
def rows(model) -> torch.Tensor:
    return model.logits(model(torch.arange(30), PackedContext([30])))


def trained(steps: int = 5):
    model = tiny()
    adapt(model, LORA)
    trainer = Trainer(model, CrossEntropy(), Optimisation(rate=1e-2), bf16=False)
    losses = [trainer.learn([batch(0)]).loss for _ in range(steps)]
    return model, losses


def test_at_first_nothing_is_changed():
    model, plain = tiny(), tiny()
    adapt(model, LORA)
    assert torch.equal(rows(model), rows(plain))
    assert len(list(adapted(model))) == 2 * 7


def test_it_learns_and_the_model_beneath_stays_as_it_was():
    model, losses = trained(30)
    assert losses[-1] < 0.8 * losses[0]
    plain = tiny()
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    assert not torch.equal(rows(model), rows(plain))


def test_folded_equals_beside():
    model, _ = trained()
    before = rows(model)
    fold(model)
    assert not list(adapted(model)) and [n for n, _ in model.named_parameters()] == [
        n for n, _ in tiny().named_parameters()
    ]
    torch.testing.assert_close(rows(model), before, atol=1e-5, rtol=0)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_was_saved_comes_back(tmp_path):
    model, _ = trained()
    save_lora(tmp_path / "a", model, LORA, base="tiny")
    again = tiny()
    assert load_lora(tmp_path / "a", again) == Lora(rank=4, alpha=8.0, targets=tuple(sorted(LORA.targets)))
    assert torch.equal(rows(again), rows(model))


def test_a_run_goes_on_without_the_model_beneath(tmp_path):
    from octavo.train.state import load_state, save_state

    model = tiny()
    adapt(model, LORA)
    one = Trainer(model, CrossEntropy(), Optimisation(rate=1e-2), bf16=False)
    losses = [one.learn([batch(i)]).loss for i in range(3)]
    save_state(tmp_path, one, settings={})
    losses += [one.learn([batch(i)]).loss for i in range(3, 6)]
    again = tiny()
    adapt(again, LORA, seed=7)
    two = Trainer(again, CrossEntropy(), Optimisation(rate=1e-2), bf16=False)
    assert load_state(tmp_path, two, settings={}) is not None
    assert [two.learn([batch(i)]).loss for i in range(3, 6)] == losses[3:]
    assert not any("q_proj.weight" in name and "lora" not in name for name in one.tensors())


def test_names_and_kinds_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no matrix query"):
        adapt(tiny(), Lora(rank=2, targets=("query",)))
    with pytest.raises(ConfigError, match="rank"):
        adapt(tiny(), Lora())
    for name, model in (("lm_head", small("untied")), ("gate", small("moe"))):  # a change beside these would be unread
        with pytest.raises(ConfigError, match=rf"no matrix {name} that can be adapted: choose of (\w+_proj(, )?)+\.$"):
            adapt(model, Lora(rank=2, targets=("q_proj", name)))
    model, _ = trained(1)
    save_lora(tmp_path / "a", model, LORA, base="tiny")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_lora(tmp_path / "a", tiny(num_hidden_layers=1))
    config = tmp_path / "a" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    with pytest.raises(CheckpointError, match="use_dora"):
        load_lora(tmp_path / "a", tiny())


def test_peft_reads_our_files_and_we_read_pefts(tmp_path):
    peft = pytest.importorskip("peft", reason="the package peft, the oracle of these files, is not installed")
    from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

    from tests.train.minis import CONFIG

    theirs = Qwen3ForCausalLM(Qwen3Config(**CONFIG))
    plain = tiny()
    theirs.load_state_dict({**plain.state_dict(), "lm_head.weight": plain.head_weight})
    theirs.save_pretrained(tmp_path / "base")
    model, _ = trained()
    save_lora(tmp_path / "ours", model, LORA, base="tiny")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    read = peft.PeftModel.from_pretrained(base, tmp_path / "ours")
    with torch.no_grad():
        torch.testing.assert_close(read(torch.arange(30)[None]).logits[0], rows(model), atol=1e-5, rtol=0)
    read.save_pretrained(tmp_path / "theirs")
    again = tiny()
    load_lora(tmp_path / "theirs", again)
    torch.testing.assert_close(rows(again), rows(model), atol=1e-5, rtol=0)
