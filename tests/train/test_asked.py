"""The same question finds the same model again; another one is never answered with it."""

import json
from pathlib import Path

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from octavo.core.errors import TrainingError
from octavo.train.asked import CARD, asked, made
from octavo.train.lora import Lora
from octavo.train.recipes import RECIPES, chatvector, coldstart, distill, dpo, fuse, general_rl, rl, sft
from octavo.train.recipes.rl import Settings

RECIPE = Settings(model="a/base", out="o", tasks={"chain": [1, 2]})


def kept(folder: Path, settings: Settings) -> dict[str, object]:
    folder.mkdir()
    wanted = asked(settings, recipe="rl")
    (folder / CARD).write_text(json.dumps({"settings": {**wanted, "more": 1}}))
    return wanted


def test_the_same_question_finds_the_model_wherever_its_folders_are(tmp_path: Path):
    wanted = kept(tmp_path / "out", RECIPE)
    assert made(tmp_path / "out", wanted) and not made(tmp_path / "none", wanted)
    assert made(tmp_path / "out", asked(replace(RECIPE, model="b/base", out="p"), recipe="rl"))


@pytest.mark.parametrize("changes", [
    {"seed": 1}, {"model": "a/other"}, {"tasks": {"chain": [1]}}, {"how": replace(RECIPE.how, rate=1e-5)},
])  # fmt: skip
def test_another_question_is_refused_by_what_differs(tmp_path: Path, changes: dict[str, object]):
    kept(tmp_path / "out", RECIPE)
    with pytest.raises(TrainingError, match=next(iter(changes))):
        made(tmp_path / "out", asked(replace(RECIPE, **changes), recipe="rl"))


def test_another_model_of_the_same_name_is_another_question(tmp_path: Path):
    for place, text in (("one", "a"), ("two", "b")):
        (tmp_path / place / "base").mkdir(parents=True)
        (tmp_path / place / "base" / "model.safetensors").write_text(f"{'x' * 999_999}{text}{'x' * 999_999}")
    wanted = kept(tmp_path / "out", replace(RECIPE, model=str(tmp_path / "one" / "base")))
    assert made(tmp_path / "out", wanted)
    with pytest.raises(TrainingError, match="model_digest"):
        made(tmp_path / "out", asked(replace(RECIPE, model=str(tmp_path / "two" / "base")), recipe="rl"))


def test_changes_to_go_on_with_are_part_of_the_question(tmp_path: Path):
    recipe = replace(RECIPE, lora=Lora(begin=str(tmp_path / "adapter")))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_text("one")
    kept(tmp_path / "out", recipe)
    (tmp_path / "adapter" / "adapter_model.safetensors").write_text("two")
    with pytest.raises(TrainingError, match="lora_digest"):
        made(tmp_path / "out", asked(recipe, recipe="rl"))


def test_other_data_and_a_folder_of_something_else_are_refused(tmp_path: Path):
    data = tmp_path / "data.txt"
    data.write_text("one")
    before = asked(RECIPE, recipe="rl", files=[data])
    (tmp_path / "out").mkdir()
    with pytest.raises(TrainingError, match="no model of a recipe"):
        made(tmp_path / "out", before)
    (tmp_path / "out" / CARD).write_text(json.dumps({"settings": before}))
    data.write_text("two")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="no model of a recipe"):
        made(tmp_path / "file", before)
    with pytest.raises(TrainingError, match="data_sha256"):
        made(tmp_path / "out", asked(RECIPE, recipe="rl", files=[data]))


def test_every_recipe_that_makes_a_model_asks(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "data.jsonl").write_text("{}")
    common = {"model": str(tmp_path), "out": str(tmp_path / "out")}
    tasks, data = {"tasks": {"chain": [1]}}, {"data": str(tmp_path / "data.jsonl")}
    others = {coldstart: tasks, rl: tasks, general_rl: tasks, fuse: tasks, sft: data, dpo: data,
              distill: {**tasks, "teacher": "t"}, chatvector: {"plus": "p", "minus": "m"}}  # fmt: skip
    for recipe, more in others.items():
        with pytest.raises(TrainingError, match="another folder"):
            recipe.run(recipe.Settings(**common, **more))
    names = {recipe.__name__.rsplit(".", 1)[-1] for recipe in others}
    assert names | {"tokenizer", "pretrain", "mini"} == set(RECIPES), to_builtins(sorted(names))
