"""A step is a step: however its batches are cut, and wherever the run was stopped."""

import math
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from octavo.core.errors import ConfigError, TrainingError
from octavo.train.batch import pack
from octavo.train.optimiser import Optimisation, StackedMuon, optimisers
from octavo.train.schedule import Schedule
from octavo.train.state import load_state, save_state
from octavo.train.step import CrossEntropy, Learner
from octavo.train.trainer import Trainer
from tests.train.minis import batch, tiny, told

HOW = Optimisation(method="muon", rate=0.01, weight_decay=0.05, momentum=0.9)
TORCHS: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.05, "momentum": 0.9, "adjust_lr_fn": "match_rms_adamw"}
METHODS = pytest.mark.parametrize("method", ["adamw", "muon"])


def trainer(method: str = "adamw", **how: object) -> Trainer:
    return Trainer(tiny(), CrossEntropy(), Optimisation(method=method, rate=3e-3, **how), bf16=False)


@METHODS
def test_it_learns(method):
    one = trainer(method)
    losses = [one.learn([batch(i % 5)]).loss for i in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    assert one.surprise([batch(0)]) < 0.5 * losses[0]


def test_a_step_cut_into_batches_is_the_same_step():
    samples = [told(i, length=6 + 3 * i) for i in range(6)]
    whole, cut = trainer(), trainer()
    a = whole.learn([pack(samples)])
    b = cut.learn([pack(samples[:1]), pack(samples[1:4]), pack(samples[4:])])
    assert math.isclose(a.loss, b.loss, rel_tol=1e-5) and math.isclose(a.norm, b.norm, rel_tol=1e-5)
    for p, q in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=0)


def test_the_loss_is_per_token_and_not_a_mean_of_means():
    short, long = told(1, length=4), told(2, length=40)
    one = trainer()
    apart = [one.surprise([pack([s])]) for s in (short, long)]
    counts = [float(s.weights.sum()) for s in (short, long)]
    wanted = sum(loss * count for loss, count in zip(apart, counts, strict=True)) / sum(counts)
    assert math.isclose(one.learn([pack([short]), pack([long])]).loss, wanted, rel_tol=1e-5)


def test_a_step_that_is_not_finite_changes_nothing():
    one = trainer()
    before = {name: value.clone() for name, value in one.tensors().items()}
    with torch.no_grad():
        one.model.model.norm.weight.mul_(math.nan)
    before["model.model.norm.weight"] = one.tensors()["model.model.norm.weight"].clone()
    with pytest.raises(TrainingError, match="not finite"):
        one.learn([batch(0)])
    assert one.step == 0
    for name, value in one.tensors().items():
        torch.testing.assert_close(value, before[name], equal_nan=True, rtol=0, atol=0)


@METHODS
def test_a_run_that_was_saved_and_taken_up_again_is_bit_for_bit_the_same(method, tmp_path):
    whole = trainer(method)
    losses = [whole.learn([batch(i)]).loss for i in range(8)]
    first = trainer(method)
    for i in range(4):
        first.learn([batch(i)])
    save_state(tmp_path, first, settings={"a": 1})
    second = Trainer(tiny(seed=9), CrossEntropy(), first.how, bf16=False)
    state = load_state(tmp_path, second, settings={"a": 1})
    assert state is not None and second.step == 4
    assert [second.learn([batch(i)]).loss for i in range(4, 8)] == losses[4:]
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), second.tensors().values(), strict=True))


def test_a_state_that_is_cut_off_is_left_for_the_one_before(tmp_path):
    one = trainer()
    for _ in range(4):
        one.learn([batch(0)])
        newest = save_state(tmp_path, one, settings={})
    assert len(list(tmp_path.glob("state-*"))) == 2
    file = newest / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    again = trainer()
    assert load_state(tmp_path, again, settings={}) is not None and again.step == 3


def test_a_run_whose_states_cannot_be_read_is_not_begun_anew(tmp_path):
    newest = save_state(tmp_path, trainer(), settings={})
    (newest / "state.json").write_text("[]")
    with pytest.raises(TrainingError, match="none can be read"):
        load_state(tmp_path, trainer(), settings={})


