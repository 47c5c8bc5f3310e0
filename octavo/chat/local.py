"""A model in this process as a `Chat`: messages -> format -> tokens -> engine -> tokens -> parser -> deltas."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count
from threading import Lock
from weakref import finalize

from msgspec.structs import replace

from octavo.chat.next_turn import Conversation
from octavo.chat.reader import ReplyReader
from octavo.core.channel import Markers
from octavo.core.deltas import Delta, Finished
from octavo.core.messages import Message, ToolSpec
from octavo.core.sampling import Sampling, Thinking
from octavo.core.vocabulary import Vocabulary
from octavo.engine.engine import Engine
from octavo.engine.types import Calls, Request, Step
from octavo.text.chat.base import Format
from octavo.text.tokenizer import Tokenizer

MOST_ENDED = 64


class LocalChat:
    """Implements `Chat`. Several replies may run at once, from one thread or many: each step serves them all.

    While nobody waits for a reply, calls of `idle` prepare the next turns.
    """

    def __init__(self, *, name: str, engine: Engine, tokenizer: Tokenizer, form: Format,
                 beside: Sequence["LocalChat"] = ()) -> None:  # fmt: skip
        """beside: others that say the same by engines of their own, which who asks many things may ask some of."""
        self.name, self.engine, self.tokenizer, self.form, self.beside = name, engine, tokenizer, form, beside
        self.context_tokens = engine.longest
        self.markers = form.markers(tokenizer)
        self.inboxes: dict[str, deque[Step]] = {}
        self.left = deque[str]()  # requests whose replies nobody reads any more
        self.ended = deque[Conversation](maxlen=MOST_ENDED)  # whose next turn is yet to be prepared
        self.lock, self.numbers = Lock(), count()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the tokens spell: read by stop strings and grammars only, so built when first needed."""
        end = self.markers.end[0] if self.markers.end else self.tokenizer.eos_id
        return self.tokenizer.vocabulary(size=self.engine.backend.vocab_size, end=end or 0)

    def stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        sampling: Sampling | None = None,
        thinking: Thinking = Thinking(),
    ) -> "LocalReply":
        """Begin a reply. sampling None: what the model recommends for the mode. OctavoError comes before any delta."""
        conversation = Conversation(messages=tuple(messages), tools=tuple(tools), thinking=thinking)
        request, readers = self.prepare(conversation, sampling=sampling)
        with self.lock:
            self._forget_left()
            self.engine.submit(request)
            self.inboxes[request.id] = deque()
        return LocalReply(self, request, readers, conversation=conversation)

    def prepare(self, conversation: Conversation, *, sampling: Sampling | None = None,
                calls: Calls | None = None) -> tuple[Request, list[ReplyReader]]:  # fmt: skip
        """What the engine is asked, and who reads its steps: one reader per reply. Raises FormatError, RequestError.

        calls   what calls of the tools must look like, see `Request`
        """
        c = self._meant(conversation)
        tokens = c.tokens(self.form, self.tokenizer)
        sampling = sampling or self.recommended(c)
        budget = 0 if c.thinking.mode == "off" else c.thinking.budget_tokens  # off: none that the model begins itself
        request = self._request(tokens, sampling, budget=budget, calls=calls, space=c.space)
        return request, self._readers(request, c)

    def prepare_more(self, tokens: Sequence[int], messages: Sequence[Message], *, conversation: Conversation,
                     sampling: Sampling) -> tuple[Request, list[ReplyReader]]:  # fmt: skip
        """As `prepare`, for what comes after a reply: tools' answers, say. Nothing of `tokens` is encoded again.

        tokens   the prompt of that reply, and the reply;   conversation   what that prompt was rendered from
        """
        c = self._meant(conversation)
        more = self.form.extend(tokens, messages, self.tokenizer, thinking=c.thinking)
        budget = 0 if c.thinking.mode == "off" else c.thinking.budget_tokens
        request = self._request(more, sampling, budget=budget, space=c.space)
        return request, self._readers(request, c)

    def _meant(self, c: Conversation) -> Conversation:
        """A budget of nothing, asked for as the model has learnt it: by its switch, where it has one."""
        if c.thinking.budget_tokens == 0 and self.form.thinks == "optional":
            return replace(c, thinking=Thinking(mode="off"))
        return c

    def _readers(self, request: Request, c: Conversation) -> list[ReplyReader]:
        many = range(request.sampling.n)
        return [ReplyReader(self.form, self.tokenizer, request, index=i, tools=c.tools) for i in many]

    def prepare_text(self, prompt: str | tuple[int, ...], *, sampling: Sampling, space: str = "",
                     first: int = 0) -> tuple[Request, list[ReplyReader]]:  # fmt: skip
        """As `prepare`, for a prompt that stands as it is, text or tokens, and goes on as text without a format.

        first   the number of its first reply, where several prompts are asked together
        """
        known = self.tokenizer
        bos = (known.bos_id,) if known.adds_bos and known.bos_id is not None else ()
        tokens = (*bos, *known.encode(prompt, special=True)) if isinstance(prompt, str) else prompt
        plain = Markers(end=self.markers.end)
        request = self._request(tokens, sampling, space=space, markers=plain)
        return request, [ReplyReader(None, self.tokenizer, request, index=first + i) for i in range(sampling.n)]

    def _request(self, tokens: tuple[int, ...], sampling: Sampling, *, budget: int | None = None,
                 calls: Calls | None = None, space: str = "", markers: Markers | None = None) -> Request:  # fmt: skip
        spelled = bool(sampling.stop or sampling.choice or sampling.regex is not None or sampling.schema is not None
                       or calls is not None)  # fmt: skip
        return Request(
            id=f"{self.name}-{next(self.numbers)}", tokens=tokens, sampling=sampling, markers=markers or self.markers,
            budget_tokens=budget, vocabulary=self.vocabulary if spelled else None, calls=calls, space=space,
        )  # fmt: skip

    def recommended(self, conversation: Conversation) -> Sampling:
        """The sampling that the model's makers recommend for what comes next."""
        thinks = self.form.effective_thinking(conversation.messages, conversation.thinking)
        return self.form.recommended(thinks)

    def idle(self) -> bool:
        """A little of what the next turns will need, where nobody waits for a reply; False: there is no more to do now.

        Conversations that ended are rendered as their next prompt will be, the thinking left out where the format does
        so, and computed: one small chunk a call. A request that comes meanwhile waits for no more than that.
        """
        with self.lock:
            self._forget_left()
            if self.engine.busy:
                return False
            if self.ended:
                ended = self.ended.popleft()
                tokens = ended.history(self.form, self.tokenizer)
                if 0 < len(tokens) < self.context_tokens:
                    self.engine.warm(tokens, space=ended.space)
            elif self.engine.warming:
                self._deliver(self.engine.step())
            return bool(self.ended) or self.engine.warming

    def step_for(self, request_id: str) -> Step:
        """The next step of a request: from its inbox, else by running the engine for everyone."""
        inbox = self.inboxes[request_id]
        while True:
            with self.lock:
                self._forget_left()
                if inbox:
                    return inbox.popleft()
                self._deliver(self.engine.step())

    def _deliver(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if step.id in self.inboxes:
                self.inboxes[step.id].append(step)

    def leave(self, request_id: str) -> None:
        """Nobody reads a request's replies any more: free what it holds, now or before the next step.

        Never waits for the lock: the garbage collector may call this in the midst of a step.
        """
        self.left.append(request_id)
        if self.lock.acquire(blocking=False):
            try:
                self._forget_left()
            finally:
                self.lock.release()

    def _forget_left(self) -> None:
        while self.left:
            id = self.left.popleft()
            self.engine.cancel(id)
            self.inboxes.pop(id, None)

    def cancel(self, request_id: str) -> None:
        """End a request at its next token, if it still runs."""
        with self.lock:
            self._deliver(self.engine.cancel(request_id))

    def end_thinking(self, request_id: str) -> None:
        """Close a request's thinking, if it is thinking."""
        with self.lock:
            self.engine.end_thinking(request_id)


class LocalReply:
    """A running reply of a `LocalChat`. One that is dropped, read or not, is cancelled: its pages are free again."""

    def __init__(self, chat: LocalChat, request: Request, readers: list[ReplyReader], *,
                 conversation: Conversation) -> None:  # fmt: skip
        self.chat, self.request, self.readers, self.conversation = chat, request, readers, conversation
        self.started_s = time.perf_counter()
        finalize(self, chat.leave, request.id).atexit = False

    def cancel(self) -> None:
        """Stop at the next token."""
        self.chat.cancel(self.request.id)

    def end_thinking(self) -> None:
        """Close the thinking now and go on to the answer."""
        self.chat.end_thinking(self.request.id)

    def __iter__(self) -> Iterator[Delta]:
        running = set(range(len(self.readers)))
        try:
            while running:
                step = self.chat.step_for(self.request.id)
                for delta in self.readers[step.index].read(step, after_s=time.perf_counter() - self.started_s):
                    if isinstance(delta, Finished) and len(self.readers) == 1:  # of several, it is open which goes on
                        self.chat.ended.append(self.conversation.saying(delta.message))
                    yield delta
                if step.finish is not None:
                    running.discard(step.index)
        finally:
            self.chat.leave(self.request.id)
