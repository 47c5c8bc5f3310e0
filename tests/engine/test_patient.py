"""Prompts that give way: small chunks, none while another's prompt begins, and the same tokens in the end."""

import random

import pytest

from octavo.core.sampling import Sampling
from octavo.engine.engine import Engine, tokens_of
from octavo.engine.scheduler import PATIENT_TOKENS
from octavo.engine.types import Request
from tests.engine.hash_backend import HashBackend

PROMPT = tuple(random.Random(0).choices(range(20, 64), k=3 * PATIENT_TOKENS))


def ask(tokens: tuple[int, ...], *, id: str) -> Request:
    return Request(id=id, tokens=tokens, sampling=Sampling(temperature=0, max_tokens=6))


def test_who_comes_is_computed_at_once_and_the_patient_prompt_goes_on_behind_it():
    backend = HashBackend()
    engine = Engine(backend)
    engine.submit(ask(PROMPT, id="patient"), patient=True)
    engine.step()
    engine.submit(ask(PROMPT[5:75], id="comes"))
    while engine.busy:
        engine.step()
    sizes = [sorted(len(chunk.tokens) for chunk in plan.chunks) for plan in backend.forwards]
    assert sizes[:5] == [[PATIENT_TOKENS], [70], [1, PATIENT_TOKENS], [1, PATIENT_TOKENS], [1, 1]]


@pytest.mark.parametrize("pages", [7, 8, 10, 64])
def test_it_ends_with_its_own_tokens_however_few_pages_there_are(pages: int):
    engine, alone = Engine(HashBackend(page_tokens=16, pages=pages)), Engine(HashBackend())
    asked = {"patient": PROMPT, "comes": PROMPT[5:75], "last": PROMPT[9:50]}
    said: dict[str, list] = {id: [] for id in asked}
    for id, tokens in asked.items():
        engine.submit(ask(tokens, id=id), patient=id != "comes")
        for step in engine.step():
            said[step.id].append(step)
    while engine.busy:
        for step in engine.step():
            said[step.id].append(step)
    assert {id: tokens_of(steps) for id, steps in said.items()} == {
        id: tokens_of(alone.generate(ask(tokens, id=f"{id}-alone"))) for id, tokens in asked.items()
    }
    assert engine.pool.unused == engine.pool.size