@pytest.mark.parametrize(
    "how", [{"betas": (2, 0.9)}, {"betas": (0.9, -1)}, {"momentum": -1}, {"momentum": 1}, {"rate": 0}]
)
def test_what_no_optimiser_takes_is_refused_by_name(how):
    with pytest.raises(ConfigError, match=next(iter(how))):
        Optimisation(**how)


def test_a_run_with_other_settings_is_refused(tmp_path):
    save_state(tmp_path, trainer(), settings={"rate": 1})
    with pytest.raises(TrainingError, match="rate=1, asked for is 2"):
        load_state(tmp_path, trainer(), settings={"rate": 2})


KILLED = """
import sys
from pathlib import Path
from octavo.train.state import load_state, save_state
from tests.train.minis import batch
from tests.train.test_trainer import trainer
one, folder = trainer("muon"), Path(sys.argv[1])
load_state(folder / "run", one, settings={})
while one.step < 60:
    learnt = one.learn([batch(one.step)])
    with (folder / "log").open("a") as log:
        print(learnt.step, repr(learnt.loss), file=log, flush=True)
    save_state(folder / "run", one, settings={})
"""


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_with_the_same_losses(tmp_path):
    whole = trainer("muon")
    wanted = {i + 1: whole.learn([batch(i)]).loss for i in range(60)}
    kills = 0
    for attempt in range(12):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
        begun = len(lines(tmp_path))
        while process.poll() is None and len(lines(tmp_path)) < begun + 8 + attempt:
            time.sleep(0.003 * (attempt + 1) / 4)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
    found = lines(tmp_path)
    assert kills >= 3 and found[-1][0] == "60"
    assert all(float(loss) == wanted[int(step)] for step, loss in found)


def lines(folder):
    log = folder / "log"
    return [line.split() for line in log.read_text().splitlines() if line.count(" ") == 1] if log.exists() else []


def test_matrices_of_layers_take_muon_and_all_else_adamw_without_decay():
    model = tiny(tie_word_embeddings=False)
    *muons, adamw = optimisers(model, Optimisation(method="muon"))
    assert all(isinstance(muon, torch.optim.Muon) for muon in muons) and isinstance(adamw, torch.optim.AdamW)
    halves = [{id(p) for group in muon.param_groups for p in group["params"]} for muon in muons]
    assert len(halves) == 2 and not halves[0] & halves[1] and abs(len(halves[0]) - len(halves[1])) < 2
    inside = halves[0] | halves[1]
    outside = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert inside | outside == {id(p) for p in model.parameters()} and not inside & outside
    assert id(model.model.embed_tokens.weight) in outside and id(model.lm_head.weight) in outside
    assert all(group["weight_decay"] == 0 for group in adamw.param_groups)


@pytest.mark.parametrize("shape", [(48, 32), (32, 96), (40, 40)])
def test_muon_in_float32_goes_where_torchs_goes(shape):
    torch.manual_seed(1)
    begin = torch.randn(shape)
    wide, low = torch.nn.Parameter(begin.clone()), torch.nn.Parameter(begin.clone())
    ours, theirs = StackedMuon([wide], HOW, products=torch.float32), torch.optim.Muon([low], **TORCHS)
    for _ in range(4):
        wide.grad = torch.randn(shape)
        low.grad = wide.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(ours.state[wide]["momentum_buffer"], theirs.state[low]["momentum_buffer"])
    assert (wide - low).norm() < 0.03 * (wide - begin).norm()  # five rounds of bf16 are a hundredth


