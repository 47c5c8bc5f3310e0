"""The models that come with the install: `transformers` reads them and says the same, and they do what they are for."""

from pathlib import Path

import pytest
import torch

from bench.smollm2 import TOKENS, octavo
from octavo.chat.loading import load
from octavo.chat.local import LocalChat
from octavo.core.task import Problem
from octavo.nn.context import PackedContext
from octavo.tasks import TASKS
from octavo.text.chat.qwen3 import Qwen3
from octavo.text.tokenizer import Tokenizer
from octavo.train.measure import measure, problems_of
from octavo.train.mini.card import NAMES
from octavo.train.mini.exam import MODES
from octavo.train.models import read_model
from octavo.weights import open_checkpoint
from octavo.weights.hub import SHIPPED, find_model

MOST_BYTES = 40 << 20
ASKED = (("chain", 8), ("stories", 6), ("table", 5), ("countdown", 4), ("tools", 3))
each_model = pytest.mark.parametrize("name", NAMES.values())


def prompts(name: str) -> list[list[int]]:
    """Held-out problems as they are asked, in the chat format."""
    words, form = Tokenizer.from_folder(SHIPPED / name), Qwen3()
    found = [TASKS[task].problem(0, level=level, split="test") for task, level in ASKED]
    return [words.encode(form.render(one.messages, tools=one.tools).text, special=True) for one in found]


def theirs(folder: Path):
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_both_are_there_and_small():
    assert [find_model(name, offline=True) for name in NAMES.values()] == [SHIPPED / name for name in NAMES.values()]
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert all((SHIPPED / name / "README.md").read_text(encoding="utf-8").count("|") > 50 for name in NAMES.values())


@each_model
@torch.inference_mode()
def test_logits_are_those_of_transformers(name: str):
    model, _ = read_model(SHIPPED / name)
    other = theirs(SHIPPED / name)
    for prompt in prompts(name):
        tokens = torch.tensor(prompt)
        ours = model.logits(model(tokens, PackedContext([len(tokens)])))
        torch.testing.assert_close(ours, other(input_ids=tokens[None]).logits[0], atol=1e-4, rtol=0)


@each_model
@torch.inference_mode()
def test_greedy_tokens_are_those_of_transformers(name: str):
    """A bare loop: `generate` would end at an end token."""
    other, continued = theirs(SHIPPED / name), octavo(open_checkpoint(SHIPPED / name), kind="plain")
    asked, wanted = [list(prompt) for prompt in prompts(name)], list[list[int]]()
    for prompt in asked:
        tokens = list(prompt)
        for _ in range(TOKENS):
            tokens.append(int(other(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        wanted.append(tokens[len(prompt) :])
    assert continued(asked) == wanted


def asked(task: str, *, count: int) -> list[Problem]:
    return problems_of(TASKS[task], range(1, TASKS[task].levels + 1), count=count)


@each_model
def test_it_thinks_when_it_is_to_and_thinking_helps(name: str):
    chat = load(name, offline=True)
    assert isinstance(chat, LocalChat)
    problems = [*asked("chain", count=24), *asked("letters", count=24)]
    thought, direct = (measure(chat, problems, tasks=TASKS, thinking=MODES[mode]) for mode in ("thinking", "direct"))
    assert thought.followed >= 0.95 and direct.followed >= 0.95
    assert thought.accuracy.value >= direct.accuracy.value + 0.4
