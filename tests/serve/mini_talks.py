"""What the mini model of the server's tests has learnt to say: conversations to train on, and nothing else.

It greets, thinks in a block where thinking is on, calls `get_weather` and `add` where they are offered, twice for two
cities, says in words what a tool gave, writes JSON, counts to twenty, knows two capitals, remembers a name, calls
badly and well in one reply when told to, and does not know the rest.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.core.sampling import Thinking

DEGREES = {"Paris": 18, "Rome": 21, "Oslo": 7}
SUMS = ((1, 2), (2, 3), (4, 5), (17, 25))
NUMBERS = {"type": "number"}
GET_WEATHER = ToolSpec(
    name="get_weather", description="The weather in a city.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)  # fmt: skip
ADD = ToolSpec(
    name="add", description="The sum of two numbers.",
    parameters={"type": "object", "properties": {"a": NUMBERS, "b": NUMBERS}, "required": ["a", "b"]},
)  # fmt: skip
BOTH = (GET_WEATHER, ADD)
OFFERS = ((), (), (GET_WEATHER,), (ADD,), BOTH)
DRAFTS = ("", "", "http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema")
COUNT = ", ".join(str(i) for i in range(1, 21)) + "."
JSON = '{"name": "Ada", "age": 36}'
SYSTEMS = (None, None, "You are a helpful assistant.", "Be brief.")
WORDS = (
    "the a of red tree why who sing blue dog 12 code write me book then never this is test say repeat word ok please "
    "tell story about rain how do you work explain list three things user name math 猫 über ? ! . ,"
)

# question -> what is thought, and what is answered
PLAIN: dict[str, tuple[str, str]] = {
    "Hello": ("The user greets me.", "Hello! How can I help you?"),
    "Hello!": ("The user greets me.", "Hello! How can I help you?"),
    "Hi": ("The user greets me.", "Hello! How can I help you?"),
    "Hi there!": ("The user greets me.", "Hello! How can I help you?"),
    "What is the capital of France?": ("France has a capital. It is Paris.", "The capital of France is Paris."),
    "What is the capital of Italy?": ("Italy has a capital. It is Rome.", "The capital of Italy is Rome."),
    "Count to twenty.": ("I count from one to twenty.", COUNT),
    "Count from 1 to 20.": ("I count from one to twenty.", COUNT),
    "Give me a JSON object.": ("The user wants JSON.", JSON),
    "Describe Ada as JSON.": ("The user wants JSON.", JSON),
    "My name is Ada.": ("The user is called Ada.", "Nice to meet you, Ada."),
    "Thank you!": ("The user thanks me.", "You are welcome!"),
}


class Talk(NamedTuple):
    """One conversation that ends with a reply to learn."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    thinking: Thinking


def talks(rng: random.Random) -> list[Talk]:
    """Everything once, each time told a little differently: of each offer of tools with one system message."""
    return list(_Teller(rng).tell())


