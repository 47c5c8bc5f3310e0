"""Questions that the engine has to work for: embeddings and decisions. Answered beside the jobs that run.

Each is a generator: it yields requests, is sent their last steps when all are done, and returns the answer. They come
a few at a time, so that nobody's next token waits for more than that.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from threading import Semaphore, Thread
from typing import Any

import msgspec
from msgspec import Struct

from octavo.chat.local import LocalChat
from octavo.core.errors import OctavoError, RequestError
from octavo.core.messages import Message
from octavo.core.sampling import Sampling, Thinking
from octavo.engine.types import Request, Step
from octavo.serve import link
from octavo.serve.answers import fitting, written
from octavo.serve.compiling import AT_ONCE as SEATS
from octavo.serve.compiling import LONG, LOOK_S

AT_ONCE = 2  # texts that are embedded together: their chunks are what a step of others waits for
OPTIONS_AT_ONCE = 8
NOTHING = Sampling(max_tokens=0)
SCORED = Sampling(max_tokens=0, logprobs=0)
Work = Generator[list[Request], list[Step], Any]


class Embed(Struct, frozen=True, kw_only=True):
    """Texts, or their tokens, to be embedded.   dimensions   of each vector; None: as many as the model has"""

    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    space: str = ""


class Choose(Struct, frozen=True):
    """What is asked of the model about the messages, and the texts of which one is its answer."""

    text: str
    options: tuple[str, ...]


class Decide(Struct, frozen=True, kw_only=True):
    """Questions about messages."""

    messages: tuple[Message, ...]
    questions: tuple[Choose, ...]
    space: str = ""


def embed(chat: LocalChat, about: Any) -> Work:
    """about: an Embed.   {"vectors": of length 1, "tokens": of all inputs}. Raises RequestError.

    A vector is the mean of the text's rows after the model's last norm, its first `dimensions` numbers where some were
    asked for, divided by its length. It is that of the text alone, to the bit, whatever else is running.
    """
    asked = msgspec.convert(about, Embed)
    width = chat.engine.backend.width
    if asked.dimensions is not None and not 1 <= asked.dimensions <= width:
        raise RequestError(f"dimensions={asked.dimensions}: this model's vectors have {width}, ask for 1 to {width}.")
    for one in asked.inputs:
        fitting(chat, len(one) if isinstance(one, str) else 0)
    texts = [_tokens(chat, one) for one in asked.inputs]
    vectors = list[list[float]]()
    for i in range(0, len(texts), AT_ONCE):
        ends = yield [
            Request(id=f"embed-{next(chat.numbers)}", tokens=text, sampling=NOTHING, pools=True)
            for text in texts[i : i + AT_ONCE]
        ]
        vectors += [_unit(step.pooled[: asked.dimensions]) for step in ends]
    return {"vectors": vectors, "tokens": sum(map(len, texts)), "cached": 0}


def _tokens(chat: LocalChat, given: str | tuple[int, ...]) -> tuple[int, ...]:
    known = chat.tokenizer
    bos = (known.bos_id,) if known.adds_bos and known.bos_id is not None else ()
    tokens = (*bos, *known.encode(given)) if isinstance(given, str) else given
    if not tokens:
        raise RequestError("input has an empty text: give at least one token.")
    return tokens


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector] if length else list(vector)


def decide(chat: LocalChat, about: Any) -> Work:
    """about: a Decide.   {"probabilities": of each question's options, "tokens", "cached"}. Raises OctavoError.

    Exact: an option's probability is that of the model, not thinking, writing just that text and ending its turn, by
    the tokens that the tokenizer makes of it, at temperature 1, divided by the sum over all options. Nothing is
    sampled. What the options have in common, the prompt and what they begin with, is computed once: the first option of
    a question goes ahead, the others find it in the cache.
    """
    asked = msgspec.convert(about, Decide)
    for question in asked.questions:
        fitting(chat, written(asked.messages) + len(question.text) + max(map(len, question.options)))
    thinking = Thinking(mode="auto" if chat.form.thinks == "never" else "off")
    found, tokens, cached = list[list[float]](), 0, 0
    for question in asked.questions:
        rendered = chat.form.render(_asking(asked.messages, question.text), thinking=thinking)
        prompt, end = rendered.tokens(chat.tokenizer), chat.markers.end[:1]
        requests = [
            Request(id=f"decide-{next(chat.numbers)}", tokens=(*prompt, *chat.tokenizer.encode(option), *end),
                    sampling=SCORED, scored_from=len(prompt), space=asked.space)
            for option in question.options
        ]  # fmt: skip
        ends = yield requests[:1]
        cached += ends[0].cached_tokens
        for i in range(1, len(requests), OPTIONS_AT_ONCE):
            ends += yield requests[i : i + OPTIONS_AT_ONCE]
        found.append(_shares([math.fsum(step.prompt_logprobs[len(prompt) :]) for step in ends]))
        tokens += len(prompt)
    return {"probabilities": found, "tokens": tokens, "cached": cached}


def _asking(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """The messages with the question at their end, in the user's last turn where there is one."""
    if messages and messages[-1].role == "user":
        last = Message(role="user", content=f"{messages[-1].text}\n\n{text}")
        return (*messages[:-1], last)
    return (*messages, Message(role="user", content=text))


def _shares(logs: list[float]) -> list[float]:
    most = max(logs)
    weights = [math.exp(log - most) for log in logs]
    return [weight / math.fsum(weights) for weight in weights]


TABLE: dict[str, Callable[[LocalChat, Any], Work]] = {"embed": embed, "decide": decide}


class _Asked:
    def __init__(self, id: str, work: Work, *, long: bool) -> None:
        self.id, self.work, self.long = id, work, long
        self.ends = dict[str, Step | None]()  # of the requests that it waits for


class Questions:
    """The questions of one engine that are being worked on. All its methods are called by one thread, the engine's.

    What is long is cut into tokens in other threads, a few at once; `look` goes on with what they made.
    """

    def __init__(self, chat: LocalChat, answer: Callable[[link.Answer], None]) -> None:
        self.chat, self.answer = chat, answer
        self.asked: dict[str, _Asked] = {}  # by the question's id
        self.waiting: dict[str, _Asked] = {}  # by request
        self.away = set[_Asked]()  # that a thread works on
        self.back = deque[tuple[_Asked, list[Request] | link.Answer]]()  # filled by the threads
        self.seats = Semaphore(SEATS)

    @property
    def wait_s(self) -> float | None:
        """How long the engine's thread may sleep."""
        return LOOK_S if self.away else None

    def begin(self, question: link.Question) -> None:
        """Work on a question from now on; its answer comes when it is there."""
        long = len(msgspec.msgpack.encode(question.about)) > LONG
        work = TABLE[question.what](self.chat, question.about)
        asked = self.asked[question.id] = _Asked(question.id, work, long=long)
        self._go_on(asked, lambda: next(asked.work))

    def read(self, steps: Sequence[Step]) -> None:
        """Steps of the engine, of which some may be a question's."""
        for asked in list(self._ended(steps)):
            ends = [step for step in asked.ends.values() if step is not None]
            wrong = next((step for step in ends if step.error is not None), None)
            if wrong is not None:
                self._finish(asked, link.Answer(asked.id, None, str(wrong.error), "invalid_request_error"))
            elif len(ends) == len(asked.ends):
                asked.ends = {}
                self._go_on(asked, lambda asked=asked, ends=ends: asked.work.send(ends))

    def look(self) -> None:
        """Go on with those that threads have worked on."""
        while self.back:
            asked, found = self.back.popleft()
            self.away.discard(asked)
            if asked.id in self.asked:
                self._submit(asked, found)
            else:
                asked.work.close()

    def drop(self, id: str) -> None:
        """Nobody wants the answer any more."""
        if asked := self.asked.get(id):
            self._finish(asked, None)

    def _ended(self, steps: Sequence[Step]) -> Iterator[_Asked]:
        """The questions of whose requests some ended."""
        for step in steps:
            asked = self.waiting.get(step.id)
            if asked is not None and step.finish is not None:
                del self.waiting[step.id]
                asked.ends[step.id] = step
                if step.error is not None or not any(end is None for end in asked.ends.values()):
                    yield asked

    def _go_on(self, asked: _Asked, resume: Callable[[], list[Request]]) -> None:
        if asked.long:
            self.away.add(asked)
            Thread(target=self._go_on_beside, args=(asked, resume), daemon=True).start()
        else:
            self._submit(asked, _resumed(asked, resume))

    def _go_on_beside(self, asked: _Asked, resume: Callable[[], list[Request]]) -> None:
        with self.seats:
            self.back.append((asked, _resumed(asked, resume)))

    def _submit(self, asked: _Asked, found: list[Request] | link.Answer) -> None:
        if isinstance(found, link.Answer):
            self._finish(asked, found)
            return
        try:
            for request in found:
                self.chat.engine.submit(request)
                asked.ends[request.id] = None
                self.waiting[request.id] = asked
        except OctavoError as error:
            self._finish(asked, link.Answer(asked.id, None, str(error), "invalid_request_error"))

    def _finish(self, asked: _Asked, answer: link.Answer | None) -> None:
        self.asked.pop(asked.id, None)
        if asked not in self.away:
            asked.work.close()
        for id in asked.ends:
            if self.waiting.pop(id, None) is not None:
                self.chat.engine.cancel(id)
        if answer is not None:
            self.answer(answer)


def _resumed(asked: _Asked, resume: Callable[[], list[Request]]) -> list[Request] | link.Answer:
    """What a question needs next of the engine, or its answer."""
    try:
        return resume()
    except StopIteration as end:
        return link.Answer(asked.id, end.value)
    except (OctavoError, RecursionError) as error:
        return link.Answer(asked.id, None, str(error), "invalid_request_error")
