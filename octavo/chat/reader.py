"""Steps of one reply -> deltas. Each token's channel says what it is; text is searched only where no token marks it."""

from collections.abc import Iterable, Iterator, Sequence

from octavo.core.channel import Channel
from octavo.core.deltas import (
    Delta,
    Finished,
    FinishReason,
    TextDelta,
    ThinkingDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from octavo.core.errors import RequestError
from octavo.core.messages import Message, ToolCall, ToolSpec
from octavo.engine.channels import start_channel
from octavo.engine.types import Request, Step
from octavo.text.chat.base import Format
from octavo.text.chat.parser import Event, Tag, TagParser, Tags
from octavo.text.tokenizer import Tokenizer


class ReplyReader:
    """Reads the steps of reply `index` of a request.

    form    None: the reply is text as it stands, of no chat format;   tools   those that were offered
    """

    def __init__(self, form: Format | None, tokenizer: Tokenizer, request: Request, *, index: int = 0,
                 tools: Sequence[ToolSpec] = ()) -> None:  # fmt: skip
        opens_thinking = start_channel(request.tokens, request.markers) is Channel.THINKING
        self.request, self.index, self.tokenizer = request, index, tokenizer
        plain = TagParser(Tags(), thinking_open=False, tools=False)
        self.parser = form.parser(thinking_open=opens_thinking, tools=tools) if form else plain
        self.answer = AnswerText(tokenizer, request.sampling.stop)
        self.thought = tokenizer.detokenizer(skip_special=True)
        tags = (form.tags if form else Tags()).spelled()
        spelled: dict[Tag, int | None] = {tag: tokenizer.id_of(text) for tag, text in tags.items()}
        self.tags: dict[int, Tag] = {}
        for tag, id in spelled.items():
            if id is not None:
                self.tags[id] = tag
        self.literal = len(self.tags) == len(spelled)  # every tag is a token: plain text that spells one is none
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.text, self.thinking, self.calls = "", "" if opens_thinking else None, list[ToolCall]()
        self.thinking_tokens = self.closing_tokens = self.forced_tokens = 0
        self.stop = ""
        self.first_s = 0.0

    def read(self, step: Step, *, after_s: float) -> Iterator[Delta]:
        """The deltas of one step. after_s: seconds since the request was submitted. Raises RequestError."""
        if step.error is not None:
            raise RequestError(step.error)
        if step.token is not None:
            self.first_s = self.first_s if self.tokens else after_s
            self._count(step, step.token)
            if self.request.sampling.logprobs is not None:
                top = tuple((id, self.tokenizer.token_bytes(id), value) for id, value in step.top)
                data = self.tokenizer.token_bytes(step.token)
                self.logprobs.append(TokenLogprob(token=step.token, data=data, logprob=step.logprob, top=top))
            yield from self._deltas(self._events(step, step.token), forced=step.forced)
        if step.finish is not None:
            yield from self._deltas(self._end(step), forced=False)
            yield self._finished(step, after_s=after_s)

    def whole(self, steps: Sequence[Step]) -> Finished:
        """What `read` ends with, of all steps of a reply at once, in a fraction of the time.

        Token by token log-probabilities are left to who has the steps. Raises RequestError.
        """
        last, text = steps[-1], ""
        if last.error is not None:
            raise RequestError(last.error)
        for step in steps:
            if step.token is None:
                continue
            self._count(step, step.token)
            if step.token in self.tags:
                self._note(self.parser.feed(text, literal=self.literal))
                self._note(self._events(step, step.token))
                text = ""
            elif step.token not in self.request.markers.end:
                text += self._spelled(step, step.token)
        self._note(self.parser.feed(text, literal=self.literal))
        self._note(self._end(last))
        return self._finished(last, after_s=0.0)

    def _note(self, events: Iterable[Event]) -> None:
        for _ in self._deltas(events, forced=False):
            pass

    def _count(self, step: Step, token: int) -> None:
        self.tokens.append(token)
        self.thinking_tokens += step.channel in (Channel.THINKING, Channel.CLOSING)
        self.closing_tokens += step.channel is Channel.CLOSING
        self.forced_tokens += step.forced

    def _spelled(self, step: Step, token: int) -> str:
        """The text that is certain with one token more."""
        if step.channel is not Channel.ANSWER:
            return self.thought.push(token)
        self.answer.push(token)
        return "" if step.keep_bytes is not None else self.answer.certain()

    def _events(self, step: Step, token: int) -> Iterator[Event]:
        if token in self.tags:
            yield from self._flush()
            yield from self.parser.mark(self.tags[token])
        elif token not in self.request.markers.end:
            yield from self.parser.feed(self._spelled(step, token), literal=self.literal)

    def _flush(self) -> Iterator[Event]:
        yield from self.parser.feed(self.thought.finish() + self.answer.flush(), literal=self.literal)

    def _end(self, step: Step) -> Iterator[Event]:
        if step.keep_bytes is not None:
            self.stop = self.answer.stop_at(step.keep_bytes)
            yield from self.parser.feed(self.answer.rest_before(step.keep_bytes), literal=self.literal)
        else:
            yield from self._flush()
        yield from self.parser.finish()

    def _deltas(self, events: Iterable[Event], *, forced: bool) -> Iterator[Delta]:
        for event in events:
            if isinstance(event, ToolCall):
                self.calls.append(event)
                yield ToolCallDelta(call=event, index=self.index)
            elif event.thinking:
                self.thinking = (self.thinking or "") + event.text
                yield ThinkingDelta(text=event.text, forced=forced, index=self.index)
            else:
                self.text += event.text
                yield TextDelta(text=event.text, index=self.index)

    def _finished(self, step: Step, *, after_s: float) -> Finished:
        assert step.finish is not None and step.finish != "error"
        reason: FinishReason = "tool_calls" if step.finish == "stop" and self.calls else step.finish
        usage = Usage(
            prompt_tokens=len(self.request.tokens), cached_tokens=step.cached_tokens,
            completion_tokens=len(self.tokens), thinking_tokens=self.thinking_tokens,
            closing_tokens=self.closing_tokens, forced_tokens=self.forced_tokens, prefill_s=self.first_s or after_s,
            decode_s=after_s - (self.first_s or after_s), thinking_stop=step.thinking_stop,
        )  # fmt: skip
        message = Message(role="assistant", content=self.text, thinking=self.thinking, tool_calls=tuple(self.calls))
        return Finished(
            message=message, reason=reason, usage=usage, stop=self.stop, tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs), index=self.index,
        )  # fmt: skip


