"""How much a key may have: requests and tokens per minute, and budgets. Pure: no clock, time is passed in.

A minute's limit is a bucket of that size that fills evenly: in any t seconds at most limit * (1 + t / 60) come out.
"""

from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from octavo.serve.errors import Refusal

MINUTE_S = 60.0
Unit = Literal["requests", "tokens"]


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Per minute; None: no limit.   rpm   requests;   tpm   tokens of prompts and replies"""

    rpm: int | None = None
    tpm: int | None = None


class Budget(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What may be spent; None: no limit.   micro   money, in millionths of the prices' currency"""

    tokens: int | None = None
    micro: int | None = None


class Terms(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a key may do.   models   limits of single models, beside those of all together

    priority   -8..8: a step up doubles the share where tenants compete;   month, total   budgets
    """

    limits: Limits = Limits()
    models: dict[str, Limits] = {}
    month: Budget = Budget()
    total: Budget = Budget()
    priority: int = 0


class Need(Struct, frozen=True):
    """What a job takes: estimated when it comes, exact when it is over.   micro   its price"""

    tokens: int = 0
    micro: int = 0

    def __sub__(self, other: "Need") -> "Need":
        return Need(self.tokens - other.tokens, self.micro - other.micro)

    def __add__(self, other: "Need") -> "Need":
        return Need(self.tokens + other.tokens, self.micro + other.micro)


@dataclass(slots=True)
class Bucket:
    """One limit.   left   what may be taken now; below 0 where a job took more than was thought"""

    size: int
    left: float
    at_s: float

    def fill(self, size: int, now_s: float) -> None:
        """Bring it up to date; the limit may have changed meanwhile."""
        self.left = min(size, self.left + (now_s - self.at_s) * size / MINUTE_S + max(0, size - self.size))
        self.size, self.at_s = size, now_s

    def wait_s(self, amount: float) -> float:
        """Seconds until so much can be taken; infinite where the limit is 0."""
        short = amount - self.left
        return 0.0 if short <= 0 else short * MINUTE_S / self.size if self.size else float("inf")


@dataclass(slots=True)
class Meter:
    """One key's use.   spent_month, spent   settled;   held   estimates of what runs"""

    month: str = ""
    spent_month: Need = field(default_factory=Need)
    spent: Need = field(default_factory=Need)
    held: Need = field(default_factory=Need)
    buckets: dict[tuple[str, Unit], Bucket] = field(default_factory=dict[tuple[str, Unit], Bucket])

    def enter(self, terms: Terms, model: str, *, need: Need, month: str, now_s: float) -> dict[str, str]:
        """Take what a job needs, or nothing. Returns headers that say what is left. Raises Refusal.

        month   the present one, as "2026-11"
        """
        self._turn(month)
        buckets = self._filled(terms, model, now_s)
        left = headers(buckets)
        amounts = {k: min(1 if k[1] == "requests" else need.tokens, b.size) or 1 for k, b in buckets.items()}
        for (name, unit), bucket in buckets.items():
            wait_s = bucket.wait_s(amounts[name, unit])
            if wait_s > 0:
                of = f" of {name}" if name else ""
                message = (
                    f"the limit of {bucket.size:,} {unit} per minute{of} is reached: come again in {wait_s:.1f} s."
                )
                raise Refusal(message, kind="rate_limit_error", code="rate_limit_exceeded",
                              retry_after_s=wait_s, left=left)  # fmt: skip
        self._check_budgets(terms, need, left=left)
        for key, bucket in buckets.items():
            bucket.left -= amounts[key]
        self.held += need
        return headers(buckets)

    def settle(self, model: str, *, need: Need, used: Need, month: str, limited: bool = True) -> None:
        """A job is over: put the estimate right.   limited   whether it took from the limits per minute"""
        self._turn(month)
        self.held -= need
        self.spent += used
        self.spent_month += used
        for name in ("", model) if limited else ():
            if (bucket := self.buckets.get((name, "tokens"))) is not None:
                bucket.left = min(bucket.size, bucket.left + min(need.tokens, bucket.size) - used.tokens)

    def undo(self, model: str, *, need: Need, month: str, limited: bool = True) -> None:
        """A job that entered was not done at all."""
        self.settle(model, need=need, used=Need(), month=month, limited=limited)
        for name in ("", model) if limited else ():
            if (bucket := self.buckets.get((name, "requests"))) is not None:
                bucket.left = min(bucket.size, bucket.left + 1)

    def _turn(self, month: str) -> None:
        if month != self.month:
            self.month, self.spent_month = month, Need()

    def _filled(self, terms: Terms, model: str, now_s: float) -> dict[tuple[str, Unit], Bucket]:
        found: dict[tuple[str, Unit], Bucket] = {}
        for name, limits in (("", terms.limits), (model, terms.models.get(model, Limits()))):
            sizes: tuple[tuple[Unit, int | None], ...] = (("requests", limits.rpm), ("tokens", limits.tpm))
            for unit, size in sizes:
                if size is not None:
                    bucket = self.buckets.setdefault((name, unit), Bucket(size, size, now_s))
                    bucket.fill(size, now_s)
                    found[name, unit] = bucket
        return found

    def _check_budgets(self, terms: Terms, need: Need, *, left: dict[str, str]) -> None:
        for what, budget, spent in (("this month", terms.month, self.spent_month), ("in all", terms.total, self.spent)):
            taken = spent + self.held
            for unit, most, has, wants in (("tokens", budget.tokens, taken.tokens, need.tokens),
                                           ("millionths", budget.micro, taken.micro, need.micro)):  # fmt: skip
                if most is not None and has + wants > most:
                    raise Refusal(
                        f"the budget of {most:,} {unit} {what} is used up: {max(0, most - has):,} are left, this "
                        f"request may take {wants:,}. Ask for fewer max_tokens, or for a larger budget.",
                        kind="insufficient_quota", code="insufficient_quota", left=left,
                    )  # fmt: skip


def headers(buckets: dict[tuple[str, Unit], Bucket]) -> dict[str, str]:
    """What is left of the limits, as OpenAI's API says it: of each unit, the limit that is nearest."""
    found: dict[str, str] = {}
    for unit in ("requests", "tokens"):
        ones = [bucket for (_, kind), bucket in buckets.items() if kind == unit]
        if ones:
            one = min(ones, key=lambda bucket: bucket.left)
            found[f"x-ratelimit-limit-{unit}"] = str(one.size)
            found[f"x-ratelimit-remaining-{unit}"] = str(max(0, int(one.left)))
            found[f"x-ratelimit-reset-{unit}"] = f"{min(one.wait_s(one.size), MINUTE_S):.3f}s"
    return found
