"""Replies from other machines: OpenAI-compatible servers sample, with the weights as they are now.

A server goes on from tokens (`chat/token_server.py`); budgets, channels and the end of a reply are watched over on this
side, so that any will do. Before each sampling the weights are written to a folder that the servers see, and they are
told to read it again.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, cast

import torch
from msgspec import Meta, Struct

from octavo.chat.local import LocalChat
from octavo.chat.token_server import Said, TokenServer
from octavo.core.errors import RequestError, TrainingError
from octavo.engine.channels import Automaton
from octavo.engine.engine import Engine
from octavo.engine.rules import BudgetRule, EndRule, Rules
from octavo.engine.types import EngineFinish, Request, Step
from octavo.models.decoder import Decoder
from octavo.text.chat.base import Format
from octavo.text.tokenizer import Tokenizer
from octavo.train.models import write_model
from octavo.train.own import OwnChat, Whole
from octavo.train.ranks import Ranks

AT_ONCE = 32  # requests to one server


class Reload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a server is told to read its weights again. The default is that of `octavo serve --reload`."""

    path: Annotated[str, Meta(description="posted to; {model} is its name")] = "/v1/models/{model}/reload"
    body: Annotated[dict[str, Any], Meta(description="JSON; {folder} is where the weights are")] = {}


class FarEngine:
    """What rollouts need of an `Engine`, by servers in turn: each request to one, its replies' pieces to the same."""

    def __init__(self, servers: Sequence[TokenServer], *, longest: int, vocab_size: int) -> None:
        self.longest, self.vocab_size = longest, vocab_size
        self.pool = ThreadPoolExecutor(AT_ONCE * len(servers), thread_name_prefix="octavo-far")
        self.turns = cycle(servers)
        self.live = set[str]()  # requests that have not ended
        self.ended = SimpleQueue[tuple[str, Future[list[Step]]]]()

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.live)

    def submit(self, request: Request) -> None:
        """Begin. Raises TrainingError for what is not done on this side: constraints by grammars, stop strings; and
        RequestError for a prompt that is too long."""
        if request.vocabulary is not None or request.rules:
            raise TrainingError("servers elsewhere are asked for plain replies: leave schemas and stop strings out.")
        if len(request.tokens) >= self.longest:
            raise RequestError(
                f"the prompt has {len(request.tokens)} tokens, the model takes {self.longest}: shorten it."
            )
        self.live.add(request.id)
        work = self.pool.submit(self._work, request, next(self.turns))
        work.add_done_callback(lambda done: self.ended.put((request.id, done)))

    def step(self) -> list[Step]:
        """All steps of the next request that ends. Raises what its server failed with: HubError, RequestError."""
        while True:
            id, work = self.ended.get()
            if id in self.live:
                self.live.remove(id)
                return work.result()

    def cancel(self, id: str) -> list[Step]:
        """Nobody wants it any more."""
        self.live.discard(id)
        return []

    def forget(self) -> None:
        """Nothing is kept between requests."""

    def _work(self, request: Request, server: TokenServer) -> list[Step]:
        first = Reply(self, request, 0).wanted()
        said = server.ask(request.tokens, request.sampling, n=request.sampling.n, **first)
        return [step for i, piece in enumerate(said) for step in Reply(self, request, i).steps(piece, server)]


