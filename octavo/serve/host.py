"""The engine's process: one model, one thread that computes, one socket (its standard input) to the gateway.

Orders are read between steps; all events of a step leave in one frame. While there is nothing to do, next turns are
prepared. When the gateway is gone, so is this process.
"""

import os
import secrets
import select
import socket
import sys
import time
from collections.abc import Callable
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any

from octavo.chat.local import LocalChat
from octavo.chat.next_turn import Conversation
from octavo.chat.reader import ReplyReader
from octavo.core.deltas import Delta, Finished, TextDelta, ThinkingDelta, TokenLogprob, ToolCallDelta
from octavo.core.errors import ContextError, MemoryNeeded, OctavoError, RequestError
from octavo.engine.rules import Rules
from octavo.engine.types import Request, Step
from octavo.serve import answers, events, link, questions
from octavo.serve.compiling import Clerk, Compiler, takes_long
from octavo.serve.errors import TOO_LONG
from octavo.serve.job import Job
from octavo.serve.questions import Questions

BEAT_S = 0.25
READ_BYTES = 1 << 18


class Wire:
    """The socket to the gateway.   gone: the other side has closed it"""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.gone, self.lock = sock, False, Lock()
        self.unframer: link.Unframer[link.Order] = link.Unframer(link.Order)

    def send(self, word: link.Word) -> None:
        """To the gateway, whole."""
        try:
            with self.lock:
                self.sock.sendall(link.framed(word))
        except OSError:
            self.gone = True

    def receive(self, *, wait_s: float | None) -> list[link.Order]:
        """Orders that are here, or come within a time; None: however long it takes."""
        if not select.select([self.sock], [], [], wait_s)[0]:
            return []
        try:
            data = self.sock.recv(READ_BYTES)
        except OSError:
            data = b""
        self.gone = self.gone or not data
        return self.unframer.push(data)


class Running:
    """A job at work: its readers, and its events so far.   prompts: how many; each has as many replies"""

    def __init__(self, id: str, readers: list[ReplyReader], *, conversation: Conversation | None, prompts: int) -> None:
        self.id, self.readers, self.conversation = id, readers, conversation
        self.started_s, self.replies = time.perf_counter(), len(readers) // prompts  # to one prompt
        self.open, self.calls, self.told = len(readers), [0] * len(readers), [0] * len(readers)
        self.finished: list[Finished] = []
        self.begun = False  # a token has come

    def read(self, step: Step, *, prompt: int) -> list[events.Event]:
        """The events of one step of a prompt's request. Raises RequestError for a reply that cannot go on."""
        reader, found = self.readers[prompt * self.replies + step.index], list[events.Event]()
        for delta in reader.read(step, after_s=time.perf_counter() - self.started_s):
            found += self._events(delta, reader)
        if step.finish is not None:
            self.open -= 1
            if not self.open:
                found.append(self._usage())
        return found

    def echo(self, step: Step, *, prompt: int) -> list[events.Event]:
        """A prompt's text, with the log-probabilities that the last step of its scoring gives."""
        first = prompt * self.replies
        reader = self.readers[first]
        tokens, known = reader.request.tokens, reader.tokenizer
        skip = int(known.adds_bos and tokens[0] == known.bos_id)  # nobody wrote that one
        text = known.decode(tokens[skip:])
        scores = tuple(
            TokenLogprob(
                token=token, data=known.token_bytes(token), logprob=None if i == 0 else step.prompt_logprobs[i],
                top=tuple((id, known.token_bytes(id), value) for id, value in step.prompt_top[i]),
            ) for i, token in enumerate(tokens) if i >= skip
        )  # fmt: skip
        return [events.Text(text, first + i, scores) for i in range(self.replies)]

    def _events(self, delta: Delta, reader: ReplyReader) -> list[events.Event]:
        i = delta.index
        match delta:
            case ThinkingDelta():
                return [events.Reasoning(delta.text, i, self._logprobs(reader))]
            case TextDelta():
                return [events.Text(delta.text, i, self._logprobs(reader))]
            case ToolCallDelta():
                call, self.calls[i] = self.calls[i], self.calls[i] + 1
                id = f"call_{secrets.token_hex(12)}"
                start = events.ToolStart(id, delta.call.name, call, i)
                return [start, events.ToolArgs(delta.call.arguments, call, i), events.ToolEnd(call, i)]
            case Finished():
                self.finished.append(delta)
                left = self._logprobs(reader)
                rest: list[events.Event] = [events.Text("", i, left)] if left else []
                return [*rest, events.Finish(delta.reason, i, delta.stop, delta.tokens)]

    def _logprobs(self, reader: ReplyReader) -> Any:
        start, self.told[reader.index] = self.told[reader.index], len(reader.logprobs)
        return tuple(reader.logprobs[start:])

    def _usage(self) -> events.Usage:
        all_of = [finished.usage for finished in self.finished]
        firsts = [finished.usage for finished in self.finished if finished.index % self.replies == 0]
        return events.Usage(
            prompt_tokens=sum(u.prompt_tokens for u in firsts), cached_tokens=sum(u.cached_tokens for u in firsts),
            completion_tokens=sum(u.completion_tokens for u in all_of),
            reasoning_tokens=sum(u.thinking_tokens - u.closing_tokens for u in all_of),
            prefill_s=min(u.prefill_s for u in all_of), decode_s=max(u.decode_s for u in all_of),
            thinking_stop=all_of[0].thinking_stop or "",
        )  # fmt: skip


