"""RL and distillation improve what they say they improve, on a tiny model that guesses."""

import random
from pathlib import Path
from statistics import fmean

import pytest
from msgspec.structs import replace

from octavo.core.sampling import Sampling
from octavo.core.task import Problem, Trajectory
from octavo.train.algorithms import TowardsTeacher
from octavo.train.batch import Batch, pack
from octavo.train.curriculum import STRAY, Curriculum, Level, figure
from octavo.train.optimiser import Optimisation
from octavo.train.own import OwnChat
from octavo.train.policy import CLIPPINGS, Asking, Policy, advantages
from octavo.train.rollout import How, rollout, to_sample
from octavo.train.run import Run
from octavo.train.trainer import Trainer
from tests.train.guesses import TASKS, guesser, problems, words
from tests.train.models import documents

HOW = Optimisation(rate=2e-3, clip=0.5, weight_decay=0.0)
SAMPLED = How(sampling=Sampling(max_tokens=24))


def pose(draw: random.Random, level: Level) -> Problem:
    return replace(TASKS[level[0]].problem(draw.randrange(1 << 20)), level=level[1])


def policy(*, clipping: str = "dapo", exact: bool = False, queries: int = 16, updates: int = 1) -> Policy:
    model, (tokenizer, form) = guesser(), words()
    own = OwnChat(model, tokenizer=tokenizer, form=form, exact=exact, cache_bytes=1 << 26)
    asking = Asking(queries=queries, how=replace(SAMPLED, replies=8, seed=3), tokens=8192, updates=updates)
    return Policy(own, Curriculum({"say": [1]}), clipping=clipping, asking=asking, tasks=TASKS, pose=pose,
                  reward=red)  # fmt: skip


def red(one: Trajectory) -> float:
    """What these runs of RL reward, whatever was asked: it takes few steps to learn."""
    return float(one.turns[-1].message.text.strip() == "red")


def lucky(one: Trajectory) -> float:
    return 1.0 if one.problem.answer == "red" else red(one)


def always(one: Trajectory) -> float:
    return 1.0


def reds(own: OwnChat) -> float:
    done = rollout(own.refresh(), problems(160), tasks=TASKS, how=SAMPLED)
    return fmean(map(red, done))


@pytest.mark.parametrize("clipping", sorted(CLIPPINGS))
def test_reward_rises(clipping: str, tmp_path: Path):
    mine = policy(clipping=clipping)
    before = reds(mine.own)
    trainer = Trainer(mine.own.model, mine, HOW, bf16=False)
    run = Run(tmp_path / "run", trainer, settings={})
    run.go(lambda step: mine.batches(step, run.told), steps=10)
    assert before < 0.4 and reds(mine.own) > 0.75
    figures = run.told[-1].figures
    assert {"reward", "entropy", "ratio", "clipped", "gap", "groups kept", "followed", figure(("say", 1))} <= set(
        figures
    )


def test_a_run_of_rl_gone_on_with_is_the_one_that_was_not_stopped(tmp_path: Path):
    def go(name: str, steps: int) -> list[float]:
        mine = policy(queries=4)
        run = Run(tmp_path / name, Trainer(mine.own.model, mine, HOW, bf16=False), settings={})
        run.go(lambda step: mine.batches(step, run.told), steps=steps)
        return [line.loss for line in run.told]

    whole = go("whole", 4)
    assert go("parts", 2) == whole[:2] and go("parts", 4) == whole


@pytest.mark.parametrize("clipping", sorted(CLIPPINGS))
def test_reward_rises_by_several_updates_from_a_sampling(clipping: str, tmp_path: Path):
    mine = policy(clipping=clipping, updates=3)
    trainer = Trainer(mine.own.model, mine, HOW, bf16=False)
    run = Run(tmp_path / "run", trainer, settings={})
    run.go(lambda step: mine.batches(step, run.told), steps=15, together=3)
    assert reds(mine.own) > 0.75
    assert ["reward" in line.figures for line in run.told[:6]] == [True, False, False] * 2
    first, later = run.told[0].figures, [line.figures for line in run.told[1:3]]
    assert first["clipped"] == 0 and max(line["gap"] for line in later) > 2 * first["gap"]


