"""Problems with checkable answers, what came of them, and how good that was."""

from typing import Any, Literal

from msgspec import Struct

from octavo.core.deltas import FinishReason, Usage
from octavo.core.messages import Message, ToolSpec
from octavo.core.sampling import Thinking

Split = Literal["train", "validation", "test"]


class Problem(Struct, frozen=True, kw_only=True):
    """One thing to solve, ready to be asked.

    task       name of its task in `TASKS`;   id   unique within the task, the same for the same seed, level and split
    key        what the problem is, whatever its wording: it alone decides the split
    messages   the conversation so far; the last message is the user's
    tools      functions that may be called
    thinking   the mode that is asked for; "auto": the messages say (flags), or nobody does
    answer     gold answer, plain JSON data; only the task's own `score` knows how to read it
    trace      a step-by-step way to the answer, short, as a thinking; "" where there is none
    gold       a reply that scores 1, without the thinking
    level      difficulty, from 1
    """

    task: str
    id: str
    key: str
    messages: tuple[Message, ...]
    answer: Any
    gold: Message
    tools: tuple[ToolSpec, ...] = ()
    thinking: Thinking = Thinking()
    trace: str = ""
    level: int = 1


class Score(Struct, frozen=True, kw_only=True):
    """How good a reply is: accuracy for evals and reward for RL.

    value    0..1;   answer   what was read as the answer, None: nothing could be;   why   in words, for people
    """

    value: float
    answer: str | None
    why: str


class Turn(Struct, frozen=True, kw_only=True):
    """One reply of a model within a trajectory.

    prompt     token ids it was asked with;   tokens   token ids of the reply, end token included where there was one
    logprobs   of each token in nats under the sampling weights at temperature 1; NaN where the token was forced
    message    the reply as read;   reason   why it ended
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    message: Message
    reason: FinishReason
    usage: Usage


class Trajectory(Struct, frozen=True, kw_only=True):
    """What came of one problem: all turns, tools' answers between them being part of the next prompt, and the score.

    truncated   the last turn ended by its length: an unfinished thinking counts as wrong, and is counted here
    """

    problem: Problem
    turns: tuple[Turn, ...]
    score: Score
    truncated: bool
