"""The recipes of RL and distillation run from folder to folder, with settings as words."""

import json
import random
import shutil
from collections import Counter
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from octavo.chat.loading import open_text
from octavo.chat.local import LocalChat
from octavo.core.deltas import Usage
from octavo.core.errors import ConfigError, TrainingError
from octavo.core.messages import Message
from octavo.core.sampling import Thinking
from octavo.core.task import Problem, Score, Trajectory, Turn
from octavo.tasks import TASKS
from octavo.text.chat.qwen3 import Qwen3
from octavo.text.learn import learn_tokenizer
from octavo.train import pupil
from octavo.train.batch import Batch
from octavo.train.lessons import problem_of
from octavo.train.models import fresh, write_model
from octavo.train.own import OwnChat
from octavo.train.ranks import Ranks
from octavo.train.recipes import RECIPES, distill, fuse, general_rl, recipe, rl
from octavo.train.run import Silent, read_log
from octavo.train.settings import read_settings
from octavo.weights.checkpoint import open_checkpoint
from tests.serve.mini import config
from tests.train.guesses import guesser, words
from tests.train.models import documents

GIVEN = 'tasks={"retrieval": [1, 2], "tools": [1]}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", guesser(), config=config(), tokenizer=words()[0])
    return tmp_path


def go(name: str, folder: Path, *more: str) -> Path:
    told = [f"model={folder}/model", f"out={folder}/{name}", "longest=24", GIVEN, *more]
    return recipe(name).run(read_settings(recipe(name).Settings, told, recipe=name), progress=Silent())


@pytest.mark.parametrize("name", ["rl", "general_rl"])
def test_a_model_comes_out_that_talks(name: str, folder: Path):
    out = go(name, folder, "queries=4", "replies=4", "steps=2")
    tokenizer, form = open_text(open_checkpoint(out))
    assert form.name == "qwen3" and tokenizer.vocab_size == words()[0].vocab_size
    lines = read_log(folder / f"{name}.run")
    assert len(lines) == 2 and {"reward", "solved tools 1", "gap"} <= set(lines[-1]["figures"])
    assert go(name, folder, "queries=4", "replies=4", "steps=2") == out  # it is there already


