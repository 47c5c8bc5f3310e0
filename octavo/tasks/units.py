"""Conversions of units, in chains: how many of the smallest are so many of several larger ones.

What it shows: multiplying and adding with factors that have to be known. In English, Chinese and Japanese.
"""

import random

from octavo.tasks.arithmetic import product
from octavo.tasks.worked import Worked

# chains from large to small: how many of the next one are in one
CHAINS: tuple[tuple[tuple[str, int], ...], ...] = (
    (("km", 1000), ("m", 100), ("cm", 10), ("mm", 1)),
    (("kg", 1000), ("g", 1)),
    (("l", 10), ("dl", 10), ("cl", 1)),
    (("week", 7), ("day", 24), ("hour", 60), ("minute", 1)),
    (("hour", 60), ("minute", 60), ("second", 1)),
    (("gross", 12), ("dozen", 12), ("piece", 1)),
)
NAMES = {
    "en": {"week": "weeks", "day": "days", "hour": "hours", "minute": "minutes", "second": "seconds",
           "piece": "pieces"},
    "zh": {"week": "周", "day": "天", "hour": "小时", "minute": "分", "second": "秒", "gross": "罗", "dozen": "打",
           "piece": "个"},
    "ja": {"week": "週間", "day": "日", "hour": "時間", "minute": "分", "second": "秒", "gross": "グロス",
           "dozen": "ダース", "piece": "個"},
}  # fmt: skip
FRAMES = {
    "en": ("{given} in {unit}?", "How many {unit} are {given}?", "{given} = ? {unit}"),
    "zh": ("{given}是多少{unit}？",),
    "ja": ("{given}は何{unit}？",),
}

Asked = tuple[int, int, tuple[int, ...]]  # chain, where it begins, amounts of each unit from there on


class Units(Worked):
    """Levels 1 and 2: one conversion, small and larger amounts; 3 and 4: two; 5: three."""

    name, levels, languages = "units", 5, ("en", "zh", "ja")

    def draw(self, draw: random.Random, level: int) -> Asked:
        """Amounts that are smaller than one of the unit before."""
        steps = (level + 1) // 2
        chain, start = draw.choice([(c, s) for c, chain in enumerate(CHAINS) for s in range(len(chain) - steps)])
        limit = 10 if level % 2 else 30
        amounts = [draw.randrange(1, max(limit, 20))]
        for _, size in CHAINS[chain][start : start + steps]:
            amounts.append(draw.randrange(0, min(size, limit)))
        return chain, start, tuple(amounts)

    def essence(self, instance: Asked) -> tuple[tuple[str, int], ...]:
        """Units with their amounts, and the last one: some stand in two chains; what there is none of is not said."""
        chain, start, amounts = instance
        units = [unit for unit, _ in CHAINS[chain][start : start + len(amounts)]]
        return (*((unit, n) for unit, n in zip(units, amounts, strict=True) if n), (units[-1], 0))

    def wordings(self, instance: Asked, language: str) -> list[str]:
        """What is there none of is left out."""
        chain, start, amounts = instance
        units = [unit for unit, _ in CHAINS[chain][start : start + len(amounts)]]
        names = [NAMES[language].get(unit, unit) for unit in units]
        given = " ".join(
            f"{amount} {unit if amount == 1 and language == 'en' else name}"
            for amount, unit, name in zip(amounts, units, names, strict=True)
            if amount
        )
        return [text.format(given=given, unit=names[-1]) for text in FRAMES[language]]

    def solve(self, instance: Asked, language: str) -> tuple[str, str]:
        """Down the chain: times the factor, in columns if need be, plus what there is of the next unit."""
        chain, start, amounts = instance
        total, lines = amounts[0], list[str]()
        for (_, size), amount in zip(CHAINS[chain][start:], amounts[1:], strict=False):
            lines += _times(total, size)
            total *= size
            if amount:
                lines.append(f"{total}+{amount}={total + amount}")
                total += amount
        return "\n".join(lines), str(total)


def _times(total: int, size: int) -> list[str]:
    """A product whose steps are all easy: tens add zeros, what is in the tables is known, the rest goes by columns."""
    if size in (10, 100, 1000) or (total < 10 and size < 13):
        return [f"{total}*{size}={total * size}"]
    if size % 10 == 0:
        return [*_times(total, size // 10), f"{total * (size // 10)}*10={total * size}"]
    return product(total, size)