class AnswerText:
    """The answer's tokens as text, less what may yet turn out to be the beginning of a stop string.

    data       bytes since the last flush that a stop string may be made of: those of all but added tokens
    before     how many such bytes came before `data`
    literals   the added tokens since then that are shown, each with its place in `data`
    given      characters since then that came out, those of literals too
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self.tokenizer, self.detokenizer = tokenizer, tokenizer.detokenizer(skip_special=True)
        self.stops = tuple(text.encode() for text in stop)
        self.reach = max((len(text) for text in stop), default=1) - 1  # characters
        self.data, self.literals = bytearray(), list[tuple[int, bytes]]()
        self.held, self.given, self.before = "", 0, 0

    def push(self, token: int) -> None:
        """One token more."""
        if self.stops and token not in self.tokenizer.added_ids:
            self.data += self.tokenizer.token_bytes(token)
        elif self.stops and token not in self.tokenizer.special_ids:
            self.literals.append((len(self.data), self.tokenizer.token_bytes(token)))
        self.held += self.detokenizer.push(token)

    def certain(self) -> str:
        """What no stop string can begin in any more."""
        count = max(0, len(self.held) - self.reach)
        text, self.held = self.held[:count], self.held[count:]
        self.given += count
        return text

    def flush(self) -> str:
        """All that was held back: the answer stops here, or is interrupted by a tag."""
        text = self.held + self.detokenizer.finish()
        self.held, self.given, self.before = "", 0, self.before + len(self.data)
        self.data.clear()
        self.literals.clear()
        return text

    def stop_at(self, keep_bytes: int) -> str:
        """The stop string that begins after the answer's first `keep_bytes` bytes."""
        rest = bytes(self.data[keep_bytes - self.before :])
        return next((stop.decode() for stop in self.stops if rest.startswith(stop)), "")

    def rest_before(self, keep_bytes: int) -> str:
        """What is left of the answer's first `keep_bytes` bytes, after which a stop string begins."""
        text, done, end = bytearray(), 0, keep_bytes - self.before
        for place, literal in self.literals:
            if place <= end:
                text += self.data[done:place] + literal
                done = place
        text += self.data[done:end]
        return text.decode("utf-8", "replace")[self.given :]
