"""Events of one job on their way from an engine to a client, and what they add up to."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from octavo.core.deltas import FinishReason, TokenLogprob
from octavo.core.messages import ToolCall
from octavo.serve import events
from octavo.serve.errors import Refusal

Stop = Callable[[str], None]


class Stream:
    """Filled by an engine, emptied by whoever answers the client: `async for batch in stream`, each not empty.

    stop, end_thinking   called with the job's id
    began                is called when the first token is there, which its first event may not be yet
    done                 no more events will come: there was a Usage or an Error
    """

    def __init__(self, id: str, *, stop: Stop, end_thinking: Stop) -> None:
        self.id, self._stop, self._end_thinking = id, stop, end_thinking
        self.held: list[events.Event] = []
        self.done = False
        self.began: Callable[[], None] = lambda: None
        self.waiter: asyncio.Future[None] | None = None

    def push(self, event: events.Event) -> None:
        """One event more. What comes after the end is dropped."""
        if self.done:
            return
        self.held.append(event)
        self.done = isinstance(event, (events.Usage, events.Error))
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def cancel(self) -> None:
        """Nobody wants the rest."""
        if not self.done:
            self._stop(self.id)

    def end_thinking(self) -> None:
        """Close the thinking now."""
        if not self.done:
            self._end_thinking(self.id)

    async def first(self) -> None:
        """Wait for the first event. Raises Refusal where it is an Error: then nothing was begun."""
        await self._wait()
        if isinstance(error := self.held[0], events.Error):
            raise Refusal(error.message, kind=error.kind, code=error.code, retry_after_s=error.retry_after_s)

    async def _wait(self) -> None:
        if not self.held and not self.done:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter

    async def next(self) -> list[events.Event]:
        """What has come since, one event at least; nothing at the end."""
        await self._wait()
        batch, self.held = self.held, []
        return batch

    async def __aiter__(self) -> AsyncIterator[list[events.Event]]:
        while batch := await self.next():
            yield batch


@dataclass(slots=True)
class Reply:
    """One reply, whole."""

    thinking: str | None = None
    text: str = ""
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    stop: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])


class Ending:
    """How a job ended: all that is kept of one whose events go to the client as they come.

    reasons   of each reply;   error   what ended it early
    """

    def __init__(self, *, replies: int) -> None:
        self.reasons: list[FinishReason] = ["stop"] * replies
        self.usage = events.Usage()
        self.error: events.Error | None = None

    def add(self, batch: Sequence[events.Event]) -> None:
        """More events. Called for every token: most are of no interest."""
        for event in batch:
            if isinstance(event, events.Finish):
                self.reasons[event.index] = event.reason
            elif isinstance(event, events.Usage):
                self.usage = event
            elif isinstance(event, events.Error):
                self.error = event


class Collected(Ending):
    """All events of a job, added up.   events: as they came"""

    def __init__(self, *, replies: int) -> None:
        super().__init__(replies=replies)
        self.replies = [Reply() for _ in range(replies)]
        self.events: list[events.Event] = []

    def add(self, batch: Sequence[events.Event]) -> None:
        """More events."""
        super().add(batch)
        self.events += batch
        for event in batch:
            match event:
                case events.Reasoning():
                    reply = self.replies[event.index]
                    reply.thinking = (reply.thinking or "") + event.text
                    reply.logprobs += event.logprobs
                case events.Text():
                    self.replies[event.index].text += event.text
                    self.replies[event.index].logprobs += event.logprobs
                case events.ToolStart():
                    self.replies[event.index].calls.append(ToolCall(id=event.id, name=event.name, arguments=""))
                case events.ToolArgs():
                    calls = self.replies[event.index].calls
                    old = calls[event.call]
                    calls[event.call] = ToolCall(id=old.id, name=old.name, arguments=old.arguments + event.text)
                case events.Finish():
                    reply = self.replies[event.index]
                    reply.stop, reply.tokens = event.stop, event.tokens
                case events.Start() | events.ToolEnd() | events.Usage() | events.Error():
                    continue
