"""Tools to call: a calculator, a calendar, a table; or none, where none is of use.

What it shows: a call in JSON with the right arguments, and an answer that uses what came back.
"""

import json
import random
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from octavo.core.errors import TaskError
from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.core.task import Problem, Score
from octavo.tasks.dates import DAYS
from octavo.tasks.verify.answers import final_answer, same
from octavo.tasks.verify.expressions import Sum
from octavo.tasks.worked import Worked

SPECS = {
    "calc": ToolSpec(name="calc", parameters={"type": "object", "properties": {"sum": {"type": "string"}},
                                              "required": ["sum"]}),
    "day": ToolSpec(name="day", parameters={"type": "object", "properties": {"start": {"type": "string"},
                                            "plus": {"type": "integer"}}, "required": ["start", "plus"]}),
    "points": ToolSpec(name="points", parameters={"type": "object", "properties": {"name": {"type": "string"},
                                                  "round": {"type": "integer"}}, "required": ["name", "round"]}),
}  # fmt: skip
POINTS = {"Mia": 41, "Tom": 17, "Ana": 93, "Ben": 28, "Kai": 65, "Eva": 72, "Leo": 54, "Zoe": 38, "Ida": 86, "Max": 23,
          "Uma": 69, "Rex": 35}  # fmt: skip
ROUNDS = 60  # whose points nobody can know
PLAIN = ("hello", "thanks", "good", "yes", "no", "fine", "sure", "okay", "right", "done", "great", "welcome", "red",
         "blue", "green", "sun", "moon", "sea", "cat", "dog", "bird", "tree", "rain", "snow")  # fmt: skip

Asked = tuple[str, tuple[Any, ...], tuple[str, ...]]  # which tool ("" for none), what about, which are offered


