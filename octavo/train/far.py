"""Replies from other machines: OpenAI-compatible servers sample, with the weights as they are now.

A server is asked for `completions` of tokens and must give token ids and their log-probabilities (`return_token_ids`:
vLLM and `octavo serve` do). Budgets, channels and the end of a reply are watched over on this side, so that any will
do. Before each sampling the weights are written to a folder that the servers see, and they are told to read it again.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, NamedTuple, cast

import httpx
import msgspec
import torch
from msgspec import Meta, Struct

from octavo.chat.local import LocalChat
from octavo.chat.openai_wire import reason
from octavo.chat.remote import headers_for
from octavo.core.channel import Channel
from octavo.core.errors import RequestError, TrainingError
from octavo.core.sampling import Sampling
from octavo.engine.channels import Automaton
from octavo.engine.engine import Engine
from octavo.engine.rules import BudgetRule, EndRule, Rules
from octavo.engine.types import EngineFinish, Request, Step
from octavo.models.decoder import Decoder
from octavo.text.chat.base import Format
from octavo.text.tokenizer import Tokenizer
from octavo.train.models import write_model
from octavo.train.own import OwnChat

AT_ONCE = 32  # requests to one server
TIMEOUT = httpx.Timeout(30.0, read=600.0)
SEEDS = 1 << 62  # what all servers take
NEVER = -100.0  # logit bias
SENT = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


class Reload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a server is told to read its weights again. The default is that of `octavo serve --reload`."""

    path: Annotated[str, Meta(description="posted to; {model} is its name")] = "/v1/models/{model}/reload"
    body: Annotated[dict[str, Any], Meta(description="JSON; {folder} is where the weights are")] = {}


class Said(NamedTuple):
    """A piece of a reply.   logprobs   nats, of each token;   ends: the server takes it for the reply's end"""

    tokens: Sequence[int]
    logprobs: Sequence[float]
    ends: bool


class _Logprobs(Struct):
    token_logprobs: list[float | None]


class _Choice(Struct):
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Completion(Struct):
    choices: list[_Choice]


class Server:
    """One server.   name   of its model"""

    def __init__(self, address: str) -> None:
        """address   that ends in /v1, the model after a #"""
        url, _, self.name = address.partition("#")
        self.client = httpx.Client(base_url=url.rstrip("/") + "/", timeout=TIMEOUT, headers=headers_for(url),
                                   limits=httpx.Limits(max_connections=None))  # fmt: skip

    def ask(self, tokens: Sequence[int], sampling: Sampling, *, most: int, seed: int, n: int = 1,
            never: int | None = None) -> list[Said]:  # fmt: skip
        """n continuations of at most so many tokens.   never   a token that must not come. Raises TrainingError."""
        options = {name: getattr(sampling, name) for name in SENT}
        bias = dict(sampling.logit_bias) | ({} if never is None else {never: NEVER})
        body = {"model": self.name, "prompt": list(tokens), "max_tokens": most, "n": n, "seed": seed % SEEDS,
                "logprobs": 0, "return_token_ids": True, **options}  # fmt: skip
        if bias:
            body["logit_bias"] = {str(token): value for token, value in bias.items()}
        try:
            choices = msgspec.json.decode(self._post("completions", body), type=_Completion).choices
        except msgspec.DecodeError as cause:
            raise TrainingError(
                f"{self.client.base_url} answers with something else than completions: {cause}."
            ) from cause
        if len(choices) != n:
            raise TrainingError(f"{self.client.base_url} gave {len(choices)} replies, {n} were asked for.")
        return [self._said(choice) for choice in choices]

    def _said(self, choice: _Choice) -> Said:
        tokens = choice.token_ids
        logprobs = [] if choice.logprobs is None else [x for x in choice.logprobs.token_logprobs if x is not None]
        if not tokens or len(tokens) != len(logprobs):
            raise TrainingError(
                f"{self.client.base_url} gave {len(tokens or ())} token ids and {len(logprobs)} log-probabilities of a "
                f"reply: RL needs both of every token. Ask one that knows return_token_ids: `octavo serve`."
            )
        return Said(tokens, logprobs, choice.finish_reason == "stop")

    def reload(self, how: Reload, *, folder: Path) -> None:
        """Have the weights read again. Raises TrainingError."""
        path, body = how.path.format(model=self.name), _placed(how.body, str(folder.resolve()))
        self._post(str(self.client.base_url.join(path)), body)

    def _post(self, path: str, body: Mapping[str, Any]) -> bytes:
        try:
            answer = self.client.post(path, json=body)
        except httpx.HTTPError as cause:
            raise TrainingError(f"{self.client.base_url} cannot be reached ({cause}): start it, and give the command "
                                f"again; the run goes on where it was.") from cause  # fmt: skip
        if answer.is_error:
            raise TrainingError(f"{answer.url} refused ({answer.status_code}): {reason(answer.content)}")
        return answer.content