class Reply:
    """One reply, piece by piece.   tokens   so far"""

    def __init__(self, engine: FarEngine, request: Request, index: int) -> None:
        self.request, self.index, self.tokens = request, index, list[int]()
        most = request.sampling.max_tokens
        room = engine.longest - len(request.tokens)
        self.limit = room if most is None else min(most, room)
        budget = BudgetRule(request.markers, budget=request.budget_tokens, vocab_size=engine.vocab_size)
        self.rules = Rules(Automaton(request.tokens, request.markers), budget, [EndRule(request.markers.end)])

    def wanted(self) -> dict[str, Any]:
        """How the next piece is asked for: no longer than the budget allows, should all of it be thinking."""
        budget, left = self.rules.budget, self.limit - len(self.tokens)
        if budget.budget is not None and not budget.over and budget.stop is None:
            left = min(left, budget.budget - budget.spent + 1)
        never = self.request.markers.think_open if budget.over else None
        seed = (self.request.sampling.seed or 0) + (self.index << 32) + len(self.tokens)
        return {"most": left, "seed": seed, "never": never}

    def steps(self, first: Said, server: TokenServer) -> Iterator[Step]:
        """All of them. Raises TrainingError for one that its server ends without an end; else as `TokenServer.ask`."""
        yield from self._forced()
        piece = None if self.tokens else first
        while not self.finish:
            if piece is None:
                (piece,) = server.ask((*self.request.tokens, *self.tokens), self.request.sampling, **self.wanted())
            yield from self._read(piece)
            piece = None

    def _read(self, piece: Said) -> Iterator[Step]:
        for token, logprob in zip(piece.tokens, piece.logprobs, strict=True):
            if self.finish:
                return
            yield self._step(token, logprob)
            forced = list(self._forced())
            yield from forced
            if forced:  # what the server said next, it said without knowing that
                return
        if piece.ends and not self.finish:
            raise TrainingError("a server stopped a reply without the token that ends it: nobody could learn to stop.")

    def _forced(self) -> Iterable[Step]:
        while not self.finish and (tokens := self.rules.forced()):
            yield self._step(tokens[0], None)

    @property
    def finish(self) -> EngineFinish | None:
        """Why it is at its end, None: it is not."""
        return "stop" if self.rules.finished() else "length" if len(self.tokens) >= self.limit else None

    def _step(self, token: int, logprob: float | None) -> Step:
        channel = self.rules.accept(token)
        self.tokens.append(token)
        return Step(id=self.request.id, index=self.index, token=token, channel=channel, forced=logprob is None,
                    logprob=logprob, finish=self.finish, thinking_stop=self.rules.budget.stop)  # fmt: skip


class FarChat:
    """A model in training whose replies come from servers; as `OwnChat`, which has its own engine.

    folder   where the servers read the weights, in bf16
    """

    def __init__(self, model: Decoder, *, tokenizer: Tokenizer, form: Format, config: Mapping[str, Any], folder: Path,
                 servers: Sequence[str], reload: Reload = Reload(), ranks: Ranks = Ranks()) -> None:  # fmt: skip
        """servers   addresses that end in /v1#NAME. Raises HubError for one that is none."""
        self.whole = Whole(model, ranks)
        self.model, self.tokenizer, self.config = self.whole.model, tokenizer, dict(config)
        self.folder, self.how = folder, reload
        self.servers = [TokenServer(address) for address in servers]
        longest, rows = model.config.context_tokens, model.config.vocab_size
        engine = FarEngine(self.servers, longest=longest, vocab_size=rows)
        self.chat = LocalChat(name="trained", engine=cast(Engine, engine), tokenizer=tokenizer, form=form)

    def publish(self) -> None:
        """Write the weights as they are now, in place of those that are there."""
        newest, oldest = (self.folder.with_name(f"{self.folder.name}.{word}") for word in ("next", "old"))
        for left in (newest, oldest):
            shutil.rmtree(left, ignore_errors=True)
        write_model(newest, self.model, config=self.config, tokenizer=self.tokenizer, dtype=torch.bfloat16)
        if self.folder.exists():
            self.folder.replace(oldest)
        newest.replace(self.folder)
        shutil.rmtree(oldest, ignore_errors=True)

    def refresh(self) -> LocalChat:
        """The chat with the weights as they are now. Raises HubError or RequestError where a server does not take them:
        they are in the folder then."""
        self.whole.refresh()
        if self.whole.ranks.rank == 0:
            self.publish()
            for server in self.servers:
                server.reload(self.how.path, self.how.body, folder=self.folder)
        self.whole.ranks.wait()
        return self.chat


Sampled = OwnChat | FarChat  # a model in training, as a chat with the weights of now
