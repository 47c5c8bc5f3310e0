"""Recipes from the command line to a model that transformers reads; settings that are refused with a clear error."""

import errno
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from typing import Annotated, Literal

import pytest
import torch
from msgspec import Meta, Struct
from msgspec.structs import replace
from typer.testing import CliRunner

from octavo.cli.main import app
from octavo.core.errors import CheckpointError, ConfigError, SampleError, TrainingError
from octavo.text.learn import learn_tokenizer
from octavo.train.reading import Pieces
from octavo.train.recipes import RECIPES, pretrain, recipe, tokenizer
from octavo.train.run import Silent, read_log
from octavo.train.settings import explained, read_settings
from octavo.train.texts import documents, text_files, texts_hash


class Inner(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rate: Annotated[float, Meta(gt=0)] = 0.5
    kind: Literal["a", "b"] = "a"


class Some(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(description="what it is called")]
    count: int = 3
    on: bool = False
    many: tuple[int, ...] = (1, 2)
    few: Annotated[int, Meta(ge=1)] | None = 5
    inner: Inner = Inner(rate=0.25)


def test_words_become_settings():
    words = ["name=12", "count=7", "on=true", "many=[3]", "few=none", "inner.kind=b"]
    found = read_settings(Some, words, recipe="some")
    assert found == Some(name="12", count=7, on=True, many=(3,), few=None, inner=Inner(rate=0.25, kind="b"))
    assert read_settings(Some, ["name=x=y", "inner.rate=inf"], recipe="some").inner.rate == math.inf


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["name"], "write key=value"), (["name=a", "name=b"], "twice"), ([], "needs name="),
        (["nam=a"], "choose of name, count, on, many, few, inner.rate, inner.kind"),
        (["name=a", "inner.no=1"], "inner.no"), (["name=a", "count=1.5"], "count=1.5: give a whole number."),
        (["name=a", "on=yes"], "on=yes: give true|false."), (["name=a", "inner.kind=c"], "inner.kind=c: give a|b."),
        (["name=a", "few=0"], "few=0: give a whole number at least 1 or none."), (["name=a", "count.x=1"], "count.x"),
        (["name=a", "inner.rate=0"], "inner.rate=0: give a number above 0."),
        (["name=a", "many=3"], "many=3: Expected `array`, got `int`: give JSON."), (["name=a", "inner=1"], "'inner'"),
    ],
)  # fmt: skip
def test_words_that_are_no_settings_are_refused_by_name(words: list[str], told: str):
    with pytest.raises(ConfigError, match=re.escape(told)):
        read_settings(Some, words, recipe="some")


def test_what_settings_refuse_together_is_one_sentence():
    with pytest.raises(ConfigError, match=r"rate=-1\.0 must be more than 0\.$"):
        read_settings(pretrain.Settings, ["data=a", "tokenizer=b", "out=c", "how.rate=-1"], recipe="pretrain")


def test_settings_are_explained_with_the_defaults_that_hold():
    rows = {key: (kind, value, text) for key, kind, value, text in explained(Some)}
    assert rows["name"] == ("text", "(needed)", "what it is called")
    assert rows["inner.rate"] == ("number", "0.25", "") and rows["inner.kind"] == ("a|b", "a", "")


def test_the_command_lists_recipes_and_their_settings():
    def said(*words: str) -> str:
        return CliRunner().invoke(app(), ["train", *words]).output

    assert all(name in said("--help") and name in said() for name in RECIPES)
    for name in RECIPES:
        text = said(name, "--help")
        assert all(key in text for key, *_ in explained(recipe(name).Settings))
    with pytest.raises(ConfigError, match="no recipe"):
        recipe("pretrian")


def test_a_recipe_that_does_not_divide_its_work_is_not_run_many_times_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert recipe("pretrain") is pretrain
    with pytest.raises(ConfigError, match="one process"):
        recipe("tokenizer")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory):
    draw, folder = random.Random(0), tmp_path_factory.mktemp("texts")
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "ten", "dogs", "run", "home"]
    made = [" ".join(draw.choices(words, k=draw.randint(3, 60))) + "." for _ in range(80)]
    (folder / "a.txt").write_text("\n\n".join(made[:40]) + "\n", encoding="utf-8")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in made[40:]), encoding="utf-8")
    settings = tokenizer.Settings(data=str(folder / "*.*"), out=str(folder / "words"), size=280, context=512)
    tokenizer.run(settings, progress=Silent())
    return folder, made


def test_texts_are_read_in_both_kinds_of_files(texts, tmp_path):
    folder, made = texts
    files = text_files(f"{folder}/a.txt, {folder}/*.jsonl")
    assert list(documents(files)) == made
    assert texts_hash(files) != texts_hash(files[:1])
    for content, told in (
        ('{"text": ""}', "wrong.jsonl:1"),
        ('{"text": "a"}\n[1]', "wrong.jsonl:2"),
        ("{", "not valid"),
    ):
        (tmp_path / "wrong.jsonl").write_text(content)
        with pytest.raises(SampleError, match=told):
            list(documents([tmp_path / "wrong.jsonl"]))
    with pytest.raises(SampleError, match="no file"):
        text_files(f"{folder}/none.txt")