def _placed(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {key: _placed(one, folder) for key, one in cast(dict[str, Any], value).items()}
    return value.replace("{folder}", folder) if isinstance(value, str) else value


class FarEngine:
    """What rollouts need of an `Engine`, by servers in turn: each request to one, its replies' pieces to the same."""

    warming = False

    def __init__(self, servers: Sequence[Server], *, longest: int, vocab_size: int) -> None:
        self.longest, self.vocab_size = longest, vocab_size
        self.pool = ThreadPoolExecutor(AT_ONCE * len(servers), thread_name_prefix="octavo-far")
        self.turns = cycle(servers)
        self.live = dict[str, int]()  # request -> replies that have not ended
        self.ended = SimpleQueue[tuple[str, list[Step] | BaseException]]()

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
        self.live[request.id] = request.sampling.n
        self.pool.submit(self._work, request, next(self.turns))

    def step(self) -> list[Step]:
        """All steps of the next reply that ends. Raises TrainingError where its server failed."""
        while True:
            id, found = self.ended.get()
            if id not in self.live:
                continue
            if isinstance(found, BaseException):
                raise found
            self.live[id] -= 1
            if not self.live[id]:
                del self.live[id]
            return found

    def cancel(self, id: str) -> list[Step]:
        """Nobody wants it any more."""
        self.live.pop(id, None)
        return []

    def forget(self) -> None:
        """Nothing is kept between requests."""

    def _work(self, request: Request, server: Server) -> None:
        try:
            reply = Reply(self, request, 0)
            firsts = server.ask(request.tokens, request.sampling, n=request.sampling.n, **reply.wanted())
            for index, first in enumerate(firsts):
                steps = list(Reply(self, request, index).steps(first, server))
                self.ended.put((request.id, steps))
        except BaseException as cause:
            self.ended.put((request.id, cause))


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

    def steps(self, first: Said, server: Server) -> Iterator[Step]:
        """All of them. Raises TrainingError."""
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
        channel: Channel = self.rules.accept(token)
        self.tokens.append(token)
        return Step(id=self.request.id, index=self.index, token=token, channel=channel, forced=logprob is None,
                    logprob=logprob, finish=self.finish, thinking_stop=self.rules.budget.stop)  # fmt: skip


class FarChat:
    """A model in training whose replies come from servers; as `OwnChat`, which has its own engine.

    folder   where the servers read the weights, in bf16
    """

    def __init__(self, model: Decoder, *, tokenizer: Tokenizer, form: Format, config: Mapping[str, Any], folder: Path,
                 servers: Sequence[str], reload: Reload = Reload()) -> None:  # fmt: skip
        self.model, self.tokenizer, self.config = model, tokenizer, dict(config)
        self.folder, self.how = folder, reload
        self.servers = [Server(address) for address in servers]
        longest, rows = model.config.context_tokens, model.config.vocab_size
        engine = FarEngine(self.servers, longest=longest, vocab_size=rows)
        self.chat = LocalChat(name="trained", engine=cast(Engine, engine), tokenizer=tokenizer, form=form)
        if not folder.exists():
            self.publish()

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
        """The chat with the weights as they are now. Raises TrainingError where a server does not take them."""
        self.publish()
        for server in self.servers:
            server.reload(self.how, folder=self.folder)
        return self.chat


Sampled = OwnChat | FarChat  # a model in training, as a chat with the weights of now
