"""Whose job comes next: a fair queue between tenants for one engine. Pure: no clock, no sockets, time is passed in.

Each tenant has a counter of the work it got, over its weight; the one with the smallest goes first, and one that comes
back is lifted to where the others are. So tenants that always wait get shares like their weights, and nobody starves.
Source: virtual token counters, Sheng et al. 2024, arXiv:2401.00588; start tags, Goyal et al. 1996. Work is in tokens.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec import Struct

RATE_S = 10.0  # over which the drain is averaged
KNOWN_S = 0.5  # of drain, before its rate is believed
SOONEST_S, UNKNOWN_S, LATEST_S = 0.5, 5.0, 60.0  # of what "come again" may say


class Claim(Struct, frozen=True, kw_only=True):
    """A job that wants to run.   work   estimated tokens of prompt and replies;   batch   it can wait for all others"""

    id: str
    tenant: str
    work: int
    weight: float = 1.0
    batch: bool = False


class Bounds(Struct, frozen=True, kw_only=True):
    """How much at once.

    slots           jobs in the engine
    prompts         jobs of one tenant whose first token has not come, while others are about: a prompt that is being
                    computed holds up all that come after it;   prompts_alone   while none are
    rest            a tenant with more in the queue rests so many times as long as its last prompt took, while others
                    are about: most of them find the engine at no other's prompt when they come
    recent_s        a tenant is about while it waits or runs, and so long after
    queue_work      that may wait; less where the engine is slow: what it does in `longest_s`, but at least `least_work`
    """

    slots: int = 32
    prompts: int = 1
    prompts_alone: int = 8
    rest: float = 2.0
    recent_s: float = 30.0
    queue_work: int = 1 << 20
    least_work: int = 1 << 12
    longest_s: float = 6.0


@dataclass(slots=True)
class Standing:
    """One tenant.   counter   work that it got, over its weight;   starting   jobs whose first token has not come"""

    batch: bool
    counter: float
    seen_s: float
    weight: float = 1.0
    waiting: deque[Claim] = field(default_factory=deque[Claim])
    queued: int = 0
    running: int = 0
    starting: int = 0
    rests_until_s: float = 0.0


class Line:
    """The queue of one engine, and what runs in it."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.tenants: dict[tuple[str, bool], Standing] = {}
        self.running: dict[str, Claim] = {}
        self.starting: dict[str, float] = {}  # since when
        self.floor, self.queued = 0.0, 0
        self.drained, self.drain_s, self.mark_s = 0.0, 0.0, 0.0  # work done while full, in what time, until when

    def arrive(self, claim: Claim, *, now_s: float) -> list[Claim]:
        """A job more. Returns those that must go because too much work waits: the last of who waits with the most."""
        key = (claim.tenant, claim.batch)
        standing = self.tenants.get(key)
        if standing is None:
            standing = self.tenants[key] = Standing(claim.batch, self.floor, now_s)
        if not standing.waiting and not standing.running:
            standing.counter = max(standing.counter, self.floor)
        standing.seen_s, standing.weight = now_s, claim.weight
        self.mark_s = self.mark_s if self._full else now_s
        standing.waiting.append(claim)
        self._count(standing, claim.work)
        gone = list[Claim]()
        while self.queued > self._room() and self.queued > claim.work and (not gone or gone[-1] is not claim):
            longest = max(self._waiting(), key=lambda s: (s.batch, s.queued))
            gone.append(longest.waiting.pop())
            self._count(longest, -gone[-1].work)
        return gone

    def start(self, *, now_s: float) -> list[Claim]:
        """The jobs that start now."""
        started = list[Claim]()
        while (standing := self._next(now_s)) is not None:
            claim = standing.waiting.popleft()
            self._count(standing, -claim.work)
            self.floor = max(self.floor, standing.counter)
            standing.counter += claim.work / claim.weight
            standing.running += 1
            standing.starting += 1
            self.running[claim.id] = claim
            self.starting[claim.id] = now_s
            started.append(claim)
        return started

    def began(self, id: str, *, now_s: float) -> None:
        """The first token of a running job has come."""
        since_s = self.starting.pop(id, None)
        if since_s is not None:
            standing = self._of(self.running[id])
            standing.starting -= 1
            if len(standing.waiting) > 1:
                standing.rests_until_s = now_s + (now_s - since_s) * self.bounds.rest

    def ended(self, id: str, *, work: int, now_s: float) -> None:
        """A running job is over.   work   what it was in truth: its tenant's counter is put right"""
        self.began(id, now_s=now_s)
        full, claim = self._full, self.running.pop(id)
        standing = self._of(claim)
        standing.running -= 1
        standing.seen_s = now_s
        standing.counter += (work - claim.work) / claim.weight
        if full:
            kept = math.exp(-(now_s - self.mark_s) / RATE_S)
            self.drained, self.drain_s = self.drained * kept + claim.work, self.drain_s * kept + now_s - self.mark_s
            self.mark_s = now_s
        self._forget(now_s)

    def wakes_s(self, *, now_s: float) -> float | None:
        """In how many seconds `start` is to be called even if nothing happens; None: it need not be."""
        rests = [s.rests_until_s - now_s for s in self._waiting() if s.rests_until_s > now_s]
        return min(rests, default=None)

    def yields(self, claim: Claim, *, now_s: float) -> bool:
        """Whether a job that starts shall let others' prompts pass: a batch's, or one of many of a tenant, while others
        are about that have no queue.
        """
        standing = self._of(claim)
        others = [s for s in self.tenants.values() if s is not standing and not s.batch and self._about(s, now_s)]
        return claim.batch or (bool(standing.waiting) and comes(others))

    def leave(self, id: str) -> None:
        """Whoever waited for this job is gone."""
        for standing in self._waiting():
            for claim in standing.waiting:
                if claim.id == id:
                    standing.waiting.remove(claim)
                    self._count(standing, -claim.work)
                    return

    @property
    def rate(self) -> float | None:
        """Work per second while more waits; None: not known yet."""
        return self.drained / self.drain_s if self.drain_s >= KNOWN_S and self.drained else None

    @property
    def again_s(self) -> float:
        """When to come again: once what waits will have been done."""
        return min(LATEST_S, max(SOONEST_S, self.queued / self.rate)) if self.rate else UNKNOWN_S

    @property
    def _full(self) -> bool:
        """Whether the engine has all the work that it may have: then what it does says how much it can do."""
        return bool(self.queued) or len(self.running) >= self.bounds.slots

    def _count(self, standing: Standing, work: int) -> None:
        standing.queued += work
        self.queued += work

    def _room(self) -> float:
        bounds, rate = self.bounds, self.rate
        return min(bounds.queue_work, max(bounds.least_work, rate * bounds.longest_s)) if rate else bounds.queue_work

    def _waiting(self) -> Iterator[Standing]:
        return (standing for standing in self.tenants.values() if standing.waiting)

    def _of(self, claim: Claim) -> Standing:
        return self.tenants[claim.tenant, claim.batch]

    def _about(self, standing: Standing, now_s: float) -> bool:
        return bool(standing.waiting or standing.running) or now_s - standing.seen_s < self.bounds.recent_s

    def _next(self, now_s: float) -> Standing | None:
        if len(self.running) >= self.bounds.slots:
            return None
        about = [s for s in self.tenants.values() if not s.batch and self._about(s, now_s)]
        ready = [s for s in self._waiting() if self._may(s, about, now_s)]
        return min(ready, key=lambda s: (s.batch, s.counter), default=None)

    def _may(self, standing: Standing, about: list[Standing], now_s: float) -> bool:
        """Whether a tenant may have one job more in the engine.   about: all that are, but for batches

        Batches have half of the slots, and an eighth where anybody else is about. A tenant keeps to its share, and
        rests, only while another is about that has no queue.
        Where all have queues, the counters alone decide.
        """
        bounds = self.bounds
        if standing.batch:
            most = max(1, bounds.slots // (8 if about else 2))
            running = sum(s.running for s in self.tenants.values() if s.batch)
            return running < most and standing.starting < bounds.prompts
        others = [s for s in about if s is not standing]
        if comes(others):
            share = standing.weight / (standing.weight + sum(s.weight for s in others))
            if now_s < standing.rests_until_s or standing.running >= max(1, int(bounds.slots * share)):
                return False
        return standing.starting < (bounds.prompts if others else bounds.prompts_alone)

    def _forget(self, now_s: float) -> None:
        """Tenants that are not about and owe nothing."""
        idle = [k for k, s in self.tenants.items() if s.counter <= self.floor and not self._about(s, now_s)]
        for key in idle:
            del self.tenants[key]


def comes(others: list[Standing]) -> bool:
    """Whether one of them has no queue: it shall find a slot and a swift engine when it comes."""
    return any(len(s.waiting) <= 1 for s in others)
