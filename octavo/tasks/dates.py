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
WEEKDAY_LEVELS = 4

Asked = tuple[int, int] | tuple[int, int, int, int]  # weekday, days later; or month, day, month, day


class Dates(Worked):
    """Levels 1 to 4: a weekday some 20, 40, 60, 80 days later; 5 to 8: days between dates 1 to 4 months apart."""

    name, levels, languages = "dates", 8, ("en", "zh", "ja")

    def draw(self, draw: random.Random, level: int) -> Asked:
        """The year is not a leap year."""
        if level <= WEEKDAY_LEVELS:
            return draw.randrange(7), draw.randrange(20 * (level - 1) + 2, 20 * level + 40)
        month = draw.randrange(12 - (level - WEEKDAY_LEVELS))
        other = month + level - WEEKDAY_LEVELS
        return month, draw.randint(1, LENGTHS[month]), other, draw.randint(1, LENGTHS[other])

    def wordings(self, instance: Asked, language: str) -> list[str]:
        """Dates are named in the language's own way."""
        if len(instance) == 2:
            return [text.format(day=DAYS[language][instance[0]], n=instance[1]) for text in WEEKDAY[language]]
        a, b = (_date(month, day, language) for month, day in (instance[:2], instance[2:]))
        return [text.format(a=a, b=b) for text in BETWEEN[language]]

    def solve(self, instance: Asked, language: str) -> tuple[str, str]:
        """Weeks are taken away until few days are left, which are named; or months are added one by one."""
        if len(instance) == 2:
            day, left = instance
            lines = list[str]()
            while left >= 7:
                weeks = 70 if left >= 70 else 35 if left >= 35 else 7
                lines.append(f"{left}-{weeks}={left - weeks}")
                left -= weeks
            lines += [f"{step} {DAYS[language][(day + step) % 7]}" for step in range(left + 1)]
            return "\n".join(lines), DAYS[language][(day + left) % 7]
        month, day, other, last = instance
        total = LENGTHS[month] - day
        lines = [f"{LENGTHS[month]}-{day}={total}"]
        for days in (*LENGTHS[month + 1 : other], last):
            lines.append(f"{total}+{days}={total + days}")
            total += days
        return "\n".join(lines), str(total)

    def near(self, answer: str) -> list[str]:
        """Another weekday; a number one off."""
        for names in DAYS.values():
            if answer in names:
                at = names.index(answer)
                return [names[(at + 1) % 7], names[at - 1], f"{answer} {names[(at + 2) % 7]}"]
        return [*super().near(answer)]


def _date(month: int, day: int, language: str) -> str:
    return f"{day} {MONTHS[month]}" if language == "en" else f"{month + 1}月{day}日"
