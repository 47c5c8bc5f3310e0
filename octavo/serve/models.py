"""Which models there are: loaded when first asked for, let go when memory runs short, started again when they fall."""

import asyncio
import logging
import math
import time
from collections.abc import Coroutine, Sequence

from msgspec import Struct

from octavo.core.errors import ConfigError
from octavo.serve import link
from octavo.serve.engines import LocalModel
from octavo.serve.errors import Refusal
from octavo.serve.remotes import RemoteModel

RESTART_S = (0.0, 1.0, 5.0, 15.0)  # waits before the first, second ... restart in a row
STEADY_S = 60.0  # a process that lived so long counts as well again
LOOK_S = 1.0  # how often idle models are looked for
REST_S = 10.0  # before a model that could not be loaded is tried again
Model = LocalModel | RemoteModel


class Care(Struct, frozen=True, kw_only=True):
    """How models are kept.

    memory_bytes   for all processes of models together; None: what the machine has
    keep_alive_s   how long a model stays that nobody asks; None: until memory is needed
    reloads        models may be read again, for they are being trained; so nothing of theirs is kept in the cache
    """

    memory_bytes: int | None = None
    keep_alive_s: float | None = None
    reloads: bool = False


class Models:
    """All models of one server, by name; the first is what a request without a model means."""

    def __init__(self, openings: Sequence[link.Open], *, care: Care = Care()) -> None:
        """Raises ConfigError where two have the same name, or one has none or names that are not UTF-8."""
        _check_names(openings)
        self.all: dict[str, Model] = {
            o.name: RemoteModel(o.name, o.source, changed=self._changed)
            if o.source.startswith(("http://", "https://"))
            else LocalModel(o, changed=self._changed)
            for o in openings
        }
        self.care, self.tasks, self.closing = care, set[asyncio.Task[None]](), False
        self.loading = asyncio.Lock()

    def find(self, name: str) -> Model:
        """The model of that name. Raises Refusal naming those that there are."""
        found = self.all.get(name) if name else next(iter(self.all.values()))
        if found is None:
            names = ", ".join(self.all)
            raise Refusal(f"there is no model {name!r} here: choose one of {names}.", kind="not_found_error",
                          param="model", code="model_not_found")  # fmt: skip
        return found

    async def start(self, model: Model) -> None:
        """Have a model ready, others let go where memory is short. Raises Refusal where it cannot be."""
        if model.state == "ready":
            return
        if isinstance(model, RemoteModel):
            try:
                await model.start()
            except Refusal:
                self._tell(model)
                raise
            return
        async with self.loading:
            while True:
                if model.state == "failed" and time.monotonic() - model.started_s > REST_S:
                    model.forget()
                await model.start(memory_bytes=self._left(model), reloads=self.care.reloads)
                if model.loads:
                    return
                idle = [m for m in self.locals if m.state == "ready" and not m.busy] if model.short_of_memory else []
                if not idle:
                    kind = "overloaded" if model.short_of_memory else "server_error"
                    self._tell(model)
                    others = any(m.loads for m in self.locals if m is not model)  # whose memory may become free
                    raise Refusal(f"{model.name} cannot be loaded now: whoever runs this server finds why in its log.",
                                  kind=kind, retry_after_s=REST_S if others else math.inf)  # fmt: skip
                await min(idle, key=lambda m: m.used_s).leave()
                model.forget()

    async def reload(self, name: str) -> Model:
        """Read a model's files again; what it was doing ends with an error. Raises Refusal."""
        model = self.find(name)
        if not self.care.reloads or isinstance(model, RemoteModel):
            raise Refusal(f"{model.name} is not read again here: whoever runs this server can start it with --reload.",
                          kind="permission_error")  # fmt: skip
        async with self.loading:
            await model.leave()
        await self.start(model)
        return model

    @property
    def locals(self) -> list[LocalModel]:
        """Those with a process of their own."""
        return [model for model in self.all.values() if isinstance(model, LocalModel)]

    @property
    def ready(self) -> bool:
        """Whether models answer: none that runs here is missed, and one is there or can be loaded."""
        missed = any(m.wanted and m.state != "ready" for m in self.locals)
        return not missed and any(m.state in ("ready", "cold") for m in self.all.values())

    def begin(self) -> None:
        """Load the first model, in the background, and look after all."""
        self._background(self._start(next(iter(self.all.values()))))
        if self.care.keep_alive_s is not None:
            self._background(self._let_idle_go(self.care.keep_alive_s))

    async def close(self) -> None:
        """End all processes."""
        self.closing = True
        for task in self.tasks:
            task.cancel()
        for model in self.all.values():
            await model.stop()

    def _left(self, model: LocalModel) -> int | None:
        """Bytes that a model may take beside the others."""
        if self.care.memory_bytes is None:
            return None
        return max(1, self.care.memory_bytes - sum(m.resident_bytes() for m in self.locals if m is not model))

    async def _let_idle_go(self, keep_alive_s: float) -> None:
        while True:
            await asyncio.sleep(min(LOOK_S, keep_alive_s / 2))
            for model in self.locals:
                if model.state == "ready" and not model.busy and time.monotonic() - model.used_s > keep_alive_s:
                    await model.leave()

    def _tell(self, model: Model) -> None:
        """Whoever runs the server, and nobody else: what is wrong may name files and addresses."""
        logging.getLogger(__name__).error("%s cannot be used: %s", model.name, model.problem)

    def _changed(self, model: Model) -> None:
        if isinstance(model, LocalModel) and model.state == "cold" and model.wanted and not self.closing:
            well = time.monotonic() - model.started_s > STEADY_S
            model.falls = 1 if well else model.falls + 1
            self._background(self._revive(model))

    async def _revive(self, model: LocalModel) -> None:
        await asyncio.sleep(RESTART_S[min(model.falls, len(RESTART_S)) - 1])
        await self._start(model)

    async def _start(self, model: Model) -> None:
        try:
            await self.start(model)
        except Refusal:
            return  # it was said in the log when it failed

    def _background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def _check_names(openings: Sequence[link.Open]) -> None:
    seen = set[str]()
    for name, source in ((o.name, o.source) for o in openings):
        if name in seen:
            raise ConfigError(f"two models are called {name!r}: write NAME= before one, such as other={source}")
        if not name.strip() or not source.strip():
            raise ConfigError(f"a model has no {'name' if source.strip() else 'source'}: write NAME=SOURCE, such as "
                              f"mine={source.strip() or 'FOLDER'}")  # fmt: skip
        if any(0xD800 <= ord(char) < 0xE000 for char in name + source):
            raise ConfigError(f"{name!r} or its source {source!r} holds bytes that are not UTF-8: rename the files.")
        seen.add(name)
