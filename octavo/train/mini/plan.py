"""How large the miniature suite is, and how long each of its stages may take."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from octavo.train.gate import Gate
from octavo.train.mini.texts import Blend, Kind
from octavo.train.models import Size
from octavo.train.optimiser import Optimisation
from octavo.train.supervised import Lesson

Scale = Literal["smoke", "short", "wide", "long"]


def muon(rate: float, *, others: float = 1.0) -> Optimisation:
    """What all supervised stages are optimised with."""
    return Optimisation(method="muon", rate=rate, others=others, betas=(0.9, 0.98), weight_decay=0.05)


class Reading(Struct, frozen=True, kw_only=True):
    """A stage of pre-training.   documents: of one step;   theta: base of the rotary positions in this stage

    joined   so many documents stand one behind the other as one: the long-context stage
    gate     share of names looked up in lists at which the stage ends, after `steps` at the latest, whatever share of
             the steps a model gets; 0: steps alone count
    tries    so often the first stage is begun, each time with other numbers, until its gate is reached: some models
             never learn to look up
    """

    name: str
    steps: int
    blend: Blend
    documents: int = 160
    rate: float = 4e-3
    warmup: int = 0
    decay: float = 0.0
    least: float = 1.0
    theta: float = 1e4
    joined: int = 1
    gate: float = 0.0
    tries: int = 1


class Plan(Struct, frozen=True, kw_only=True):
    """All that is decided about a run of the suite, but for its seed.

    readings        stages of pre-training;   student_share, experts_share   of their steps, for these two
    experts         a third model, as much of it active as of the teacher; None: there is none
    levels          task -> levels, of all stages and of the exam;   tools   those that the teacher has too
    student_tools   whether a student is taught these as well
    cold_samples    conversations of the cold start
    cold_gate       what success ends it
    cold_often      task -> how often it comes there, the others: 1
    fuse_often, direct_often   likewise in the fusion, with thinking and without
    cold.how        also moves a student that learns a teacher's replies: both meet tokens that they never read
    fuse_thought    replies with thinking that are sampled for the fusion, beside fuse_direct conversations without,
                    fuse_turns of several turns, and fuse_cut whose thinking a budget cut
    off_replies     of the teacher's, distilled off-policy, in off_steps and until off_gate
    distill_updates steps on-policy from one sampling;   distill_reverse   the direction of KL there
    distill_queries replies of one step there;   distill_longest   tokens of a reply there
    longest         tokens of a reply;   tested   problems of each family in an exam
    """

    scale: Scale
    teacher: Size
    student: Size
    experts: Size | None
    vocabulary: int
    context_tokens: int
    readings: Sequence[Reading]
    levels: Mapping[str, Sequence[int]]
    tools: Mapping[str, Sequence[int]]
    student_tools: bool
    student_share: float
    experts_share: float
    cold_samples: int
    cold_gate: Gate
    cold_often: Mapping[str, float]
    fuse_often: Mapping[str, float]
    direct_often: Mapping[str, float]
    cold: Lesson
    rl_steps: int
    student_rl_steps: int
    rl_queries: int
    rl_replies: int
    rl_updates: int
    fuse_thought: int
    fuse_direct: int
    fuse_turns: int
    fuse_cut: int
    fuse: Lesson
    general_steps: int
    off_replies: int
    off_steps: int
    off_gate: Gate
    distill_steps: int
    distill_updates: int
    distill_how: Optimisation
    distill_reverse: bool
    distill_queries: int
    distill_longest: int
    longest: int
    tested: int


LEVELS: Mapping[str, Sequence[int]] = {
    "chain": range(1, 9), "arithmetic": range(1, 7), "stories": range(1, 7), "sorting": range(1, 6),
    "dates": range(1, 9), "letters": range(1, 7), "programs": range(1, 7), "table": range(1, 6),
    "countdown": range(2, 5), "maze": range(1, 6), "retrieval": range(1, 6), "unanswerable": range(1, 6),
    "format": range(1, 6),
}  # fmt: skip
TOOLS: Mapping[str, Sequence[int]] = {"tools": range(1, 4)}
# The tasks of the short run: of each kind one or more; and those of the wide one.
SIX = ("chain", "stories", "letters", "countdown", "retrieval", "format")
TEN = (*SIX, "programs", "table", "arithmetic", "unanswerable")
# Looking up is learnt on the first kind, and lost again where that hardly comes; of words, formats want copies.
LISTS: Sequence[Kind] = ("things", "things", "things", "words", "words", "owners", "rows", "values", "neighbours")


def plan(scale: Scale, *, experts: bool = True) -> Plan:
    """The plan of a scale: smoke (a try of each stage), short (meant for 90 minutes on 2 cores), wide (more families),
    long (hours: all families, larger models).

    experts: with the third model, the mixture of experts
    """
    found = {"smoke": _smoke, "short": _short, "wide": _wide, "long": _long}[scale]()
    found = replace(found, scale=scale)
    return found if experts else replace(found, experts=None)


def _some(names: Sequence[str]) -> Mapping[str, Sequence[int]]:
    return {name: LEVELS[name] for name in names}


def _readings(levels: Mapping[str, Sequence[int]], *, steps: tuple[int, int, int],
              often: Mapping[str, float] = {}) -> tuple[Reading, ...]:  # fmt: skip
    """Lists until looking up is learnt, then the three stages.   steps   of these three

    often: task -> its weight
    """
    (general, reasoning, joined), seen = steps, ("retrieval",)
    easy = {name: tuple(some)[: max(2, len(some) // 2)] for name, some in levels.items()}
    return (
        Reading(name="lists", steps=1500, documents=32, rate=2e-3, warmup=40, gate=0.95, tries=3,
                blend=Blend(levels=easy, prose=1, listed=1, lists=("things", "sought"))),
        Reading(name="general", steps=general, documents=80, warmup=40,
                blend=Blend(levels=easy, worked=0.5, slips=0.3, prose=0.3, listed=0.9, lists=LISTS, seen=seen,
                            often=often)),
        Reading(name="reasoning", steps=reasoning, documents=120, decay=0.6, least=0.2,
                blend=Blend(levels=levels, worked=0.7, slips=0.3, prose=0.15, listed=0.9, lists=LISTS, seen=seen,
                            often=often)),
        Reading(name="long", steps=joined, blend=Blend(levels=levels, worked=0.7, slips=0.3, seen=seen, often=often),
                rate=3e-3, warmup=5, decay=0.8, least=0.05, theta=3e4, joined=8),
    )  # fmt: skip


def _wide(levels: Mapping[str, Sequence[int]] | None = None, *, times: int = 1) -> Plan:
    """times   as much of everything"""
    levels = levels or _some(TEN)
    return Plan(
        scale="wide", teacher=Size(width=192, layers=6, heads=6, inner=576), vocabulary=480, context_tokens=1024,
        student=Size(width=128, layers=4, heads=4, inner=384),
        experts=Size(width=192, layers=6, heads=6, inner=576, experts=8),
        readings=_readings({**levels, **TOOLS}, steps=(1000 * times, 1500 * times, 450 * times), often={"format": 2.5}),
        levels=levels, tools=TOOLS, student_tools=True, student_share=1.0, experts_share=0.2, cold_samples=10_000,
        cold=Lesson(steps=30, how=muon(1e-3, others=6)), cold_gate=Gate(least=0.5, again=3, rounds=26),
        cold_often={"tools": 4.0, "format": 1.5}, rl_steps=170 * times, student_rl_steps=75 * times, rl_queries=48,
        rl_replies=12, rl_updates=1, fuse_thought=10_000 * times, fuse_direct=4000 * times, fuse_turns=1500 * times,
        fuse_cut=9000 * times, fuse_often={"tools": 2.0, "format": 3.0, "countdown": 2.5},
        direct_often={"retrieval": 4.0, "format": 3.0, "tools": 2.0}, fuse=Lesson(steps=600 * times, how=muon(7e-4)),
        general_steps=100 * times, off_replies=24_000, off_steps=500 * times, off_gate=Gate(), distill_steps=72 * times,
        distill_updates=4, distill_how=muon(1e-3, others=6), distill_reverse=False, distill_queries=56,
        distill_longest=160, longest=384, tested=200,
    )  # fmt: skip


def _long() -> Plan:
    """All families, four times the steps, models more than twice as large: the student is the wide run's teacher."""
    teacher = Size(width=256, layers=8, heads=8, inner=768)
    wide = _wide(LEVELS, times=4)
    return replace(wide, teacher=teacher, student=wide.teacher, experts=replace(teacher, experts=8))


