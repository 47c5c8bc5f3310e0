"""The recipes of RL and distillation run from folder to folder, with settings as words."""

from pathlib import Path

import pytest

from octavo.chat.loading import open_text
from octavo.core.errors import ConfigError, TrainingError
from octavo.train.models import write_model
from octavo.train.recipes import RECIPES, recipe
from octavo.train.run import Silent, read_log
from octavo.train.settings import read_settings
from octavo.weights.checkpoint import open_checkpoint
from tests.serve.mini import config
from tests.train.guesses import guesser, words

TASKS = 'tasks={"retrieval": [1, 2], "tools": [1]}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", guesser(), config=config(), tokenizer=words()[0])
    return tmp_path


def go(name: str, folder: Path, *more: str) -> Path:
    told = [f"model={folder}/model", f"out={folder}/{name}", "longest=24", TASKS, *more]
    return recipe(name).run(read_settings(recipe(name).Settings, told, recipe=name), progress=Silent())


@pytest.mark.parametrize("name", ["rl", "general_rl"])
def test_a_model_comes_out_that_talks(name: str, folder: Path):
    out = go(name, folder, "queries=4", "replies=4", "steps=2")
    tokenizer, form = open_text(open_checkpoint(out))
    assert form.name == "qwen3" and tokenizer.vocab_size == words()[0].vocab_size
    lines = read_log(folder / f"{name}.run")
    assert len(lines) == 2 and {"reward", "solved tools 1", "gap"} <= set(lines[-1]["figures"])
    assert go(name, folder, "queries=4", "replies=4", "steps=2") == out  # it is there already


def test_updates_are_many_from_one_sampling(folder: Path):
    go("rl", folder, "queries=4", "replies=4", "steps=2", "updates=2")
    assert ["reward" in line["figures"] for line in read_log(folder / "rl.run")] == [True, False, True, False]


@pytest.mark.parametrize(
    ("more", "found"),
    [(["updates=9", "queries=4"], "9 of 4"), (["clipping=gspo", "bf16=true", "updates=2"], "3e-4")],
)
def test_what_would_learn_from_nothing_is_refused(more: list[str], found: str, folder: Path):
    with pytest.raises(ConfigError, match=found):
        go("rl", folder, *more)


def test_distillation_of_a_model_into_itself_finds_nothing_to_learn(folder: Path):
    go("distill", folder, f"teacher={folder}/model", "replies=0", "off_steps=0", "on_steps=1", "queries=8")
    (line,) = read_log(folder / "distill.on")
    assert abs(line["loss"]) < 1e-5


def test_a_teacher_that_is_never_right_teaches_nothing(folder: Path):
    with pytest.raises(TrainingError, match="no right reply"):
        go("distill", folder, f"teacher={folder}/model", "replies=6", "off_steps=1", "on_steps=0")


def test_replies_that_make_no_groups_are_refused(folder: Path):
    with pytest.raises(ConfigError, match="9 replies are no multiple of each=4"):
        go("distill", folder, f"teacher={folder}/model", "queries=9")


def test_levels_that_are_not_there_are_refused(folder: Path):
    for tasks, words_of_it in [('{"retrieval": [99]}', "levels 1 to"), ('{"nothing": [1]}', "no task 'nothing'")]:
        told = [f"model={folder}/model", f"out={folder}/rl", f"tasks={tasks}"]
        with pytest.raises(ConfigError, match=words_of_it):
            recipe("rl").run(read_settings(recipe("rl").Settings, told, recipe="rl"), progress=Silent())


def test_each_recipe_of_the_table_is_short_and_says_what_it_can_be_told():
    for name in ("rl", "general_rl", "distill"):
        assert name in RECIPES
        assert len(Path(str(recipe(name).__file__)).read_text(encoding="utf-8").splitlines()) <= 150
