"""llama.cpp through the low-level functions of llama-cpp-python: a batch of tokens in, logits out, the largest taken.

What it may choose: flash attention on or off, and with several sequences one buffer of keys and values for all or one
for each. `requests` batches continuously over 16 slots, as llama.cpp's server does: running replies first, then as much
of the waiting prompts as a batch has room for.
"""

import ctypes
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import llama_cpp
import numpy as np

from bench.rivals.worker import MissingFigure, Order, prompt, serve

BATCH, SLOTS = 512, 16
TYPES = {"16": llama_cpp.GGML_TYPE_F16, "int8": llama_cpp.GGML_TYPE_Q8_0}


@dataclass
class Slot:
    """One sequence while it runs. at: position of the next token; left: tokens it still wants."""

    waiting: deque[int]
    left: int
    at: int = 0
    last: int = 0


class Session:
    """A context and the batch that goes into it."""

    def __init__(self, context: Any, vocab: int) -> None:
        self.context, self.vocab = context, vocab
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def run(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """(token, position, sequence, whether its successor is wanted) -> the successors that were wanted."""
        b = self.batch
        for i, (token, at, sequence, wanted) in enumerate(rows):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, at, 1, wanted
            b.seq_id[i][0] = sequence
        b.n_tokens = len(rows)
        code = llama_cpp.llama_decode(self.context, b)
        if code:
            raise RuntimeError(f"llama_decode gave {code} for {len(rows)} rows")
        return [self.largest(i) for i, row in enumerate(rows) if row[3]]

    def largest(self, row: int) -> int:
        """The likeliest token after a row."""
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        return int(np.ctypeslib.as_array(logits, (self.vocab,)).argmax())

    def prefill(self, tokens: list[int], sequence: int) -> int:
        """The first token of a reply."""
        last: list[int] = []
        for start in range(0, len(tokens), BATCH):
            part = tokens[start : start + BATCH]
            rows = [(t, start + i, sequence, start + i + 1 == len(tokens)) for i, t in enumerate(part)]
            last = self.run(rows)
        return last[0]


class Llama:
    """Implements `worker.Runner`."""

    def __init__(self, path: str, threads: int) -> None:
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not model:
            raise MissingFigure(f"llama.cpp cannot load {path}")
        self.model, self.threads = model, threads
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def settings(self, order: Order) -> list[str]:
        """Quantised values need flash attention; one sequence has nothing to share a buffer with."""
        flash = ["flash"] if order.cache == "int8" else ["flash", "no flash"]
        buffers = ["own buffers"] if order.batch == 1 else ["own buffers", "one buffer"]
        return [f"{f}, {b}, cache {'Q8_0' if order.cache == 'int8' else 'F16'}" for f in flash for b in buffers]

    @contextmanager
    def session(self, setting: str, *, sequences: int, tokens: int) -> Iterator[Session]:
        """A context with room for `tokens` in each sequence."""
        flash, buffers, cache = setting.split(", ")
        p = llama_cpp.llama_context_default_params()
        p.n_ctx, p.n_seq_max, p.n_batch, p.n_ubatch = sequences * (-(-tokens // 256) * 256), sequences, BATCH, BATCH
        p.n_threads = p.n_threads_batch = self.threads
        p.flash_attn_type = int(flash == "flash")
        p.kv_unified = buffers == "one buffer"
        p.type_k = p.type_v = TYPES["int8" if cache.endswith("Q8_0") else "16"]
        p.no_perf = True
        context = llama_cpp.llama_init_from_model(self.model, p)
        if not context:
            raise MissingFigure(f"llama.cpp makes no context for {setting}")
        session = Session(context, self.vocab)
        try:
            yield session
        finally:
            llama_cpp.llama_batch_free(session.batch)
            llama_cpp.llama_free(context)

    def decode(self, order: Order, setting: str) -> list[float]:
        """All sequences in one batch, a token each."""
        size, took_s = order.context - order.steps // 2, list[float]()
        with self.session(setting, sequences=order.batch, tokens=order.context + order.steps) as session:
            last = [session.prefill(prompt(order, i, tokens=size), i) for i in range(order.batch)]
            for step in range(order.steps + 2):
                start = time.perf_counter()
                last = session.run([(token, size + step, i, True) for i, token in enumerate(last)])
                took_s.append(time.perf_counter() - start)
        return took_s[2:]  # the first steps still build their graph

    def prefill(self, order: Order, setting: str) -> float:
        """A prompt, 512 tokens at a time."""
        with self.session(setting, sequences=1, tokens=order.context + 1) as session:
            start = time.perf_counter()
            session.prefill(prompt(order, 0, tokens=order.context), 0)
            return time.perf_counter() - start

    def requests(self, work: list[tuple[list[int], int]], setting: str) -> float:
        """Continuous batching; a sequence that is done gives its slot to the next in the queue."""
        queue, slots, given = deque(work), dict[int, Slot](), 0
        longest = max(len(tokens) + reply for tokens, reply in work)
        with self.session(setting, sequences=SLOTS, tokens=longest) as session:
            memory = llama_cpp.llama_get_memory(session.context)
            start = time.perf_counter()
            while queue or slots:
                for number in [n for n in range(SLOTS) if n not in slots][: len(queue)]:
                    tokens, reply = queue.popleft()
                    slots[number] = Slot(waiting=deque(tokens), left=reply)
                rows = next_rows(slots)
                wanted = [row[2] for row in rows if row[3]]
                for number, token in zip(wanted, session.run(rows), strict=True):
                    slot = slots[number]
                    slot.last, slot.left, given = token, slot.left - 1, given + 1
                    if not slot.left:
                        llama_cpp.llama_memory_seq_rm(memory, number, -1, -1)
                        del slots[number]
            took_s = time.perf_counter() - start
        assert given == sum(reply for _, reply in work)
        return took_s


def next_rows(slots: dict[int, Slot]) -> list[tuple[int, int, int, bool]]:
    """The next batch: a token of each running reply, then prompts while there is room. Moves the slots on."""
    rows: list[tuple[int, int, int, bool]] = []
    for number, slot in slots.items():
        if not slot.waiting:
            rows.append((slot.last, slot.at, number, True))
            slot.at += 1
    for number, slot in slots.items():
        while slot.waiting and len(rows) < BATCH:
            rows.append((slot.waiting.popleft(), slot.at, number, not slot.waiting))
            slot.at += 1
    return rows


def import_all() -> None:
    """All that llama.cpp needs is imported above."""
    assert ctypes.sizeof(llama_cpp.llama_batch)


def load(path: str, kind: str, threads: int) -> Any:
    """One GGUF file; it says itself what kind its weights are."""
    return Llama(path, threads)


if __name__ == "__main__":
    serve(import_all, load)
