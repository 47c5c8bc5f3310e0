"""Loss curves as they were: what a change of the code does to learning shows here first.

The curves in golden.json are of fp32 runs on one machine; another one's rounding moves them by less than the tolerance.
A change that is meant to change them: OCTAVO_GOLDEN=write pytest tests/train/test_golden.py
"""

import json
import os
import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from octavo.core.sampling import Thinking
from octavo.core.task import Problem
from octavo.tasks import TASKS
from octavo.train.curriculum import Level
from octavo.train.models import fresh, write_model
from octavo.train.recipes import pretrain, rl, sft, tokenizer
from octavo.train.run import Silent, read_log
from octavo.train.supervised import Lesson
from tests.serve.mini import config
from tests.train.guesses import words

GOLDEN = Path(__file__).with_name("golden.json")
Curve = list[list[float]]  # loss and gradient norm of each step


def curve(run: Path) -> Curve:
    return [[line["loss"], line["norm"]] for line in read_log(run)]


def pretrained(folder: Path) -> Curve:
    draw = random.Random(0)
    nouns = ["cat", "dog", "boat", "map", "moon", "tree", "fish", "sand"]
    texts = [f"The {a} saw a {b}, then the {b} saw a {a}." for a, b in (draw.sample(nouns, 2) for _ in range(60))]
    (folder / "texts.txt").write_text("\n\n".join(texts), encoding="utf-8")
    tokenizer.run(tokenizer.Settings(data=f"{folder}/texts.txt", out=f"{folder}/words", size=280, context=256))
    stage = pretrain.Stage(name="one", steps=8, tokens=256, batches=2, longest=64)
    pretrain.run(pretrain.Settings(
        data=f"{folder}/texts.txt", tokenizer=f"{folder}/words", out=f"{folder}/out", stages=(stage,), bf16=False,
        shape=pretrain.Size(width=32, layers=2, heads=2, kv_heads=1, head_width=16, inner=64),
    ), progress=Silent())  # fmt: skip
    return curve(folder / "out" / "runs" / "1-one")


def begun(folder: Path) -> str:
    write_model(folder / "model", fresh(config(), seed=3), config=config(), tokenizer=words()[0])
    return f"{folder}/model"


def tuned(folder: Path) -> Curve:
    talks = [[{"role": "user", "content": f"Say {word}"}, {"role": "assistant", "content": word * 2}]
             for word in ("red", "blue", "tell", "user")]  # fmt: skip
    lines = "".join(json.dumps({"messages": talk}) + "\n" for talk in talks)
    (folder / "data.jsonl").write_text(lines, encoding="utf-8")
    lesson = Lesson(steps=8, samples=4, warmup=2, bf16=False)
    sft.run(sft.Settings(model=begun(folder), data=f"{folder}/data.jsonl", out=f"{folder}/out", lesson=lesson),
            progress=Silent())  # fmt: skip
    return curve(folder / "out.run")


def reinforced(folder: Path) -> Curve:
    """Rewarded are replies without the letter e: even a model that knows nothing is right sometimes."""
    settings = rl.Settings(model=begun(folder), out=f"{folder}/out", tasks={"chain": [1]}, steps=4, queries=4,
                           replies=4, longest=12, exact=True, warmup=0)  # fmt: skip

    def pose(draw: random.Random, level: Level) -> Problem:
        problem = TASKS[level[0]].problem(draw.getrandbits(40), level=level[1])
        return replace(problem, thinking=Thinking(mode="off"))

    rl.learn(settings, recipe="rl", pose=pose, progress=Silent(),
             reward=lambda own: lambda one: float("e" not in one.turns[-1].message.text))  # fmt: skip
    return curve(folder / "out.run")


@pytest.mark.parametrize("made", [pretrained, tuned, reinforced])
def test_losses_are_as_they_were(made, tmp_path: Path):
    found = made(tmp_path)
    kept = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if os.environ.get("OCTAVO_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps({**kept, made.__name__: found}, indent=1) + "\n", encoding="utf-8")
    else:
        for step, now in enumerate(found):
            assert now == pytest.approx(kept[made.__name__][step], rel=2e-3, abs=1e-5), f"step {step}"
        assert len(found) == len(kept[made.__name__])