class _Teller:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.systems = {len(tools) + (ADD in tools): rng.choice(SYSTEMS) for tools in OFFERS}

    def tell(self) -> Iterator[Talk]:
        rng = self.rng
        for question, (thought, answer) in PLAIN.items():
            yield self.told([_user(question)], thought, answer)
        history = [_user("My name is Ada."), _says("Nice to meet you, Ada."), _user("What is my name?")]
        yield self.told(history, "The name is Ada.", "Your name is Ada.")
        opening = [_user("Hello"), _says("Hello! How can I help you?")]
        for question in rng.sample([*PLAIN], k=3):
            yield self.told([*opening, _user(question)], *PLAIN[question])
        for _ in range(5):
            words = " ".join(rng.choices(WORDS.split(), k=rng.randint(1, 8)))
            yield self.told([_user(words)], "I do not know this.", "I do not know.")
        for cities in (["Paris"], ["Rome"], ["Oslo"], ["Paris", "Rome"], ["Rome", "Oslo"]):
            yield from self.weather(cities)
        for a, b in SUMS:
            yield from self.sum(a, b)
        bad = ToolCall(name="add", arguments='{"a": 1, "b": ')
        good = ToolCall(name="add", arguments='{"a": 1, "b": 2}')
        yield self.told([_user("Call badly.")], "One bad call, one good call.", "", calls=[bad, good], tools=(ADD,))

    def weather(self, cities: Sequence[str]) -> Iterator[Talk]:
        asked = self.rng.choice(["What is the weather in {}?", "How is the weather in {}?", "Weather in {}?"])
        question, tools = _user(asked.format(" and ".join(cities))), self.rng.choice([(GET_WEATHER,), BOTH])
        calls = [ToolCall(name="get_weather", arguments=f'{{"city": "{city}"}}') for city in cities]
        yield self.told([question], "I need the weather.", "", calls=calls, tools=tools)
        said = ", and ".join(f"{DEGREES[city]} degrees in {city}" for city in cities)
        results = [self.rng.choice(["{}", "{} degrees", '{{"degrees": {}}}']).format(DEGREES[city]) for city in cities]
        yield self.answered(question, calls, results, f"It is {said}.", tools=tools)

    def sum(self, a: int, b: int) -> Iterator[Talk]:
        question = _user(self.rng.choice(["What is {} plus {}?", "Add {} and {}."]).format(a, b))
        tools = self.rng.choice([(ADD,), BOTH])
        calls = [ToolCall(name="add", arguments=f'{{"a": {a}, "b": {b}}}')]
        yield self.told([question], "I need to add.", "", calls=calls, tools=tools)
        yield self.answered(question, calls, [str(a + b)], f"The sum is {a + b}.", tools=tools)

    def answered(self, question: Message, calls: Sequence[ToolCall], results: Sequence[str], answer: str, *,
                 tools: tuple[ToolSpec, ...]) -> Talk:  # fmt: skip
        """The reply to what the tools gave; what was thought before the calls is there, or is not."""
        thought = "I need the weather." if calls[0].name == "get_weather" else "I need to add."
        called = Message(role="assistant", thinking=self.rng.choice([None, thought]), tool_calls=tuple(calls))
        given = [Message(role="tool", content=text, tool_call_id=f"call_{i}") for i, text in enumerate(results)]
        return self.told([question, called, *given], "I have the result.", answer, tools=tools)

    def told(self, history: list[Message], thought: str, answer: str, *, calls: Sequence[ToolCall] = (),
             tools: tuple[ToolSpec, ...] | None = None) -> Talk:  # fmt: skip
        on, offered = self.rng.random() < 0.5, self.rng.choice(OFFERS) if tools is None else tools
        system = self.systems[len(offered) + (ADD in offered)]
        first = [] if system is None else [Message(role="system", content=system)]
        reply = Message(role="assistant", content=answer, thinking=thought if on else None, tool_calls=tuple(calls))
        return Talk((*first, *history, reply), self.spelled(offered), Thinking(mode="on" if on else "off"))

    def spelled(self, tools: tuple[ToolSpec, ...]) -> tuple[ToolSpec, ...]:
        """The same tools as some client says their schemas: named by a draft, closed, in order, fields with titles."""
        draft, closed, title, order = self.rng.choice(DRAFTS), *(self.rng.random() < 0.4 for _ in range(3))
        found: list[ToolSpec] = []
        for tool in tools:
            p = tool.parameters
            fields = {n: {"title": n.title(), **kind} if title else kind for n, kind in p["properties"].items()}
            said = {**({"$schema": draft} if draft else {}), **p, "properties": fields}
            said |= {"additionalProperties": False} if closed else {}
            found.append(replace(tool, parameters=dict(sorted(said.items())) if order else said))
        return tuple(found)


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def _says(text: str) -> Message:
    return Message(role="assistant", content=text)


def as_openai(*tools: ToolSpec) -> list[dict[str, Any]]:
    """Tools as Chat Completions takes them."""
    return [tool.as_openai() for tool in tools]
