"""Which models there are: loaded when first asked for, let go when memory runs short, started again when they fall."""

import asyncio
import time
from collections.abc import Coroutine, Sequence

from octavo.serve import link
from octavo.serve.engines import RESTART_S, STEADY_S, LocalModel
from octavo.serve.errors import Refusal


class Models:
    """All models of one server, by name; the first is what a request without a model means."""

    def __init__(self, openings: Sequence[link.Open]) -> None:
        self.all = {opening.name: LocalModel(opening, changed=self._changed) for opening in openings}
        self.tasks = set[asyncio.Task[None]]()
        self.closing = False

    def find(self, name: str) -> LocalModel:
        """The model of that name. Raises Refusal naming those that there are."""
        found = self.all.get(name) if name else next(iter(self.all.values()))
        if found is None:
            names = ", ".join(self.all)
            raise Refusal(f"there is no model {name!r} here: choose one of {names}.", kind="not_found_error",
                          param="model", code="model_not_found")  # fmt: skip
        return found

    @property
    def ready(self) -> bool:
        """Whether every model that was asked for is there."""
        return any(m.state == "ready" for m in self.all.values()) and all(
            m.state in ("ready", "cold") and not m.falls for m in self.all.values()
        )

    def begin(self) -> None:
        """Load the first model, in the background."""
        self._background(self._start(next(iter(self.all.values()))))

    def _changed(self, model: LocalModel) -> None:
        if model.state == "cold" and not self.closing:
            well = time.monotonic() - model.started_s > STEADY_S
            model.falls = 1 if well else model.falls + 1
            self._background(self._revive(model))
        elif model.state == "ready":
            model.falls = 0

    async def _revive(self, model: LocalModel) -> None:
        await asyncio.sleep(RESTART_S[min(model.falls, len(RESTART_S)) - 1])
        await self._start(model)

    async def _start(self, model: LocalModel) -> None:
        try:
            await model.start()
        except Refusal as why:
            model.problem = str(why)

    def _background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def close(self) -> None:
        """End all processes."""
        self.closing = True
        for model in self.all.values():
            await model.stop()