def test_rl_with_lora_leaves_a_plain_model_and_changes_to_go_on_with(folder: Path):
    more = ("queries=4", "replies=4", "steps=1")
    out = go("rl", folder, *more, "lora.rank=2")
    before, after = open_checkpoint(folder / "model"), open_checkpoint(out)
    assert set(after.names) == set(before.names)
    assert {path.name for path in (out / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    again = go("general_rl", folder, *more, f"lora.begin={out}/adapter")
    assert (again / "adapter").is_dir()
    with pytest.raises(ConfigError, match="leave servers out, or lora"):
        go("rl", folder, *more, "lora.rank=2", 'servers=["http://x/v1#y"]')


def test_a_goal_of_nothing_ends_nothing(folder: Path):
    go("rl", folder, "queries=4", "replies=4", "steps=2", "goal=0")
    assert len(read_log(folder / "rl.run")) == 2


def test_problems_to_learn_from_are_of_the_training_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Also of tasks whose own default is their test."""
    (tmp_path / "gsm8k").mkdir()
    for split in ("train", "test"):
        rows = [{"question": f"What is {split} {i}?", "answer": "It is 7.\n#### 7"} for i in range(40)]
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("OCTAVO_DATA", str(tmp_path))
    for task in (TASKS["gsm8k"], TASKS["chain"]):
        levels = {task.name: [1]}
        monkeypatch.setattr(task, "_kept", {}, raising=False)
        assert problem_of(random.Random(0), levels).id.startswith("train")
        assert general_rl.pose(random.Random(0), (task.name, 1), budgets=(1, 2)).id.startswith("train")
        assert rl.posed("on")(random.Random(0), (task.name, 1)).id.startswith("train")


def test_a_teacher_that_means_something_else_by_its_tokens_is_refused(folder: Path):
    model, settings = guesser(), config()
    write_model(folder / "other", model, config=settings, tokenizer=learn_tokenizer(["other words"], size=270))
    with pytest.raises(ConfigError, match="different tokenizers"):
        go("distill", folder, f"teacher={folder}/other", "replies=0", "on_steps=1")
    more = {**settings, "vocab_size": settings["vocab_size"] + 64}
    write_model(folder / "rows", fresh(more, seed=0), config=more, tokenizer=words()[0])
    with pytest.raises(ConfigError, match="cannot be compared"):
        go("distill", folder, f"teacher={folder}/rows", "replies=0", "on_steps=1")


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
    go("distill", folder, f"teacher={folder}/model", "replies=0", "on_steps=1", "queries=8")
    assert not (folder / "distill.off").exists()
    (line,) = read_log(folder / "distill.on")
    assert abs(line["loss"]) < 1e-5


def test_a_teacher_that_is_never_right_teaches_nothing(folder: Path):
    with pytest.raises(TrainingError, match="no right reply"):
        go("distill", folder, f"teacher={folder}/model", "replies=6", "off_steps=1", "on_steps=0")


def test_off_policy_distillation_goes_on_until_enough_is_right(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pupil.Pupil, "told", lambda self, count, queries: self.tries(queries, each=1))
    success = iter((0.1, 0.2, 0.5, 0.9))
    monkeypatch.setattr(distill, "solved", lambda own, tasks, longest: next(success))
    go("distill", folder, f"teacher={folder}/model", "replies=6", "off_queries=2", "off_steps=2", "on_steps=0",
       "off_gate.least=0.5", "off_gate.again=3", "warmup=0")  # fmt: skip
    lines = read_log(folder / "distill.off")
    assert [line["figures"].get("success") for line in lines] == [None, 0.1, None, None, 0.2, None, None, 0.5]
    assert lines[2]["rate"] == lines[5]["rate"] > lines[4]["rate"]


def test_a_search_is_asked_with_budgets_more_often():
    for name, share in ("countdown", 4 / 8), ("chain", 1 / 5):
        posed = [general_rl.pose(random.Random(i), (name, 3), budgets=(5, 9)) for i in range(400)]
        budgets = [one.thinking.budget_tokens for one in posed]
        assert fmean(one is not None for one in budgets) == pytest.approx(share, abs=0.08)
        assert {*budgets} == {None, 5, 6, 7, 8, 9}


@pytest.mark.parametrize("budgets", [(0, 8), (9, 8)])
def test_budgets_that_cannot_be_are_refused(budgets: tuple[int, int], folder: Path):
    with pytest.raises(ConfigError, match=rf"{budgets[0]} to {budgets[1]} thinking tokens"):
        go("general_rl", folder, f"budgets=[{budgets[0]}, {budgets[1]}]")


def test_being_right_counts_where_it_is_more_than_luck():
    own = OwnChat(guesser(), tokenizer=words()[0], form=Qwen3())
    reward = general_rl.reward_of(own)

    def worth(task: str, mode: Literal["on", "off"], right: float, *, budget: int | None = None, thought: str,
              said: str = "x") -> float:  # fmt: skip
        problem = replace(TASKS[task].problem(1), thinking=Thinking(mode=mode, budget_tokens=budget))
        message = Message(role="assistant", content=said, thinking=thought)
        turn = Turn(message=message, prompt=(), tokens=(), logprobs=(), reason="stop", usage=Usage())
        score = Score(value=right, answer=None, why="")
        return reward(Trajectory(problem=problem, turns=(turn,), score=score, truncated=False))

    assert worth("tools", "on", 0, thought="so", said="<tool_call>x") == 0  # a call that cannot be carried out
    for task in "chain", "countdown", "format", "tools", "retrieval":
        assert worth(task, "on", 1, thought="so") == 1 and worth(task, "on", 0, thought="so") == pytest.approx(0.3)
        assert worth(task, "on", 1, thought="") == worth(task, "off", 1, thought="so") == 0  # the mode was another
    for task in "format", "tools", "retrieval":
        assert worth(task, "off", 0, thought="") == pytest.approx(0.3)
    for task in "chain", "countdown":
        assert worth(task, "off", 0, thought="") == 1
    assert worth("chain", "on", 0, budget=9, thought="so") == 1
    assert worth("countdown", "on", 0, budget=9, thought="so") == pytest.approx(0.3)


def test_what_had_no_right_reply_is_asked_anew(monkeypatch: pytest.MonkeyPatch):
    """Of levels 1 and 2 the first is solved at once, the second in the last round only."""
    rounds = list[list[Problem]]()

    def rollout(chat: object, problems: list[Problem], **_: object) -> list[Trajectory]:
        rounds.append(problems)
        said = Message(role="assistant", content="x", thinking="so")
        turn = Turn(message=said, prompt=(), tokens=(), logprobs=(), reason="stop", usage=Usage())
        last = len(rounds) == fuse.ROUNDS
        scores = [Score(value=float(one.level == 1 or last), answer=None, why="") for one in problems]
        return [
            Trajectory(problem=one, turns=(turn,), score=score, truncated=False)
            for one, score in zip(problems, scores, strict=True)
        ]

    monkeypatch.setattr(fuse, "rollout", rollout)
    own, asked = OwnChat(guesser(), tokenizer=words()[0], form=Qwen3()), [(1, 4), (2, 3)]
    problems = [TASKS["chain"].problem(i, level=level) for level, count in asked for i in range(count)]
    settings = fuse.Settings(model="", out="", tasks={"chain": [1, 2]})
    kept = fuse.right(own, problems, settings, draw=random.Random(0), ranks=Ranks())
    assert Counter(one.problem.level for one in kept) == dict(asked)
    assert [[one.level for one in some] for some in rounds[1:]] == [[2] * 3] * (fuse.ROUNDS - 1)
    assert len({one.key for some in rounds for one in some}) == 4 + 3 * fuse.ROUNDS


@pytest.mark.parametrize("none", ["off_steps=0", "replies=0"])
def test_a_distillation_without_anything_to_learn_is_refused(none: str, folder: Path):
    with pytest.raises(ConfigError, match="nothing would be learnt"):
        go("distill", folder, f"teacher={folder}/model", "on_steps=0", none)


def test_replies_that_make_no_groups_are_refused(folder: Path):
    with pytest.raises(ConfigError, match="9 replies are no multiple of each=4"):
        go("distill", folder, f"teacher={folder}/model", "queries=9", "each=4")


def test_a_pupil_is_asked_with_thinking_as_often_as_is_said(monkeypatch: pytest.MonkeyPatch):
    """By each kind of lesson, and on the side of who replies."""
    posed = list[Problem]()

    def rollout(chat: object, problems: list[Problem], **_: object) -> list[Trajectory]:
        posed.extend(problems)
        return []

    monkeypatch.setattr(pupil, "rollout", rollout)
    own = OwnChat(guesser(), tokenizer=words()[0], form=Qwen3())
    for thought in (0.0, 0.8, 1.0):
        posed.clear()
        one = pupil.Pupil(teacher=own, student=own, ranks=Ranks(), tasks={"chain": [1, 2]}, thought=thought, longest=8,
                          tokens=64, seed=0)  # fmt: skip
        one.tries(1000, each=2)(0)
        with pytest.raises(TrainingError, match="no right reply"):
            one.told(500, queries=4)(0)
        shares = Counter(problem.thinking.mode for problem in posed)
        assert len(posed) == 500 + 500 and shares["on"] + shares["off"] == 1000
        assert abs(shares["on"] / 1000 - thought) < 0.05


def test_the_updates_of_a_sampling_share_the_replies_of_its_student(monkeypatch: pytest.MonkeyPatch):
    """No reply is lost or learnt twice, and the student is not asked between."""
    asked = list[int]()

    def rollout(chat: LocalChat, problems: list[Problem], **how: Any) -> list[Trajectory]:
        asked.append(len(problems))
        return real(chat, problems, **how)

    real = pupil.rollout
    monkeypatch.setattr(pupil, "rollout", rollout)
    own = OwnChat(guesser(), tokenizer=words()[0], form=Qwen3())
    one = pupil.Pupil(teacher=own, student=own, ranks=Ranks(), tasks={"chain": [1, 2]}, thought=0.5, longest=8,
                      tokens=512, seed=0)  # fmt: skip

    def known(batches: list[Batch]) -> list[tuple[int, ...]]:
        return [tuple(doc.tolist()) for one in batches for doc in documents(one)]

    once, parts = known(one.tries(12, each=2)(0)), one.tries(4, each=2, updates=3)
    found = [known(parts(step)) for step in range(3)]
    assert [len(some) for some in found] == [4, 4, 4] and sorted(chain(*found)) == sorted(once)
    assert asked == [6, 6]
    parts(3)
    assert asked == [6, 6, 6]


def test_the_students_own_replies_may_be_cut_where_the_teachers_are_not(folder: Path):
    """A model of noise hardly ends a reply: so 8 of them are about as long as they may be."""
    told = f"teacher={folder}/model", "replies=0", "on_steps=1", "queries=8", "seed=1"
    with pytest.raises(ConfigError, match="on_longest=25 is to be from 1 to longest=24"):
        go("distill", folder, *told, "on_longest=25")
    tokens = list[int]()
    for more in ((), ("on_longest=4",)):
        go("distill", folder, *told, *more)
        tokens.append(read_log(folder / "distill.on")[0]["tokens"])
        shutil.rmtree(folder / "distill"), shutil.rmtree(folder / "distill.on")
    assert 8 * 10 < tokens[0] - tokens[1] <= 8 * 20  # beside prompts, which are the same


@pytest.mark.parametrize("steps", [1, 4])
def test_steps_that_are_no_whole_samplings_are_refused(steps: int, folder: Path):
    with pytest.raises(ConfigError, match=rf"on_steps: {steps} is no multiple of updates=3"):
        go("distill", folder, f"teacher={folder}/model", f"on_steps={steps}", "updates=3")


def test_levels_that_are_not_there_are_refused(folder: Path):
    for tasks, words_of_it in [('{"retrieval": [99]}', "levels 1 to"), ('{"nothing": [1]}', "no task 'nothing'")]:
        told = [f"model={folder}/model", f"out={folder}/rl", f"tasks={tasks}"]
        with pytest.raises(ConfigError, match=words_of_it):
            recipe("rl").run(read_settings(recipe("rl").Settings, told, recipe="rl"), progress=Silent())


def test_each_recipe_of_the_table_is_short_and_says_what_it_can_be_told():
    for name in ("rl", "general_rl", "distill"):
        assert name in RECIPES
        assert len(Path(str(recipe(name).__file__)).read_text(encoding="utf-8").splitlines()) <= 150
