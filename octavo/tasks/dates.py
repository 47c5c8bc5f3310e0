"""Calendars: which weekday it is after some days, and how many days lie between two dates.

What it shows: counting in sevens, and adding up months of different lengths. In English, Chinese and Japanese.
"""

import random

from octavo.tasks.worked import Worked

DAYS = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "zh": ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"),
    "ja": ("月曜日", "火曜日", "水曜日", "木曜日", "金曜日", "土曜日", "日曜日"),
}
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
WEEKDAY = {
    "en": ("Today is {day}. What day is it in {n} days?", "It is {day}. And {n} days later?"),
    "zh": ("今天是{day}，{n}天后是星期几？", "今天{day}。{n}天后呢？"),
    "ja": ("今日は{day}です。{n}日後は何曜日？", "今日は{day}。{n}日後は？"),
}
BETWEEN = {
    "en": ("Days from {a} to {b}?", "How many days from {a} to {b}?"),
    "zh": ("从{a}到{b}有多少天？",),
    "ja": ("{a}から{b}まで何日？",),
}
DATE = {
    "en": ("{a} is a {day}. What day is {b}?", "If {a} is a {day}, what day is {b}?"),
    "zh": ("{a}是{day}，{b}是星期几？",),
    "ja": ("{a}は{day}です。{b}は何曜日？",),
}
MARCH = 2
WEEKDAY_LEVELS = 4

# weekday, days later; or month, day, later month, day; or these four with the weekday of the first date before them
Asked = tuple[int, int] | tuple[int, int, int, int] | tuple[int, int, int, int, int]


class Dates(Worked):
    """Levels 1 to 4: a weekday up to 60, 80, 100, 120 days later, or of a date 0 to 3 months later.

    Levels 5 to 8: days between dates 1 to 4 months apart.
    """

    name, levels, languages = "dates", 8, ("en", "zh", "ja")

    def draw(self, draw: random.Random, level: int) -> Asked:
        """No time goes past the end of a February, whose length nobody says."""
        if level > WEEKDAY_LEVELS:
            return _dates(draw, level - WEEKDAY_LEVELS)
        if draw.random() < 0.2:  # few, since there are no more than some hundred of them
            return draw.randrange(7), draw.randrange(20 * (level - 1) + 2, 20 * level + 40)
        return draw.randrange(7), *_dates(draw, level - 1)

    def wordings(self, instance: Asked, language: str) -> list[str]:
        """Dates are named in the language's own way."""
        if len(instance) == 2:
            return [text.format(day=DAYS[language][instance[0]], n=instance[1]) for text in WEEKDAY[language]]
        a, b = (_date(month, day, language) for month, day in (instance[-4:-2], instance[-2:]))
        texts, day = (BETWEEN, 0) if len(instance) == 4 else (DATE, instance[0])
        return [text.format(a=a, b=b, day=DAYS[language][day]) for text in texts[language]]

    def solve(self, instance: Asked, language: str) -> tuple[str, str]:
        """Months are added one by one; then weeks are taken away until few days are left, which are named."""
        if len(instance) == 2:
            lines, left = list[str](), instance[1]
        else:
            lines, left = _between(instance[-4:])
        if len(instance) == 4:
            return "\n".join(lines), str(left)
        day = instance[0]
        while left >= 7:
            weeks = 70 if left >= 70 else 35 if left >= 35 else 7
            lines.append(f"{left}-{weeks}={left - weeks}")
            left -= weeks
        lines += [f"{step} {DAYS[language][(day + step) % 7]}" for step in range(left + 1)]
        return "\n".join(lines), DAYS[language][(day + left) % 7]

    def near(self, answer: str) -> list[str]:
        """Another weekday; a number one off."""
        for names in DAYS.values():
            if answer in names:
                at = names.index(answer)
                return [names[(at + 1) % 7], names[at - 1], f"{answer} {names[(at + 2) % 7]}"]
        return [*super().near(answer)]


def _dates(draw: random.Random, apart: int) -> tuple[int, int, int, int]:
    """Two dates of one year, months apart; in one month, the earlier one first."""
    month = draw.choice([month for month in range(12 - apart) if not month < MARCH <= month + apart])
    other = month + apart
    if not apart:
        day, last = sorted(draw.sample(range(1, LENGTHS[month] + 1), 2))
        return month, day, other, last
    return month, draw.randint(1, LENGTHS[month]), other, draw.randint(1, LENGTHS[other])


def _between(dates: tuple[int, ...]) -> tuple[list[str], int]:
    """Sums month by month, and the days between two dates: month, day, month, day."""
    month, day, other, last = dates
    if month == other:
        return [f"{last}-{day}={last - day}"], last - day
    total = LENGTHS[month] - day
    lines = [f"{LENGTHS[month]}-{day}={total}"]
    for days in (*LENGTHS[month + 1 : other], last):
        lines.append(f"{total}+{days}={total + days}")
        total += days
    return lines, total


def _date(month: int, day: int, language: str) -> str:
    return f"{day} {MONTHS[month]}" if language == "en" else f"{month + 1}月{day}日"