class Tools(Worked):
    """Levels 1 to 3: the right tool alone, beside one and beside two others; one problem in five needs none."""

    name, levels, shows = "tools", 3, "tools"

    def draw(self, draw: random.Random, level: int) -> Asked:
        """Sums that are hard in the head, dates far away, points that nobody can know."""
        kind = "" if draw.random() < 0.2 else draw.choice(sorted(SPECS))
        others = [name for name in sorted(SPECS) if name != kind]
        offered = tuple(draw.sample(others, level if not kind else level - 1)) + ((kind,) if kind else ())
        about = {
            "calc": (draw.randrange(100, 1000), draw.choice("+-*"), draw.randrange(100, 1000)),
            "day": (draw.choice(DAYS["en"]), draw.randrange(30, 400)),
            "points": (draw.choice(sorted(POINTS)), draw.randint(1, ROUNDS)),
            "": (f"{draw.choice(PLAIN)} {draw.choice(PLAIN)}",),
        }  # fmt: skip
        return kind, about[kind], tuple(draw.sample(offered, len(offered)))

    def essence(self, instance: Asked) -> Asked:
        """What is offered does not matter, nor the order of two summands or factors."""
        kind, about, _ = instance
        if kind == "calc" and about[1] != "-":
            about = (max(about[0], about[2]), about[1], min(about[0], about[2]))
        return kind, about, ()

    def wordings(self, instance: Asked, language: str) -> list[str]:
        """Nothing says which tool to take."""
        kind, about, _ = instance
        if kind == "calc":
            sum = "".join(map(str, about))
            return [f"{sum}=?", f"What is {sum}?"]
        if kind == "day":
            return [f"{about[0]} plus {about[1]} days?", f"Which day is {about[1]} days after {about[0]}?"]
        if kind == "points":
            return [f"How many points has {about[0]} in round {about[1]}?", f"Points of {about[0]}, round {about[1]}?"]
        return [f"Say {about[0]}", f"Please say {about[0]}"]

    def solve(self, instance: Asked, language: str) -> tuple[str, str]:
        """Which tool it takes, and with what."""
        kind, about, _ = instance
        call = _call(kind, about)
        if call is None:
            return "no tool", str(about[0])
        given = " ".join(str(value) for value in json.loads(call.arguments).values())
        return f"{kind} {given}", _answer(call)

    def pose(self, instance: Asked, draw: random.Random, *, id: str, key: str, level: int, language: str) -> Problem:
        """With the tools on offer; the answer keeps which call it takes."""
        kind, about, offered = instance
        posed = super().pose(instance, draw, id=id, key=key, level=level, language=language)
        call = _call(kind, about)
        answer = {"answer": posed.answer, "call": call and {"name": call.name, "arguments": json.loads(call.arguments)}}
        return replace(posed, answer=answer, tools=tuple(SPECS[name] for name in offered))

    def golden(self, problem: Problem) -> tuple[Message, ...]:
        """The right call, and its answer."""
        wanted = problem.answer["call"]
        if wanted is None:
            return ()
        call = ToolCall(name=wanted["name"], arguments=json.dumps(wanted["arguments"]), id="call_1")
        asked = Message(role="assistant", tool_calls=(call,))
        return asked, Message(role="tool", content=self.call(problem, call), tool_call_id=call.id)

    def call(self, problem: Problem, call: ToolCall) -> str:
        """What the tool says; of a call that cannot be carried out, what is wrong with it."""
        if call.name not in {tool.name for tool in problem.tools}:
            return f"error: no tool {call.name[:40]}"
        try:
            return _answer(call)
        except TaskError as cause:
            return f"error: {cause}"

    def score(self, problem: Problem, reply: Message, earlier: Sequence[Message] = ()) -> Score:
        """1 where the answer is right and the one call that it takes was made; none, where it takes none."""
        calls = [call for message in (*earlier, reply) for call in message.tool_calls]
        wanted, said = problem.answer["call"], final_answer(reply.text)
        if said is None:
            return Score(value=0.0, answer=None, why="there is no answer")
        if [_read(call) for call in calls] != ([wanted] if wanted else []):
            return Score(value=0.0, answer=said, why=f"calls were {[call.name for call in calls]}, needed {wanted}")
        right = same(said, problem.answer["answer"])
        return Score(value=float(right), answer=said, why="right" if right else f"not {problem.answer['answer']}")

    def wrong(self, problem: Problem) -> tuple[Message, ...]:
        """Other answers; `validate` shows each without a call, so the right answer is among them where one is due."""
        answer = problem.answer["answer"]
        texts = ["", *self.near(answer), *([answer] if problem.answer["call"] else [])]
        return tuple(Message(role="assistant", content=text) for text in texts)


def _call(kind: str, about: tuple[Any, ...]) -> ToolCall | None:
    arguments: dict[str, dict[str, Any]] = {
        "calc": {"sum": "".join(map(str, about))},
        "day": {"start": about[0], "plus": about[-1]},
        "points": {"name": about[0], "round": about[-1]},
    }
    return ToolCall(name=kind, arguments=json.dumps(arguments[kind]), id="call_1") if kind else None


def _read(call: ToolCall) -> dict[str, Any] | None:
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return None
    if isinstance(arguments, dict) and isinstance(arguments.get("sum"), str):
        arguments = {**arguments, "sum": arguments["sum"].replace(" ", "")}
    return {"name": call.name, "arguments": arguments}


def _answer(call: ToolCall) -> str:
    """A tool's answer. Raises TaskError for arguments it cannot use."""
    read = _read(call)
    given = read["arguments"] if read else None
    if not isinstance(given, dict):
        raise TaskError("arguments are not a JSON object")
    if call.name == "calc" and isinstance(given.get("sum"), str):
        value = Sum(given["sum"]).value
        if value is not None:
            return str(value)
    if call.name == "day" and given.get("start") in DAYS["en"] and type(given.get("plus")) is int:
        return DAYS["en"][(DAYS["en"].index(given["start"]) + given["plus"]) % 7]
    if call.name == "points" and str(given.get("name")) in POINTS and type(given.get("round")) is int:
        return str(POINTS[str(given["name"])] * given["round"] % 97)
    raise TaskError("arguments are wrong")
