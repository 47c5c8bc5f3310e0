"""Reinforcement learning from checkable answers: groups of replies to one problem, each compared with its own group."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

import msgspec

from octavo.core.sample import Sample
from octavo.core.task import Problem, Trajectory
from octavo.nn.head import Told
from octavo.tasks.base import Task
from octavo.train.algorithms import ClippedPolicy
from octavo.train.batch import Batch, batches_of
from octavo.train.curriculum import Curriculum, Level, figure
from octavo.train.far import Sampled
from octavo.train.measure import follows
from octavo.train.ranks import Ranks
from octavo.train.rollout import How, rollout, to_sample
from octavo.train.run import Told as Line
from octavo.train.step import Terms, known

ROUNDS = 3  # of asking, until there are enough groups whose replies differ
TINY = 1e-6
Pose = Callable[[random.Random, Level], Problem]
Reward = Callable[[Trajectory], float]

# name -> its clipping, and whether each reply counts the same, however long, or each token
CLIPPINGS: dict[str, tuple[ClippedPolicy, bool]] = {
    "grpo": (ClippedPolicy(low=0.2, high=0.2), True),
    "dapo": (ClippedPolicy(low=0.2, high=0.28), False),
    "gspo": (ClippedPolicy(low=3e-4, high=4e-4, by_reply=True), True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """queries   groups of one sampling;   how   replies of each, and how they are sampled;   tokens   of one pass

    updates   steps that one sampling is divided among, each of which learns from other groups
    """

    queries: int
    how: How
    tokens: int
    updates: int = 1


class Policy:
    """What a run of RL learns from, step by step. An `Algorithm` too, which adds what was found to the log.

    The weights that sampled are those that learn first: there, ratios differ from 1 by the rounding of the rollouts
    only, and are kept, for they correct it; at later updates from the same sampling they are what clipping is for.
    GSPO's bounds are finer than the rollouts' rounding in bf16: its old log-probabilities are the trainer's own, those
    of the pass that learns where a sampling has but one.
    """

    needs_told = True

    def __init__(self, own: Sampled, curriculum: Curriculum, *, clipping: str, asking: Asking,
                 tasks: Mapping[str, Task], pose: Pose, reward: Reward, ranks: Ranks = Ranks()) -> None:  # fmt: skip
        """pose   a problem of a level;   reward   0..1 of a trajectory;   ranks   share sampling and learning; each
        knows all replies, so that all decide alike
        """
        self.own, self.curriculum, self.asking = own, curriculum, asking
        self.tasks, self.pose, self.reward = tasks, pose, reward
        self.ranks = ranks
        self.clipped, self.by_reply = CLIPPINGS[clipping]
        self.figures, self.parts = dict[str, float](), list[list[Batch]]()

    def terms(self, batch: Batch, told: Told | None, *, scale: float) -> Terms:
        """The clipped policy's, and with a sampling's first update the figures of its rollouts."""
        assert told is not None
        if self.clipped.by_reply and self.asking.updates == 1:
            batch = replace(batch, logprobs_N=told.logprobs_N)
        found = self.clipped.terms(batch, told, scale=scale)
        ours = {name: (value, 1.0) for name, value in self.figures.items()}
        return replace(found, figures={**(found.figures or {}), **ours})

    def batches(self, step: int, log: Sequence[Line]) -> list[Batch]:
        """Where a sampling begins, a function of the step, the weights and the log of earlier steps: what a run needs
        to be gone on with. Between, it needs that sampling too."""
        number, part = divmod(step, self.asking.updates)
        if part == 0:
            self.curriculum.follow([line.figures for line in log])
            self.parts = self._sampled(number)
        else:
            self.figures = {}
        return self.parts[part]

    def _sampled(self, number: int) -> list[list[Batch]]:
        chat, draw = self.own.refresh(), random.Random(f"{self.asking.how.seed} {number}")
        asked, kept = list[list[Trajectory]](), list[list[Trajectory]]()
        for turn in range(ROUNDS):
            missing = self.asking.queries - len(kept)
            if missing:
                problems = [self.pose(draw, level) for level in self.curriculum.choose(draw, missing)]
                seed = (self.asking.how.seed << 40) + number * ROUNDS + turn
                how = msgspec.structs.replace(self.asking.how, seed=seed)
                done = rollout(chat, problems, tasks=self.tasks, how=how, ranks=self.ranks)
                groups = [done[i : i + how.replies] for i in range(0, len(done), how.replies)]
                asked += groups
                kept += [group for group in groups if pstdev(map(self.reward, group)) > TINY]
        self._note(asked, kept)
        learnt, updates = kept if len(kept) >= self.asking.updates else asked, self.asking.updates
        return [self._batches(learnt[part::updates]) for part in range(updates)]

    def _batches(self, groups: Sequence[Sequence[Trajectory]]) -> list[Batch]:
        samples = [one for group in self.ranks.share(groups) for one in self._samples(group)]
        batches = batches_of(samples, tokens=self.asking.tokens, device=self.ranks.device, share=True)
        asked = self.clipped.by_reply and self.asking.updates > 1
        return [known(self.own.model, one) for one in batches] if asked else batches

    def _samples(self, group: Sequence[Trajectory]) -> list[Sample]:
        samples = [
            to_sample(one, advantage=advantage)
            for one, advantage in zip(group, advantages([self.reward(one) for one in group]), strict=True)
        ]
        if not self.by_reply:
            return samples
        return [replace(one, weights=one.weights / one.weights.sum()) for one in samples]

    def _note(self, asked: Sequence[Sequence[Trajectory]], kept: Sequence[object]) -> None:
        every = [one for group in asked for one in group]
        scores = dict[Level, list[float]]()
        for one in every:
            scores.setdefault((one.problem.task, one.problem.level), []).append(one.score.value)
        self.figures = {
            "reward": fmean(map(self.reward, every)), "solved": fmean(one.score.value for one in every),
            "followed": fmean(follows(self.own.chat, one) for one in every),
            "groups kept": len(kept) / len(asked), "truncated": fmean(one.truncated for one in every),
            "reply tokens": fmean(len(turn.tokens) for one in every for turn in one.turns),
        } | {figure(level): fmean(values) for level, values in scores.items()}  # fmt: skip


def advantages(rewards: Sequence[float]) -> list[float]:
    """How much better than its group each is, in standard deviations; 0 where all are alike. Source: GRPO,
    arXiv:2402.03300."""
    mean, spread = fmean(rewards), pstdev(rewards)
    return [(reward - mean) / spread if spread > TINY else 0.0 for reward in rewards]