def _short() -> Plan:
    """Fewer families and steps. A student that has read half as much, and learns off-policy until a fifth is right:
    where it knows much, RL gets as far as distillation; where too little, neither gets far.
    """
    levels = _some(SIX)
    return replace(
        _wide(levels), readings=_readings({**levels, **TOOLS}, steps=(600, 900, 250), often={"format": 2.5}),
        student_tools=False, student_share=0.5, rl_steps=110, fuse_thought=7000, fuse_direct=3000, fuse_turns=1000,
        fuse_cut=6000, fuse=Lesson(steps=450, how=muon(7e-4)), off_replies=6000, off_steps=18,
        off_gate=Gate(least=0.2, again=1, rounds=60), distill_steps=104, distill_how=muon(2e-3, others=6),
        distill_longest=80,
    )  # fmt: skip


def _smoke() -> Plan:
    levels = {"retrieval": (1,), "format": (1,)}
    blend, lesson = Blend(levels=levels), Lesson(steps=120, samples=32, how=muon(4e-3))
    return Plan(
        scale="smoke", teacher=Size(width=64, layers=2, heads=2, inner=128, kv_heads=1), vocabulary=360,
        student=Size(width=32, layers=2, heads=1, inner=64, kv_heads=1),
        experts=Size(width=32, layers=2, heads=1, inner=64, kv_heads=1, experts=4), context_tokens=512,
        readings=(
            Reading(name="general", steps=240, documents=48, warmup=5, blend=blend, rate=8e-3),
            Reading(name="reasoning", steps=120, documents=48, blend=blend, rate=8e-3, decay=1.0, least=0.1),
            Reading(name="long", steps=4, documents=32, blend=blend, rate=1e-3, theta=1e5, joined=8),
        ),
        levels=levels, tools={}, student_tools=False, student_share=0.5, experts_share=0.5, cold_samples=300,
        cold_gate=Gate(), cold_often={}, fuse_often={}, direct_often={}, cold=lesson, rl_steps=3, student_rl_steps=3,
        rl_queries=8, rl_replies=4, rl_updates=2, fuse_thought=200, fuse_direct=300, fuse_turns=100, fuse_cut=50,
        fuse=lesson, general_steps=3, off_replies=600, off_steps=20, off_gate=Gate(), distill_steps=4,
        distill_updates=2, distill_how=muon(1e-3, others=6), distill_reverse=True, distill_queries=40,
        distill_longest=32, longest=48, tested=10,
    )  # fmt: skip