@pytest.mark.parametrize("stacked", [1, 7000, 1 << 20])
def test_muon_of_many_matrices_at_once_takes_torchs_steps_to_the_bit(stacked: int, monkeypatch):
    monkeypatch.setattr("octavo.train.optimiser.STACKED", stacked)
    torch.manual_seed(2)
    shapes = [(48, 32), (40, 40), (32, 96), (48, 32), (32, 48), (40, 40), (48, 32), (96, 32)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(one.detach().clone()) for one in ours]
    pair = StackedMuon(ours, HOW, products=torch.bfloat16), torch.optim.Muon(theirs, **TORCHS)
    for step in range(4):
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            one.grad = torch.randn(shapes[i]) if i != step else None  # one of them was not in use
            other.grad = None if one.grad is None else one.grad.clone()
        for optimiser in pair:
            optimiser.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_cpu_that_does_not_multiply_bf16_learns_in_float32(monkeypatch):
    for place in ("trainer", "optimiser"):
        monkeypatch.setattr(f"octavo.train.{place}.multiplies_bf16", lambda: False)
    how = Optimisation(method="muon", rate=3e-3)
    asked, plain = Trainer(tiny(), CrossEntropy(), how, bf16=True), Trainer(tiny(), CrossEntropy(), how, bf16=False)
    assert not asked.bf16 and isinstance(asked.optimisers[0], StackedMuon)
    assert [asked.learn([batch(i)]).loss for i in range(4)] == [plain.learn([batch(i)]).loss for i in range(4)]


def test_all_but_the_matrices_take_their_own_share_of_the_rate():
    trainer = Trainer(tiny(), CrossEntropy(), Optimisation(method="muon", rate=1e-3, others=6), rate=lambda step: 0.5)
    trainer.learn([batch(1)])
    *muons, adamw = trainer.optimisers
    assert [group["lr"] for muon in muons for group in muon.param_groups] == [5e-4, 5e-4]
    assert [group["lr"] for group in adamw.param_groups] == [pytest.approx(3e-3)]


def test_a_state_of_another_optimiser_is_refused():
    first, second = trainer("muon"), trainer("adamw")
    first.learn([batch(1)])
    with pytest.raises(TrainingError, match="another optimiser"):
        second.restore(first.tensors(), step=1)


def test_frozen_models_and_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="frozen"):
        optimisers(tiny().requires_grad_(False), Optimisation())
    for wrong in ({"rate": 0}, {"others": 0}, {"clip": -1}, {"weight_decay": -1}, {"rate": math.nan},
                  {"rate": math.inf}, {"others": math.inf}, {"weight_decay": math.inf}):  # fmt: skip
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Optimisation(**wrong)


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "wsd"])
def test_learning_rates_rise_and_do_not_rise_again(shape):
    rates = [Schedule(shape=shape, steps=100, warmup=10, least=0.1)(i) for i in range(101)]
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[0] < 0.2 and max(rates) == 1
    assert rates[100] == pytest.approx(1 if shape == "constant" else 0.1)
    assert shape != "wsd" or rates[70] == 1


def test_after_the_last_step_a_rate_may_fall_anew_in_rounds():
    rates = [Schedule(shape="wsd", steps=20, warmup=5, least=0.2, again=4)(i) for i in range(32)]
    assert rates[:20] == [Schedule(shape="wsd", steps=20, warmup=5, least=0.2)(i) for i in range(20)]
    assert rates[20:24] == rates[24:28] == rates[28:] == pytest.approx([1.0, 0.8, 0.6, 0.4])


def test_an_unknown_shape_is_refused():
    with pytest.raises(ConfigError, match="wsd"):
        Schedule(shape="square", steps=1)(0)


def test_sums_over_tokens_are_not_rounded_to_bf16(monkeypatch: pytest.MonkeyPatch):
    wanted = [Trainer(tiny(), CrossEntropy(), Optimisation(), bf16=False).learn([batch(seed)]).loss for seed in (1, 2)]
    monkeypatch.setattr(Learner, "plain", "autograd, as on a GPU")
    for seed, exact in zip((1, 2), wanted, strict=True):
        trainer = Trainer(tiny(), CrossEntropy(), Optimisation(), bf16=True)
        for found in (trainer.surprise([batch(seed)]), trainer.learn([batch(seed)]).loss):
            assert found == pytest.approx(exact, abs=2e-3) and float(torch.tensor(found).bfloat16()) != found