def test_the_updates_of_a_sampling_share_its_groups_without_loss_or_repeat():
    whole, parts = policy(queries=5), policy(queries=5, updates=2)

    def known(batches: list[Batch]) -> list[tuple[int, ...]]:
        return [tuple(doc.tolist()) for one in batches for doc in documents(one)]

    once = known(whole.batches(0, []))
    found = [known(parts.batches(step, [])) for step in (0, 1)]
    assert all(found) and sorted(found[0] + found[1]) == sorted(once)


def test_a_run_killed_between_the_updates_of_a_sampling_is_the_one_that_was_not(tmp_path: Path):
    def go(name: str, *, dies: int | None = None) -> list[float]:
        mine = policy(queries=4, updates=2)

        def batches(step: int) -> list[Batch]:
            if step == dies:
                raise KeyboardInterrupt
            return mine.batches(step, run.told)

        run = Run(tmp_path / name, Trainer(mine.own.model, mine, HOW, bf16=False), settings={}, save_s=0)
        run.go(batches, steps=6, together=2)
        return [line.loss for line in run.told]

    whole = go("whole")
    for dies in (1, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            go("parts", dies=dies)
    assert go("parts") == whole


def test_at_the_first_step_the_ratio_is_one():
    mine = policy(exact=True)
    learnt = Trainer(mine.own.model, mine, HOW, bf16=False).learn(mine.batches(0, []))
    assert abs(learnt.figures["ratio"] - 1) < 1e-5 and learnt.figures["gap"] < 1e-5 and learnt.figures["clipped"] == 0


def test_groups_that_do_not_differ_are_left_out():
    mine = policy(queries=6)
    mine.reward = lucky
    for batch in mine.batches(0, []):
        assert (batch.advantages_N != 0).all()
    mine.reward = always  # nothing differs anywhere: a step that learns nothing
    assert all((batch.advantages_N == 0).all() for batch in mine.batches(0, []))
    assert mine.figures["groups kept"] == 0


def test_advantages_are_standard_deviations_from_the_group():
    found = advantages([1, 0, 0, 0])
    assert fmean(found) == pytest.approx(0) and fmean(a * a for a in found) == pytest.approx(1)
    assert advantages([0.5] * 4) == [0.0] * 4


def test_levels_come_and_go_with_their_success_and_a_log_restores_them():
    log = [{figure(("a", 1)): 1.0, figure(("a", 2)): 0.5, figure(("b", 1)): 0.0}] * 3
    one, other = Curriculum({"a": [1, 2], "b": [1, 2]}), Curriculum({"a": [1, 2], "b": [1, 2]})
    for steps in range(1, 4):
        one.follow(log[:steps])
    other.follow(log)
    assert one.solved == other.solved and one.success == pytest.approx(0.375)
    chosen = one.choose(random.Random(0), 1000)
    fitting, stray = 1000 * ((1 - STRAY) / 2 + STRAY / 4), 1000 * STRAY / 4
    for level in (("a", 2), ("b", 2)):  # sometimes solved, and never asked
        assert abs(chosen.count(level) - fitting) < 60
    for level in (("a", 1), ("b", 1)):  # always solved, and never
        assert 0 < chosen.count(level) < stray + 35
    another = Curriculum({"a": [1, 2], "b": [1, 2]}, known=1.0)
    another.follow(log)
    assert another.choose(random.Random(0), 1000).count(("a", 1)) > 200


def test_distillation_comes_nearer_to_the_teacher(tmp_path: Path):
    teacher = policy()
    trainer = Trainer(teacher.own.model, teacher, HOW, bf16=False)
    run = Run(tmp_path / "run", trainer, settings={})
    run.go(lambda step: teacher.batches(step, run.told), steps=10)
    student = policy().own
    before, learner = reds(student), Trainer(
        student.model, TowardsTeacher(), HOW, bf16=False, teacher=teacher.own.model
    )  # fmt: skip
    losses = list[float]()
    for step in range(8):
        done = rollout(student.refresh(), problems(64, first=100 * step), tasks=TASKS, how=SAMPLED)
        losses.append(learner.learn([pack([to_sample(one) for one in done])]).loss)
    assert losses[-1] < losses[0] / 3
    assert before < 0.4 and reds(student) > 0.75
