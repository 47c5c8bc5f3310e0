"""What a run of the suite shows: its exams, read as the claims of the Qwen3 report, each with the figure it needs.

Shares are 0..1 in the exams and points, 0..100, here. Source of the claims: Qwen3 report, arXiv:2505.09388.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from msgspec import Struct

from octavo.core.errors import TrainingError
from octavo.train.mini.exam import MODES, WAYS

THOUGHT = ("steps", "search")  # what a family shows where thinking has to help
TO_GAIN = 20  # problems: of fewer, a share is chance
EXPERTS = "experts"
STAGES = {
    "teacher-cold": "cold start", "teacher-rl": "reasoning RL", "teacher-fused": "fusion of both modes",
    "teacher": "general RL", "student-off": "student: off-policy distillation", "student-rl": "student: then RL",
    "student": "student: then on-policy distillation", EXPERTS: "experts: both distillations",
}  # fmt: skip
Exam = Mapping[str, Any]


class Claim(Struct, frozen=True, kw_only=True):
    """One figure beside what it has to be.   bar   number of the claim;   least, most   None: no such bound"""

    bar: int
    what: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def needed(self) -> str:
        """The bounds in words; "" for a figure that is only shown."""
        bounds = {"at least": self.least, "at most": self.most}
        return ", ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)

    @property
    def met(self) -> bool:
        """Within its bounds."""
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)


class Evidence:
    """One run: `exams` and `cards` of its stages by name, and what the run was.

    families   those of the exam that have problems of their own, without that of the flags
    """

    def __init__(self, *, about: dict[str, Any], exams: dict[str, Exam], cards: dict[str, Any]) -> None:
        self.about, self.exams, self.cards = about, exams, cards
        self.families = [name for name, found in self.exams["teacher"].items() if "thinking" in found]

    @staticmethod
    def of(folder: Path) -> "Evidence":
        """What a folder of the suite shows. Raises TrainingError where the suite is unfinished.

        A plan may be without the experts; that all is made that was planned is what `plan` in mini.json says.
        """
        exams = {path.stem: _json(path) for path in sorted(folder.glob("exams/*.json"))}
        cards = {path.parent.name: _json(path) for path in sorted(folder.glob("*/stage.json"))}
        if missing := STAGES.keys() - {EXPERTS} - (exams.keys() & cards.keys()):
            raise TrainingError(f"{folder} has no exam or no card of {', '.join(sorted(missing))}: let "
                                f"`octavo train mini out={folder}` end first.")  # fmt: skip
        if "plan" not in (about := _json(folder / "mini.json")):
            raise TrainingError(f"{folder} has not been compared with the whole plan: let `octavo train mini "
                                f"out={folder}` end first, it makes only what is missing.")  # fmt: skip
        return Evidence(about=about, exams=exams, cards=cards)

    @property
    def stages(self) -> dict[str, str]:
        """Those that were examined, in order, in words."""
        return {name: what for name, what in STAGES.items() if name in self.exams}

    def showing(self, *kinds: str) -> list[str]:
        """The families that show one of these."""
        return [name for name in self.families if self.exams["teacher"][name]["shows"] in kinds]

    def points(self, stage: str, family: str, mode: str, *, way: str = "greedy") -> float:
        """Accuracy."""
        return 100 * self.exams[stage][family][mode][way]["accuracy"]["value"]

    def mean(self, stage: str, mode: str, *, way: str = "greedy", families: Sequence[str] = ()) -> float:
        """Accuracy, mean over families: those of problems, not of tools, where none are named."""
        names = families or [name for name in self.families if name not in self.showing("tools")]
        return fmean(self.points(stage, name, mode, way=way) for name in names)

    def followed(self, stage: str) -> float:
        """Replies in the mode that was asked for, by flags in several turns, and by the switch."""
        exam = self.exams[stage]
        asked = [exam["switches"]["flags"]["greedy"], *self._all(stage)]
        return 100 * fmean(one["followed"] for one in asked)

    def unfinished(self, stage: str) -> float:
        """Thinking replies that did not end."""
        return 100 * fmean(one["truncated"] for one in self._all(stage, "thinking"))

    def valid_calls(self, stage: str) -> float:
        """Calls of tools that could be carried out, of those made."""
        found = [one["valid_calls"] for one in self._all(stage) if one["valid_calls"]]
        count = sum(one["count"] for one in found)
        return 100 * sum(one["value"] * one["count"] for one in found) / count if count else 0.0

    def passed(self, stage: str) -> float:
        """pass@k at the largest k, mean over families."""
        return 100 * fmean(_last(found["passed"]) for found in self.exams[stage]["passes"].values())

    def cpu_s(self, stage: str) -> float:
        """CPU seconds of a stage."""
        return sum(part["cpu_s"] for part in self.parts(stage))

    def parts(self, stage: str) -> Sequence[dict[str, Any]]:
        """The cards of its runs: of a distillation both ways, two."""
        card = self.cards[stage]
        return card.get("stages") or [card]

    def _all(self, stage: str, *modes: str) -> list[Exam]:
        """The figures of all families, greedy and sampled."""
        exam = self.exams[stage]
        return [exam[name][mode][way] for name in self.families for mode in modes or MODES for way in WAYS]

    def claims(self) -> list[Claim]:
        """All of them, in order."""
        stages_s = sum(part.get("seconds", 0.0) for stage in self.cards for part in self.parts(stage))
        minutes = max(self.about.get("seconds", 0.0), stages_s) / 60  # older: a kill kept its stages' only
        whole = "minutes" if EXPERTS in self.exams else "minutes, without the experts"
        return [
            Claim(bar=1, what=whole, value=minutes, most=90),
            *self._modes(),
            *self._budgets(),
            *self._stages(),
            *self._students(),
        ]

    def _modes(self) -> Iterable[Claim]:
        gains = {f: self.points("teacher", f, "thinking") - self.points("teacher", f, "direct") for f in self.families}
        for name in self.showing(*THOUGHT):
            least = 50 if name in self.showing("steps") else None  # a search can be guessed in part
            yield Claim(bar=2, what=f"gain by thinking: {name}", value=gains[name], least=least)
        for way in WAYS:
            yield Claim(bar=2, what=f"thinking, mean, {way}", value=self.mean("teacher", "thinking", way=way), least=85)
        yield Claim(bar=2, what="mode as asked", value=self.followed("teacher"), least=98)
        yield Claim(bar=2, what="unfinished thinking", value=self.unfinished("teacher"), most=2)
        for name in self.showing("control"):
            surely = self.exams["teacher"][name]["thinking"]["greedy"]["accuracy"]["low"]
            perhaps = self.exams["teacher"][name]["direct"]["greedy"]["accuracy"]["high"]
            yield Claim(bar=2, what=f"sure gain on the control: {name}", value=100 * (surely - perhaps), most=0)

    def _budgets(self) -> Iterable[Claim]:
        for name, curve in self.exams["teacher"]["budgets"].items():
            if name in self.showing(*THOUGHT):
                shares = [one["all"]["accuracy"] for one in curve.values()]
                falls = [100 * (shares[i]["low"] - later["high"]) for i in range(len(shares)) for later in shares[i:]]
                yield Claim(bar=3, what=f"sure fall along the budgets: {name}", value=max(falls), most=0)
        over = max(one["all"]["most_thinking"] - int(budget) for curve in self.exams["teacher"]["budgets"].values()
                   for budget, one in curve.items())  # fmt: skip
        yield Claim(bar=3, what="tokens above a budget", value=over, most=0)
        if halves := [self.half(name) for name in self.showing("search")]:
            yield Claim(bar=3, what="share of the gain by cut thinking, best search", value=max(halves), least=50)

    def half(self, family: str) -> float:
        """The largest share of the whole gain that replies keep whose thinking was cut, of budgets that cut many: where
        TO_GAIN problems or more are right by whole thinking only. The last budget is what the others are compared with.
        """
        curve = self.exams["teacher"]["budgets"][family]
        cuts = [one["cut"] for budget, one in curve.items() if one["cut"] and 0 < int(budget) < max(map(int, curve))]
        many = [cut for cut in cuts if cut["count"] * (cut["most"] - cut["least"]) >= TO_GAIN]
        shares = [100 * (cut["right"] - cut["least"]) / (cut["most"] - cut["least"]) for cut in many]
        return round(max(shares, default=0.0), 9)  # a half is one half, whatever the quotient's last bit says

    def _stages(self) -> Iterable[Claim]:
        thinking = {stage: self.mean(stage, "thinking") for stage in ("teacher-cold", "teacher-rl", "teacher-fused")}
        yield Claim(bar=4, what="reasoning RL above the cold start, thinking", least=20,
                    value=thinking["teacher-rl"] - thinking["teacher-cold"])  # fmt: skip
        yield Claim(bar=4, what="fusion above RL, thinking", least=-2,
                    value=thinking["teacher-fused"] - thinking["teacher-rl"])  # fmt: skip
        yield Claim(bar=4, what="calls that are valid", value=self.valid_calls("teacher"), least=98)
        for name in self.showing("format"):
            yield Claim(bar=4, what=f"{name}, thinking", value=self.points("teacher", name, "thinking"), least=98)

    def _students(self) -> Iterable[Claim]:
        rl, on = (self.mean(stage, "thinking") for stage in ("student-rl", "student"))
        yield Claim(bar=5, what="on-policy distillation above RL, thinking", value=on - rl, least=5)
        yield Claim(bar=5, what="its CPU seconds, share of RL's", most=0.2,
                    value=self.cpu_s("student") / self.cpu_s("student-rl"))  # fmt: skip
        gain = self.passed("student") - self.passed("student-off")
        yield Claim(bar=5, what="pass@16 above the start's, distillation", value=gain, least=0)


def table(runs: Sequence[Evidence]) -> str:
    """The claims of several runs in Markdown, a column each; a claim is met where it is met in all."""
    columns = [run.claims() for run in runs]
    seeds = [f"seed {run.about['seed']}" for run in runs]
    lines = [markdown_row("bar", "what", *seeds, "needed", "met"), markdown_row(*["---"] * (len(runs) + 4))]
    for row in zip(*columns, strict=True):
        one = row[0]
        met = "yes" if all(each.met for each in row) else "NO"
        lines.append(markdown_row(str(one.bar), one.what, *(f"{each.value:.3g}" for each in row), one.needed, met))
    return "\n".join(lines)


def markdown_row(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def _last(values: Mapping[str, float]) -> float:
    return values[max(values, key=int)]


def _json(path: Path) -> Any:
    if not path.exists():
        raise TrainingError(f"{path} is not there: {path.parent} is no folder of `octavo train mini`.")
    return json.loads(path.read_text(encoding="utf-8"))
