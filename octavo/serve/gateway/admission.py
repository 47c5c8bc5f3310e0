"""The fair queue with a clock and waiting callers: one line per engine."""

import asyncio
import time
from collections.abc import Callable

from octavo.serve.errors import Refusal
from octavo.serve.gateway.fair import Bounds, Claim, Line

TICK_S = 0.001  # a timer may be early by its resolution


class Admission:
    """Lets jobs into the engines. For one event loop."""

    def __init__(self, bounds: Bounds, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.bounds, self.clock = bounds, clock
        self.lines: dict[str, Line] = {}
        self.waiting: dict[str, asyncio.Future[bool]] = {}
        self.woken: set[Line] = set()  # later, by a timer

    async def enter(self, model: str, claim: Claim) -> bool:
        """Wait for the job's turn; whether its prompt shall be patient. Who stops waiting leaves the queue.

        Raises Refusal: overloaded.
        """
        line = self.lines.setdefault(model, Line(self.bounds))
        future = self.waiting[claim.id] = asyncio.get_running_loop().create_future()
        for gone in line.arrive(claim, now_s=self.clock()):
            self._refuse(gone, line, model)
        self._start(line)
        try:
            return await future
        except asyncio.CancelledError:
            if self.waiting.pop(claim.id, None) is not None:
                line.leave(claim.id)
            elif claim.id in line.running:  # its turn came in the same moment
                self.ended(model, claim.id, work=0)
            raise

    def began(self, model: str, id: str) -> None:
        """A job's first token has come."""
        line = self.lines[model]
        line.began(id, now_s=self.clock())
        self._start(line)

    def ended(self, model: str, id: str, *, work: int) -> None:
        """A job is over."""
        line = self.lines[model]
        line.ended(id, work=work, now_s=self.clock())
        self._start(line)

    def _start(self, line: Line) -> None:
        for claim in line.start(now_s=self.clock()):
            future = self.waiting.pop(claim.id)
            if not future.done():  # else its caller is leaving, and ends it
                future.set_result(line.yields(claim, now_s=self.clock()))
        wait_s = line.wakes_s(now_s=self.clock())
        if wait_s is not None and line not in self.woken:
            self.woken.add(line)
            asyncio.get_running_loop().call_later(wait_s + TICK_S, self._wake, line)

    def _wake(self, line: Line) -> None:
        self.woken.discard(line)
        self._start(line)

    def _refuse(self, claim: Claim, line: Line, model: str) -> None:
        future = self.waiting.pop(claim.id)
        if not future.done():
            future.set_exception(Refusal(
                f"too many requests wait for {model}: come again in {line.again_s:.0f} s.", kind="overloaded",
                retry_after_s=line.again_s,
            ))  # fmt: skip
