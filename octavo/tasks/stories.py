"""Word problems over several steps, in English, Chinese and Japanese.

What it shows: the same chain of small sums, told in words.
"""

import random
from collections.abc import Callable, Mapping

from octavo.tasks.worked import Worked

Step = tuple[str, int]  # what happens, how many
Story = tuple[int, int, int, tuple[Step, ...]]  # who, what thing, how many at first, steps

PEOPLE = {
    "en": ("Mia", "Tom", "Ana", "Ben", "Kai", "Eva"),
    "zh": ("小明", "小红", "小刚", "小丽", "小华", "小美"),
    "ja": ("太郎", "花子", "健太", "美咲", "翔", "葵"),
}
THINGS = {
    "en": ("apples", "books", "cards", "coins", "eggs", "pens"),
    "zh": ("苹果", "书", "卡片", "硬币", "鸡蛋", "笔"),
    "ja": ("りんご", "本", "カード", "コイン", "卵", "ペン"),
}
EVENTS: dict[str, Mapping[str, tuple[str, ...]]] = {
    "buy": {
        "en": ("buys {n} more", "finds {n} more", "gets {n}"),
        "zh": ("又买了{n}", "又得到{n}"),
        "ja": ("{n}もらいます", "{n}買います"),
    },
    "give": {
        "en": ("gives away {n}", "loses {n}", "sells {n}"),
        "zh": ("送出{n}", "丢了{n}"),
        "ja": ("{n}あげます", "{n}なくします"),
    },
    "double": {"en": ("doubles them",), "zh": ("变成两倍",), "ja": ("2倍にします",)},
    "halve": {"en": ("gives half away",), "zh": ("送出一半",), "ja": ("半分あげます",)},
}
COUNTERS = {  # what stands between a number and its thing
    "en": ("", "", "", "", "", ""),
    "zh": ("个", "本", "张", "枚", "个", "支"),
    "ja": ("個", "冊", "枚", "枚", "個", "本"),
}
FRAMES: dict[str, tuple[str, str, str]] = {  # beginning, what joins, question
    "en": ("{who} has {n} {thing}. {who} ", ", ", ". How many {thing} now?"),
    "zh": ("{who}有{n}{thing}，", "，", "。现在有多少{thing}？"),
    "ja": ("{who}は{thing}を{n}持っています。", "、", "。今{thing}はいくつ？"),
}
DONE: dict[str, Callable[[int, int], tuple[str, int]]] = {
    "buy": lambda at, n: (f"{at}+{n}", at + n),
    "give": lambda at, n: (f"{at}-{n}", at - n),
    "double": lambda at, n: (f"{at}*2", at * 2),
    "halve": lambda at, n: (f"{at}/2", at // 2),
}
HIGHEST = 50


class Stories(Worked):
    """Level n: n + 1 things happen; nobody has fewer than 1 or more than 50."""

    name, levels, languages = "stories", 6, ("en", "zh", "ja")

    def draw(self, draw: random.Random, level: int) -> Story:
        """Events that leave a whole number."""
        first = draw.randrange(2, 20)
        at, steps = first, list[Step]()
        while len(steps) < level + 1:
            event = draw.choice(("buy", "buy", "give", "give", "double", "halve"))
            by = draw.randrange(1, 10) if event in ("buy", "give") else 2
            after = DONE[event](at, by)[1]
            if 1 <= after <= HIGHEST and (event != "halve" or at % 2 == 0):
                steps.append((event, by))
                at = after
        return draw.randrange(6), draw.randrange(6), first, tuple(steps)

    def wordings(self, instance: Story, language: str) -> list[str]:
        """Told with other words each time."""
        who, thing, first, steps = instance
        begin, join, end = FRAMES[language]
        told, counter = list[str](), COUNTERS[language][thing]
        for turn in range(3):
            events = (EVENTS[event][language] for event, _ in steps)
            happens = join.join(
                words[(turn + i) % len(words)].format(n=f"{by}{counter}")
                for i, (words, (_, by)) in enumerate(zip(events, steps, strict=True))
            )
            names = {"who": PEOPLE[language][who], "thing": THINGS[language][thing], "n": f"{first}{counter}"}
            told.append(begin.format(**names) + happens + end.format(**names))
        return told

    def solve(self, instance: Story, language: str) -> tuple[str, str]:
        """What there is after each event."""
        at, lines = instance[2], list[str]()
        for event, by in instance[3]:
            sum, after = DONE[event](at, by)
            lines.append(f"{sum}={after}")
            at = after
        return "\n".join(lines), str(at)
