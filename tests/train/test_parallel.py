"""Two processes that talk by gloo learn what one learns alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from octavo.core.errors import ConfigError
from octavo.train.models import write_model
from octavo.train.parallel import open_ranks
from octavo.train.ranks import Ranks
from octavo.train.recipes import recipe
from octavo.train.run import read_log
from octavo.train.state import load_state, save_state
from tests.serve.mini import config
from tests.train import ranks_run, recipes_run
from tests.train.guesses import guesser, words
from tests.train.test_recipes import texts  # noqa: F401 (a fixture)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def together(*words: str) -> None:
    """Run a program on two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    one = ranks_run.trainer("dense", Ranks())
    for step in range(4):
        one.learn(ranks_run.batches(step, Ranks()))
    save_state(folder / "alone", one, settings={})
    together("-m", "tests.train.ranks_run", str(folder))
    return folder, json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("name", ["dense", "moe", "copies", "tensor"])
def test_two_ranks_learn_what_one_does(two, tmp_path, name: str):
    found = two[1][name]
    # The shares of experts are those of the whole step, which one process alone sees in one batch.
    alone = ranks_run.learnt(name, Ranks(), tmp_path, apart=name != "moe")
    assert found["tokens"] == alone["tokens"]
    assert found["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert found["norms"] == pytest.approx(alone["norms"], rel=1e-4)
    assert found["unseen"] == pytest.approx(alone["unseen"], abs=1e-5)
    for key, weight in alone["weights"].items():
        torch.testing.assert_close(torch.tensor(found["weights"][key]), torch.tensor(weight), atol=2e-5, rtol=0)


def test_two_ranks_take_the_steps_of_muon(two, tmp_path):
    """Its steps are computed in bfloat16, and so are as near as that."""
    found, alone = two[1]["untied"], ranks_run.learnt("untied", Ranks(), tmp_path)
    assert found["losses"] == pytest.approx(alone["losses"], abs=1e-3)
    for key, weight in alone["weights"].items():
        torch.testing.assert_close(torch.tensor(found["weights"][key]), torch.tensor(weight), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["dense", "untied", "tensor"])
def test_what_two_ranks_have_saved_one_goes_on_with(two, name: str):
    folder, found = two
    one = ranks_run.trainer(name, Ranks())
    state = load_state(folder / name, one, settings={})
    assert state is not None and one.step == state.step == ranks_run.CASES[name][2]
    for key, parameter in one.model.named_parameters():
        assert parameter.detach().flatten().tolist() == found[name]["weights"][key]
    alone = ranks_run.trainer(name, Ranks())
    for step in range(one.step):
        alone.learn(ranks_run.batches(step, Ranks()))
    near = 1e-5 if name != "untied" else 2e-3
    for step in range(one.step, one.step + 3):
        losses = [each.learn(ranks_run.batches(step, Ranks())).loss for each in (one, alone)]
        assert losses[0] == pytest.approx(losses[1], abs=near)


def test_what_one_has_saved_two_ranks_go_on_with(two):
    assert two[1]["gone_on"] == pytest.approx(two[1]["dense"]["losses"][4:9], abs=1e-5)
    assert ranks_run.gone_on(two[0], Ranks()) == pytest.approx(two[1]["gone_on"], abs=1e-5)


def test_the_recipe_under_torchrun_is_the_recipe_alone(texts, tmp_path):  # noqa: F811
    def words(out: str) -> list[str]:
        stage = {"name": "general", "steps": 6, "tokens": 256, "batches": 2, "longest": 64}
        shape = ("width=32", "layers=2", "heads=2", "kv_heads=2", "head_width=16", "inner=64")
        return [
            "octavo", "train", "pretrain", f"data={texts[0]}/*.*", f"tokenizer={texts[0]}/words", "how.method=adamw",
            f"out={tmp_path / out}", f"stages={json.dumps([stage])}", "bf16=false", "held_out=10", "measure=3",
            *(f"shape.{word}" for word in shape),
        ]  # fmt: skip

    together("-m", *words("two"))
    together("-m", *words("tensor"), "tensor=2", "save_s=0")  # both ranks save at every step
    done = subprocess.run([sys.executable, "-m", *words("one")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "one" / "1-general"), done.stderr
    one, *others = (read_log(tmp_path / name / "runs" / "1-general") for name in ("one", "two", "tensor"))
    for both in others:
        assert [line["step"] for line in both] == list(range(1, 7))
        for a, b in zip(one, both, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["tokens"] == b["tokens"]
            assert a["figures"] == pytest.approx(b["figures"], abs=1e-5)
    assert (tmp_path / "two" / "1-general" / "model.safetensors").stat().st_size > 0


def test_recipes_that_sample_and_share_what_they_learn_learn_what_one_process_does(tmp_path):
    """To the rounding of sums: each samples some of the replies, all know all of them, each learns from some."""
    logs = dict[str, dict[str, list[dict[str, Any]]]]()
    for name in ("one", "two"):
        folder = tmp_path / name
        write_model(folder / "model", guesser(), config=config(), tokenizer=words()[0])
        together("-m", "tests.train.recipes_run", str(folder)) if name == "two" else recipes_run.run(folder)
        runs = {path.parent.name: read_log(path.parent) for path in folder.glob("*/log.jsonl")}
        logs[name] = runs
        assert all((folder / made / "model.safetensors").exists() for made in recipes_run.STEPS)
    assert set(logs["one"]) == set(logs["two"]) == {"cold.run", "rl.run", "distill.on"}
    assert all(lines[0]["norm"] > 0 for lines in logs["one"].values())
    for run, lines in logs["one"].items():
        for a, b in zip(lines, logs["two"][run], strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["tokens"] == b["tokens"], run
            assert a["figures"] == pytest.approx(b["figures"], abs=1e-4) and a["norm"] == pytest.approx(
                b["norm"], rel=1e-3
            )


@pytest.mark.parametrize("name", ["dpo", "mini", "chatvector", "tokenizer"])
def test_what_one_process_does_is_refused_to_two(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=f"{name} runs in one process"):
        recipe(name)


def test_processes_that_cannot_be_divided_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(ConfigError, match="multiple of 4 processes, there are 6"):
        open_ranks(copies=2, tensor=2)