class Host:
    """Runs one model for the gateway."""

    def __init__(self, chat: LocalChat, wire: Wire) -> None:
        self.chat, self.wire = chat, wire
        self.running: dict[str, tuple[Running, int]] = {}  # by the engine's request id; and the number of its prompt
        self.waits: dict[str, tuple[Request, Rules | None]] = {}  # for a request that scores, by its id
        self.ids: dict[str, list[str]] = {}  # the gateway's id -> the engine's
        self.step_began_s: float | None = None
        self.stepped_s = 0.0  # in all steps
        self.compiler = Compiler(lambda job: answers.compiled(self.chat, job))
        self.questions, self.clerk = Questions(chat, wire.send), Clerk(chat, wire.send)

    def run(self) -> None:
        """Until the gateway is gone."""
        more_to_prepare = False
        while not self.wire.gone:
            wait_s = 0 if self.chat.engine.busy or more_to_prepare else self.compiler.wait_s or self.questions.wait_s
            orders = self.wire.receive(wait_s=wait_s)
            for order in orders:
                self.obey(order)
            for id, outcome in self.compiler.done():
                self._refusing(id, lambda id=id, outcome=outcome: self._start(id, outcome()))
            self.questions.look()
            if self.chat.engine.busy:
                self.step_began_s = time.perf_counter()
                self._tell(self.chat.engine.step())
                self.stepped_s += time.perf_counter() - self.step_began_s
                self.step_began_s, more_to_prepare = None, True
            elif more_to_prepare:
                more_to_prepare = self.chat.idle()

    def beat(self, over: Flag) -> None:
        """Say twice and again, in a thread of its own, that the process lives."""
        while not over.wait(BEAT_S) and not self.wire.gone:
            began_s, s = self.step_began_s, self.chat.engine.stats
            age_s = 0.0 if began_s is None else time.perf_counter() - began_s
            stats = {name: float(getattr(s, name)) for name in s.__struct_fields__} | {"stepped_s": self.stepped_s}
            self.wire.send(link.Beat(age_s, stats))

    def obey(self, order: link.Order) -> None:
        """Do what an order says."""
        match order:
            case link.Submit():
                self._refusing(order.id, lambda: self._submit(order.id, order.job))
            case link.Cancel():
                if self.compiler.drop(order.id):
                    self._send(order.id, [events.Error("it was cancelled before it began.", "server_error")])
                elif order.id not in self.ids:
                    self.questions.drop(order.id)
                else:
                    self._tell([step for id in self.ids[order.id] for step in self.chat.engine.cancel(id)])
            case link.EndThinking():
                for id in self.ids.get(order.id, ()):
                    self.chat.engine.end_thinking(id)
            case link.Question() if order.what in questions.TABLE:
                self.questions.begin(order)
            case link.Question():
                self.clerk.begin(order)
            case link.Open():
                raise AssertionError("one model per process")

    def _refusing(self, id: str, work: Callable[[], None]) -> None:
        """Do something for a job; what its client can cause is told to it alone."""
        try:
            work()
        except OctavoError as error:
            code = TOO_LONG if isinstance(error, ContextError) else ""
            self._send(id, [events.Error(str(error), "invalid_request_error", code=code)])

    def _submit(self, id: str, job: Job) -> None:
        if takes_long(job):
            self.compiler.begin(id, job)
        else:
            self._start(id, answers.prepared(self.chat, job))

    def _start(self, id: str, job: answers.Prepared) -> None:
        """Give all of a job to the engine, or nothing."""
        run = Running(id, job.readers, conversation=job.talk, prompts=len(job.requests))
        rules, begun = job.rules or (None,) * len(job.requests), list[Request]()
        try:
            for i, request in enumerate(job.scored or job.requests):
                self.chat.engine.submit(request, rules=None if job.scored else rules[i],
                                        patient=job.patient)  # fmt: skip
                begun.append(request)
        except OctavoError:
            for request in begun:
                self.chat.engine.cancel(request.id)
            raise
        ids = self.ids[id] = [request.id for request in (*job.scored, *job.requests)]
        for i, engine_id in enumerate(ids):
            self.running[engine_id] = (run, i % len(job.requests))
        for i, request in enumerate(job.scored):
            self.waits[request.id] = (job.requests[i], rules[i])
        self._send(id, [events.Start(sum(len(request.tokens) for request in job.requests))])

    def _tell(self, steps: list[Step]) -> None:
        """One frame for all events of these steps."""
        self.questions.read(steps)
        told, began = list[tuple[str, events.Event]](), list[str]()
        for step in steps:
            if step.id not in self.running:
                continue
            run, prompt = self.running[step.id]
            if step.token is not None and not run.begun:
                run.begun = True
                began.append(run.id)
            try:
                told += [(run.id, event) for event in self._read(step, run, prompt=prompt)]
            except RequestError as error:
                told.append((run.id, events.Error(str(error), "invalid_request_error")))
                for id in self.ids[run.id]:
                    self.chat.engine.cancel(id)
                run.open = 0
            if not run.open:
                self._forget(run)
        if told or began:
            self.wire.send(link.Frame(tuple(told), tuple(began)))

    def _read(self, step: Step, run: Running, *, prompt: int) -> list[events.Event]:
        """The events of a step. A prompt that was scored is said, and gone on from. Raises RequestError."""
        if step.id not in self.waits:
            return run.read(step, prompt=prompt)
        if step.finish is None:
            return []
        request, rules = self.waits.pop(step.id)
        if step.finish != "length":
            raise RequestError(step.error or "it was cancelled while its prompt was scored.")
        self.chat.engine.submit(request, rules=rules)
        return run.echo(step, prompt=prompt)

    def _forget(self, run: Running) -> None:
        for id in self.ids.pop(run.id):
            self.running.pop(id)
            self.waits.pop(id, None)
        if run.conversation is not None and len(run.finished) == 1:  # of several, it is open which goes on
            self.chat.ended.append(run.conversation.saying(run.finished[0].message))

    def _send(self, id: str, told: list[events.Event]) -> None:
        self.wire.send(link.Frame(tuple((id, event) for event in told)))


def main() -> int:
    """Load the model that the first order names, and run it. Exit code 1 where it cannot be loaded."""
    wire = Wire(socket.socket(fileno=os.dup(0)))
    first: list[link.Order] = []
    while not first and not wire.gone:
        first = wire.receive(wait_s=None)
    if not first or not isinstance(first[0], link.Open):
        return 1
    try:
        chat = answers.opened(first[0])
    except OctavoError as error:
        wire.send(link.Failed(str(error), isinstance(error, MemoryNeeded)))
        return 1
    wire.send(link.Ready(chat.name, chat.context_tokens, answers.facts(chat)))
    host, over = Host(chat, wire), Flag()
    Thread(target=host.beat, args=(over,), daemon=True).start()
    for order in first[1:]:
        host.obey(order)
    host.run()
    over.set()
    return 0


if __name__ == "__main__":
    sys.exit(main())
