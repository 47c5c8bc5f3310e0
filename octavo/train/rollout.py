"""Problems in, trajectories out: many replies at once through the project's own engine, whose weights are trained."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from octavo.chat.local import LocalChat
from octavo.chat.next_turn import Conversation
from octavo.chat.reader import ReplyReader
from octavo.core.deltas import Finished
from octavo.core.errors import TaskError
from octavo.core.messages import Message, ToolCall
from octavo.core.sample import Sample, sample
from octavo.core.sampling import Sampling
from octavo.core.task import Problem, Trajectory, Turn
from octavo.engine.types import Request, Step
from octavo.tasks.base import Task
from octavo.train.ranks import Ranks


class How(Struct, frozen=True, kw_only=True):
    """How problems are answered.

    replies    to each problem;   turns   of one trajectory at most: a reply that calls tools is followed by another
    sampling   as it is by default, what the log-probabilities are of is what was sampled from
    seed       names all random numbers, with the problem's name: neither order nor company changes a trajectory
    """

    replies: int = 1
    turns: int = 4
    sampling: Sampling = Sampling()
    seed: int = 0


@dataclass(slots=True, eq=False)
class Episode:
    """One trajectory while it comes into being.   said   messages of the turns before the running one"""

    problem: Problem
    reply: int
    conversation: Conversation
    request: Request
    reader: ReplyReader
    steps: list[Step] = field(default_factory=list[Step])
    turns: list[Turn] = field(default_factory=list[Turn])
    said: list[Message] = field(default_factory=list[Message])


def rollout(chat: LocalChat, problems: Sequence[Problem], *, tasks: Mapping[str, Task],
            how: How = How(), ranks: Ranks = Ranks()) -> list[Trajectory]:  # fmt: skip
    """All trajectories: of problem i, those from i * replies on. Both modes and any budgets may stand side by side.

    ranks   who share the problems; each is given all trajectories
    tasks   whose tools several threads may call at once, where there are chats beside this one
    Raises FormatError or RequestError for a problem that cannot be asked, before anything runs.
    """
    mine, chats = ranks.share(problems), (chat, *chat.beside)
    with ExitStack() as stack:
        for one in chats:
            stack.enter_context(one.lock)
        parts = [_Rollout(one, mine[i :: len(chats)], tasks=tasks, how=how) for i, one in enumerate(chats)]
        _run(parts)
    done = [parts[i % len(parts)].asked[i // len(parts)] for i in range(len(mine))]
    each = [[_ended(episode, tasks[episode.problem.task]) for episode in episodes] for episodes in done]
    return [one for replies in ranks.gather(each) for one in replies]


def _run(parts: Sequence["_Rollout"]) -> None:
    """Each on a thread of its own. Where one fails, or a key interrupts them, none goes on."""
    if len(parts) == 1:
        return parts[0].run()
    with ThreadPoolExecutor(len(parts), "octavo-rollout") as pool:
        try:
            for running in [pool.submit(part.run) for part in parts]:
                running.result()
        finally:
            for part in parts:
                part.stopped.set()


class _Rollout:
    """asked   episodes of each problem;   running   of each request of the engine's
    stopped   no step is begun once it is set
    """

    def __init__(self, chat: LocalChat, problems: Sequence[Problem], *, tasks: Mapping[str, Task], how: How) -> None:
        self.chat, self.tasks, self.how = chat, tasks, how
        self.running, self.stopped = dict[str, list[Episode]](), Event()
        self.asked = [self._asked(problem) for problem in problems]

    def run(self) -> None:
        """Until all episodes have ended."""
        engine = self.chat.engine
        try:
            for episodes in self.asked:
                self._submit(episodes)
            while engine.busy and not self.stopped.is_set():
                for step in engine.step():
                    if (episodes := self.running.get(step.id)) is not None:
                        self._follow(episodes[step.index], step)
        finally:
            for id in self.running:
                engine.cancel(id)

    def _asked(self, problem: Problem) -> list[Episode]:
        conversation = Conversation(messages=problem.messages, tools=problem.tools, thinking=problem.thinking)
        request, readers = self.chat.prepare(conversation, sampling=self._sampling(self.how.replies, problem))
        return [Episode(problem, i, conversation, request, reader) for i, reader in enumerate(readers)]

    def _submit(self, episodes: list[Episode]) -> None:
        self.chat.engine.submit(episodes[0].request)
        self.running[episodes[0].request.id] = episodes

    def _sampling(self, replies: int, problem: Problem, *where: int) -> Sampling:
        """where   reply and turn, after the first turn"""
        name = msgspec.json.encode((self.how.seed, problem.task, problem.id, where))
        seed = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
        return replace(self.how.sampling, n=replies, seed=seed, logprobs=0)

    def _follow(self, episode: Episode, step: Step) -> None:
        """One step more of an episode; after its last, the next turn, where tools were called."""
        episode.steps.append(step)
        if step.finish is None:
            return
        turn = _turn(episode)
        episode.turns.append(turn)
        if turn.reason == "tool_calls" and len(episode.turns) < self.how.turns:
            self._go_on(episode, turn)

    def _go_on(self, episode: Episode, turn: Turn) -> None:
        problem = episode.problem
        answers = [_answer(self.tasks[problem.task], problem, call) for call in turn.message.tool_calls]
        request, (reader,) = self.chat.prepare_more(
            (*turn.prompt, *turn.tokens), answers, conversation=episode.conversation,
            sampling=self._sampling(1, problem, episode.reply, len(episode.turns)),
        )  # fmt: skip
        if len(request.tokens) < self.chat.context_tokens:
            episode.said += [turn.message, *answers]
            episode.request, episode.reader, episode.steps = request, reader, []
            self._submit([episode])


def _answer(task: Task, problem: Problem, call: ToolCall) -> Message:
    try:
        text = task.call(problem, call)
    except TaskError as cause:
        text = f"error: {cause}"
    return Message(role="tool", content=text, tool_call_id=call.id)


def _turn(episode: Episode) -> Turn:
    finished: Finished = episode.reader.whole(episode.steps)
    logprobs = (math.nan if step.logprob is None else step.logprob for step in episode.steps if step.token is not None)
    return Turn(
        prompt=episode.request.tokens, tokens=finished.tokens, logprobs=tuple(logprobs), message=finished.message,
        reason=finished.reason, usage=finished.usage,
    )  # fmt: skip


def _ended(episode: Episode, task: Task) -> Trajectory:
    last = episode.turns[-1]
    score = task.score(episode.problem, last.message, episode.said)
    return Trajectory(
        problem=episode.problem, turns=tuple(episode.turns), score=score, truncated=last.reason == "length"
    )


def to_sample(trajectory: Trajectory, *, advantage: float | None = None) -> Sample:
    """A trajectory as one document: weight 1 on what the model sampled, 0 on prompts, tools' answers, forced tokens.

    advantage   of every sampled token; None: there is none, as for imitation. Raises SampleError where none was sampled
    """
    last = trajectory.turns[-1]
    tokens = (*last.prompt, *last.tokens)
    logprobs_T = np.full(len(tokens), np.nan)
    for turn in trajectory.turns:
        start, end = len(turn.prompt), len(turn.prompt) + len(turn.tokens)
        assert tokens[:end] == (*turn.prompt, *turn.tokens), "a later prompt encodes earlier tokens anew"
        logprobs_T[start:end] = turn.logprobs
    sampled_T = np.isfinite(logprobs_T)
    return sample(
        tokens, sampled_T.astype(float).tolist(), logprobs=logprobs_T.tolist(),
        advantages=None if advantage is None else (sampled_T * advantage).tolist(),
        name=f"{trajectory.problem.task} {trajectory.problem.id}",
    )  # fmt: skip
