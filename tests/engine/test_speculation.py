"""What speculation promises beside its laws, which test_engine_laws.py runs: drafters, paces, passes."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import speculation_laws as laws
from bench.subjects import requests
from octavo.core.errors import ConfigError
from octavo.core.sampling import Sampling
from octavo.engine import drafts
from octavo.engine.drafts import CATCH_UP, REACH, Ask, Lookup, ModelDrafter
from octavo.engine.engine import Engine, tokens_of
from octavo.engine.scheduler import Scheduler
from octavo.engine.sequence import Sequence
from octavo.engine.speculation import PASS_ROWS, PROBE, Pace
from octavo.engine.types import Request
from tests.chat.models import smollm2
from tests.engine.hash_backend import HashBackend

TEXT = (20, 31, 25, 47, 22, 50, 33, 28, 60, 41, 36, 52)


def longest_match(tokens: list[int]) -> int:
    """The plain way: the longest end of the text, of two tokens to REACH, that stood in it before; 0: none."""
    for size in range(min(REACH, len(tokens) - 1), 1, -1):
        if any(tokens[i : i + size] == tokens[-size:] for i in range(len(tokens) - size)):
            return size
    return 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 7), st.integers(1, 7))
def test_a_draft_is_what_followed_the_longest_match(tokens: list[int], least: int, most: int):
    """Found in one index that grows with the text."""
    lookup, grown = Lookup(), list[int]()
    for token in tokens:
        grown.append(token)
        draft, size = lookup.draft(grown, least=least, most=most), longest_match(grown)
        assert len(draft) <= min(size, most) and (not draft or len(draft) >= least)
        places = [i for i in range(size, len(grown)) if grown[i - size : i] == grown[-size:]] if size else []
        following = {tuple(grown[i : i + min(size, most)]) for i in places}
        assert draft in following or not draft
        if len(places) == 1 and len(grown) <= drafts.LOOKS:  # so short a text is searched completely
            assert draft == (tuple(f) if len(f := min(following)) >= least else ())


def test_a_look_up_costs_the_same_however_long_the_text():
    class Counted(list):
        reads = 0

        def __getitem__(self, i):
            Counted.reads += 1
            return super().__getitem__(i)

    rng, lookup, most = random.Random(0), Lookup(), 0
    text = Counted(rng.choices(range(3), k=8))
    for _ in range(3000):
        text.append(rng.randrange(3))
        Counted.reads = 0
        lookup.draft(text, least=1, most=7)
        most = max(most, Counted.reads) if len(text) > 10 else 0
    assert most <= 2 * (REACH + 1) * drafts.LOOKS + 3


def greedy(backend: HashBackend, tokens: list[int], count: int) -> tuple[int, ...]:
    said = list(tokens)
    for _ in range(count):
        said.append(int(np.argmax(backend.logits(said))))
    return tuple(said[len(tokens) :])


@given(seed=st.integers(0, 10_000), page_tokens=st.integers(1, 5), room=st.integers(20, 150))
def test_a_model_drafts_its_own_greedy_tokens(seed: int, page_tokens: int, room: int):
    """Whatever was refused before, whoever comes and goes, however few its pages are: rightly, or not at all."""
    rng = random.Random(seed)
    backend = HashBackend(page_tokens=page_tokens, pages=room // page_tokens)
    drafter, texts, proposed = ModelDrafter(backend, target=backend), dict[int, list[int]](), 0
    for step in range(25):
        if rng.random() < 0.3:
            texts[step] = rng.choices(range(20, 24), k=rng.randint(1, 30))
        if texts and rng.random() < 0.1:
            drafter.forget(gone := rng.choice(list(texts)))
            del texts[gone]
        asked = [name for name in texts if rng.random() < 0.7]
        asks = [Ask(reply=name, tokens=texts[name], most=rng.randint(1, 5)) for name in asked]
        for ask, draft in zip(asks, drafter.propose(asks), strict=True):
            assert draft in ((), greedy(backend, texts[ask.reply], ask.most))
            proposed += len(draft)
            taken = draft[: rng.randint(0, len(draft))]
            texts[ask.reply] += [*taken, rng.randrange(20, 24)]
    for name in texts:
        drafter.forget(name)
    assert drafter.pool.unused == backend.pages and not drafter.held
    assert proposed or room < 60


def test_replies_are_drafted_together_and_long_prompts_are_caught_up_with_by_and_by():
    backend = HashBackend(pages=1000)
    drafter, long = ModelDrafter(backend, target=backend), random.Random(0).choices(range(64), k=2 * CATCH_UP + 9)
    asks = [Ask(reply=0, tokens=[5, 6], most=3), Ask(reply=1, tokens=[7], most=3), Ask(reply=2, tokens=long, most=3)]
    assert [len(draft) for draft in drafter.propose(asks)] == [3, 3, 0]
    assert [len(plan.chunks) for plan in backend.forwards] == [3, 2, 2]
    assert [len(drafter.propose(asks)[2]) for _ in range(2)] == [0, 3]
    assert max(len(chunk.tokens) for plan in backend.forwards for chunk in plan.chunks) == CATCH_UP


def test_a_draft_model_of_another_family_is_refused():
    with pytest.raises(ConfigError, match=r"64 tokens.*65"):
        ModelDrafter(HashBackend(), target=HashBackend(vocab_size=65))


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 7), st.integers(1, 7)), max_size=80),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_a_pace_never_spends_more_than_it_may(turns: list[tuple[int, int, int]], cost: float):
    """Whatever comes true and what not: one probe at first, then ALLOWANCE for each token and a pass for each hit."""
    pace, length, spent, earned = Pace(token_cost=cost, seen=10), 10, 0.0, PROBE * cost
    for tokens, hits, replies in turns:
        length += tokens
        earned += tokens * 0.01
        least, most = pace.bounds(length, replies=replies)
        assert (least, most) == (0, 0) or 1 <= least <= most < PASS_ROWS
        if most:
            hits = min(hits, most)
            spent += most * cost * replies
            assert spent <= earned + 1e-9
            earned += hits
            length += hits
            earned += hits * 0.01
            pace.learn(drafted=most, accepted=hits)


def test_a_pace_drafts_all_it_can_on_hits_and_probes_rarely_on_misses():
    hits, misses = Pace(token_cost=0.05, seen=0), Pace(token_cost=0.05, seen=0)
    lengths, drafted = [], 0
    for i in range(6):
        lengths.append(hits.bounds(8 * i, replies=1)[1])
        hits.learn(drafted=lengths[-1], accepted=lengths[-1])
    assert lengths[-1] == PASS_ROWS - 1, lengths
    for i in range(1000):
        least, most = misses.bounds(i, replies=1)
        if most:
            drafted += 1
            misses.learn(drafted=most, accepted=0)
            assert i < 100 or least == most == PROBE
    assert 20 < drafted < 60


def echo_request(id: str = "r", **sampling) -> Request:
    return Request(id=id, tokens=TEXT * 2, sampling=Sampling(**{"temperature": 0, "max_tokens": 60} | sampling))


def echo_backend(**shape: int) -> HashBackend:
    return HashBackend(echo=TEXT, strength=30, **shape)


def test_drafts_fill_a_pass_to_eight_rows_and_a_wide_one_gets_none():
    for replies in (1, 2, 3, 7, 8, 12):
        backend = echo_backend(pages=2000)
        engine = Engine(backend)
        for i in range(replies):
            engine.submit(echo_request(str(i)))
        while engine.busy:
            engine.step()
        decoding = [plan for plan in backend.forwards if all(chunk.start >= len(TEXT) * 2 for chunk in plan.chunks)]
        rows = max(sum(len(chunk.tokens) for chunk in plan.chunks) for plan in decoding)
        assert rows == max(replies, PASS_ROWS), replies
        for plan in backend.forwards:
            drafts_there = any(chunk.rows == "all" for chunk in plan.chunks)
            assert not drafts_there or sum(len(chunk.tokens) for chunk in plan.chunks) <= PASS_ROWS
        assert replies < 8 or engine.stats.drafted < 8 * 7 * 7  # at the end, when few are left


def test_nothing_is_drafted_beyond_the_end_of_a_reply():
    for most in range(1, 12):
        engine = Engine(echo_backend())
        steps = engine.generate(echo_request(max_tokens=most))
        assert len(tokens_of(steps)) == most and steps[-1].finish == "length"
        assert engine.stats.drafted == engine.stats.accepted


def test_a_full_context_is_used_to_its_last_token():
    backend = echo_backend(pages=12, page_tokens=4)
    steps = Engine(backend).generate(echo_request(max_tokens=None))
    assert len(tokens_of(steps)) == 48 - len(TEXT) * 2
    assert tokens_of(steps) == tokens_of(Engine(backend, speculation=None).generate(echo_request(max_tokens=None)))


def test_nobody_is_preempted_for_a_guess():
    """With one page left, a draft is cut to what that page holds beside the token that must be computed."""
    backend = echo_backend(pages=40, page_tokens=2)
    engine = Engine(backend)
    engine.submit(echo_request())
    engine.step()
    engine.pool.take(engine.pool.free.count - 1)
    engine.step()
    assert [len(plan.chunks[0].tokens) for plan in backend.forwards] == [len(TEXT) * 2, 2]
    assert engine.stats.running == 1 and engine.stats.preemptions == 0


def test_a_real_model_repeats_a_text_in_fewer_passes_and_the_same_words():
    """SmolLM2 in fp32, greedy."""
    chat = smollm2()
    text = "x = {'name': 'Ada', 'age': 36}\ny = {'name': 'Bob', 'age': 41}\nz = {'name': 'Eve', 'age': 28}\n"
    prompt = f"<|im_start|>user\nRepeat this code exactly:\n{text}<|im_end|>\n<|im_start|>assistant\n"
    request = Request(
        id="r", tokens=tuple(chat.tokenizer.encode(prompt)), sampling=Sampling(temperature=0, max_tokens=64)
    )
    plain, quick = Engine(chat.engine.backend, speculation=None), Engine(chat.engine.backend)
    assert tokens_of(plain.generate(request)) == tokens_of(quick.generate(request))
    assert quick.stats.forwards * 1.6 < plain.stats.forwards


def test_what_is_counted():
    engine, plain = Engine(echo_backend()), Engine(echo_backend(), speculation=None)
    tokens = [tokens_of(each.generate(echo_request())) for each in (engine, plain)]
    s = engine.stats
    assert tokens[0] == tokens[1] and plain.stats.drafted == plain.stats.accepted == 0
    assert s.accepted == len(tokens[0]) - s.forwards >= 45
    assert s.drafted >= s.accepted and plain.stats.forwards == len(tokens[0])


def test_published_pages_hold_verified_tokens_only():
    """Each path of the prefix tree is the beginning of what some request and its reply said."""
    rng = random.Random(3)
    target = laws.echoing(rng, page_tokens=1, pages=400)
    engine = laws.drafting(target, "garbage", rng, token_cost=laws.FREE, step_tokens=512)
    wanted = requests(rng, 20)
    said = {tuple(r.tokens) + tuple(tokens_of(steps, index=i)) for r in wanted for steps in [engine.generate(r)]
            for i in range(r.sampling.n)}  # fmt: skip
    for node in engine.pool.nodes.values():
        path = list[int]()
        while node.parent is not None:
            path[:0], node = node.tokens, node.parent
        assert any(text[: len(path)] == tuple(path) for text in said), path
    assert engine.pool.nodes and engine.stats.drafted > engine.stats.accepted


def test_a_draft_that_is_believed_is_noticed(monkeypatch: pytest.MonkeyPatch):
    def credulous(self: Sequence, chunk, logits_NV):
        for logits_V in logits_NV:
            if self.finish is None:
                self.sample(logits_V)

    monkeypatch.setattr(Sequence, "follow", credulous)
    with pytest.raises((AssertionError, IndexError)):
        laws.changes_nothing(100)


def test_pages_published_before_they_are_verified_are_noticed(monkeypatch: pytest.MonkeyPatch):
    commit = Scheduler.commit

    def hasty(self: Scheduler, plan, sequences):
        for chunk, sequence in zip(plan.chunks, sequences, strict=True):
            full = (chunk.start + len(chunk.tokens)) // self.pool.page_tokens
            if sequence.publishable is None and chunk.rows == "all":
                self.pool.publish([*sequence.tokens[: chunk.start], *chunk.tokens], sequence.pages[:full])
        commit(self, plan, sequences)

    monkeypatch.setattr(Scheduler, "commit", hasty)
    with pytest.raises(AssertionError):
        laws.changes_nothing(100)


def test_a_draft_model_that_keeps_pages_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ModelDrafter, "forget", lambda self, reply: self.held.pop(reply, None))
    with pytest.raises(AssertionError, match="leaked"):
        laws.storms_leak_nothing(1000)


def test_drafting_without_end_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Pace, "bounds", lambda self, length, replies: (1, PASS_ROWS - 1))
    with pytest.raises(AssertionError, match=r"garbage|n-gram"):
        laws.passes_are_saved(30)