def test_files_with_odd_names_and_marks_are_read_as_what_they_are(tmp_path):
    (tmp_path / "a[1].txt").write_text("one\n\ntwo", encoding="utf-8-sig")
    (tmp_path / "B.JSONL").write_text('{"text": "three"}\n', encoding="utf-8-sig")
    assert list(documents(text_files(f"{tmp_path}/a[1].txt,{tmp_path}/B.JSONL"))) == ["one", "two", "three"]


def test_texts_that_cannot_be_read_or_hold_nothing_are_refused(tmp_path):
    (tmp_path / "half.jsonl").write_text('{"text": "a"}\n{"text": "b \\ud800"}\n')
    with pytest.raises(SampleError, match=r"half.jsonl:2: half of a surrogate pair"):
        list(documents([tmp_path / "half.jsonl"]))
    with pytest.raises(SampleError, match="cannot be read"):
        texts_hash([tmp_path])
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(SampleError, match="has no text"):
        tokenizer.run(tokenizer.Settings(data=f"{tmp_path}/empty.txt", out=f"{tmp_path}/words"))
    assert not (tmp_path / "words").exists()


def test_each_text_is_read_once_an_epoch_and_a_group_is_a_function_of_its_number():
    told = [[i] * (i % 7 + 1) for i in range(1, 30)]
    made = Pieces(told, end=0, longest=5, tokens=12, seed=3)
    groups = [made.group(i) for i in range(40)]
    count, seen = len(made.epochs[0]), list[int]()
    for group in groups[:count]:
        assert 0 < sum(len(one) for one in group) <= 12 and all(len(one) <= 5 for one in group)
        seen += [token for one in group for token in one.tokens.tolist()]
    whole = [token for one in told for token in [*one, 0]]
    lost = [token for one in told if (len(one) + 1) % 5 == 1 for token in [0]]  # alone in a piece: teaches nothing
    assert sorted(seen) == sorted(whole)[len(lost) :]
    again = Pieces(told, end=0, longest=5, tokens=12, seed=3)
    for number in (39, 3):
        assert [one.tokens.tolist() for one in again.group(number)] == [one.tokens.tolist() for one in groups[number]]


def settings(folder, out, **more) -> pretrain.Settings:
    stages = (
        pretrain.Stage(name="general", steps=6, tokens=256, batches=2, longest=64),
        pretrain.Stage(name="long", steps=4, tokens=256, longest=128, theta=1e5, rate=0.5, decay=1.0, least=0.1),
    )
    return pretrain.Settings(
        data=f"{folder}/*.*", tokenizer=f"{folder}/words", out=str(out), stages=stages, held_out=10, measure=3,
        shape=pretrain.Size(width=32, layers=2, heads=2, kv_heads=1, head_width=16, inner=64), **more,
    )  # fmt: skip


@pytest.mark.parametrize("experts", [0, 4])
def test_a_pretrained_model_is_read_by_transformers_with_the_same_logits(texts, tmp_path, experts: int):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from octavo.nn.context import PackedContext
    from octavo.train.models import read_model

    how = settings(texts[0], tmp_path / "run")
    place = pretrain.run(
        replace(how, shape=replace(how.shape, experts=experts)),
        progress=Silent(),
    )
    model, config = read_model(place)
    theirs, words = AutoModelForCausalLM.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    ids = torch.tensor(words.encode("the cat saw ten dogs."))
    with torch.no_grad():
        ours = model.logits(model(ids, PackedContext([len(ids)])))
        torch.testing.assert_close(ours, theirs(ids[None]).logits[0].float(), atol=1e-4, rtol=0)
    assert config["rope_theta"] == 1e5 and config["max_position_embeddings"] == 128
    card = json.loads((place / "stage.json").read_text())
    assert card["steps"] == 4 and card["tokens"] > 0 and card["flops"] > 0 and card["cpu_s"] > 0
    assert len(card["settings"]["data_sha256"]) == 64 and card["figures"]["held_out"] > 0
    report = (tmp_path / "run/runs/2-long/report.html").read_text(encoding="utf-8")
    assert report.count("<svg") >= 6 and "src=" not in report
    log = read_log(tmp_path / "run/runs/1-general")
    assert [line["step"] for line in log] == list(range(1, 7)) and log[-1]["loss"] < log[0]["loss"]
    assert all(line["mfu"] > 0 and line["speed"] > 0 for line in log)


@pytest.mark.parametrize(("word", "told"), [("held_out=1", "none learnt"), ("stages=", "matching regex")])
def test_what_would_learn_nothing_or_share_a_folder_is_refused(texts, tmp_path, word: str, told: str):
    word += json.dumps([{"name": "../up", "steps": 1}]) if word == "stages=" else ""
    given = [f"data={texts[0]}/*.*", f"tokenizer={texts[0]}/words", f"out={tmp_path}/run", word]
    with pytest.raises(ConfigError, match=told):
        pretrain.run(read_settings(pretrain.Settings, given, recipe="pretrain"))


def test_another_tokenizer_is_another_question(texts, tmp_path):
    how = settings(texts[0], tmp_path / "run")
    pretrain.run(how, progress=Silent())
    other = learn_tokenizer(["other words, other pieces"], size=300)
    (tmp_path / "other").mkdir()
    other.save(tmp_path / "other")
    with pytest.raises(TrainingError, match="tokenizer_digest"):
        pretrain.run(replace(how, tokenizer=str(tmp_path / "other")), progress=Silent())
    wide = learn_tokenizer([" ".join(f"{i:x}{i % 97:x}z{i}" for i in range(9000))], size=1500)
    (tmp_path / "wide").mkdir()
    wide.save(tmp_path / "wide")
    with pytest.raises(CheckpointError, match="has rows for"):
        pretrain.run(
            replace(
                how, model=str(tmp_path / "run" / "2-long"), tokenizer=str(tmp_path / "wide"), out=str(tmp_path / "x")
            ),
            progress=Silent(),
        )


def test_a_stage_that_was_stopped_goes_on_and_one_that_is_done_stays(texts, tmp_path, monkeypatch: pytest.MonkeyPatch):
    whole = pretrain.run(settings(texts[0], tmp_path / "whole"), progress=Silent())
    stopped = settings(texts[0], tmp_path / "cut", save_s=0.0)
    learn, steps = pretrain.Trainer.learn, list[int]()

    def cut(trainer, batches):
        if len(steps) == 4:
            raise KeyboardInterrupt
        steps.append(trainer.step)
        return learn(trainer, batches)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain.Trainer, "learn", cut)
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(stopped, progress=Silent())
    with pytest.raises(TrainingError, match="seed"):
        pretrain.run(replace(stopped, seed=1), progress=Silent())
    again = pretrain.run(stopped, progress=Silent())
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    for stage in ("1-general", "2-long"):
        both = [[line["loss"] for line in read_log(tmp_path / name / "runs" / stage)] for name in ("whole", "cut")]
        assert both[0] == both[1]
    monkeypatch.setattr(pretrain.Trainer, "learn", None)
    assert pretrain.run(stopped, progress=Silent()) == again


def test_tensorboard_is_written_where_it_is_installed(texts, tmp_path, monkeypatch: pytest.MonkeyPatch):
    from octavo.train import run

    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"octavo\[train\]"):
        run.open_board(tmp_path, after=0)
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    board = run.open_board(tmp_path, after=0)
    board.add_scalar("loss", 1.0, 1)
    board.close()
    assert next(tmp_path.iterdir()).stat().st_size > 0


def test_a_folder_that_another_process_trains_in_is_left_alone(tmp_path, monkeypatch: pytest.MonkeyPatch):
    from octavo.train import run
    from octavo.train.run import hold

    first = (
        "import sys, pathlib; from octavo.train.run import hold; lock = hold(pathlib.Path('.')); print('held'); input()"
    )
    other = subprocess.Popen([sys.executable, "-c", first], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    for _ in range(2):
        with pytest.raises(TrainingError, match=rf"process {other.pid} is training here already: wait"):
            hold(tmp_path)
    other.kill()
    other.communicate()
    with hold(tmp_path):
        pass

    def none(*asked: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(run.fcntl, "lockf", none)
    with hold(tmp_path):
        pass


@pytest.mark.slow
def test_a_recipe_killed_at_any_moment_ends_with_the_same_log_and_model(texts, tmp_path):
    def command(out: str) -> list[str]:
        stage = {"name": "general", "steps": 300, "tokens": 256, "longest": 64}
        shape = ("width=32", "layers=2", "heads=2", "kv_heads=1", "head_width=16", "inner=64")
        return [sys.executable, "-m", "octavo", "train", "pretrain", f"data={texts[0]}/*.*", f"out={tmp_path / out}",
                f"tokenizer={texts[0]}/words", f"stages={json.dumps([stage])}", "save_s=0", "measure=50",
                *(f"shape.{word}" for word in shape)]  # fmt: skip

    threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on how many there are
    log, kills, draw = tmp_path / "cut/runs/1-general/log.jsonl", 0, random.Random(1)
    told = read_settings(pretrain.Settings, command("whole")[5:], recipe="pretrain")
    pretrain.run(told, progress=Silent())
    for _ in range(20):
        process = subprocess.Popen(command("cut"), stdout=subprocess.DEVNULL, env=threads)
        size = log.stat().st_size if log.exists() else 0
        while process.poll() is None and not (kills < 2 and log.exists() and log.stat().st_size > size + 4000):
            time.sleep(0.002)
        time.sleep(draw.random() * 0.02)
        if process.poll() is None:
            process.kill()
            kills += 1
        if process.wait() == 0:
            break
    assert kills == 2
    losses = [[line["loss"] for line in read_log(tmp_path / name / "runs/1-general")] for name in ("whole", "cut")]
    assert len(losses[0]) == 300 and losses[0] == losses[1]
    models = [(tmp_path / name / "1-general/model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert models[0] == models[1]
