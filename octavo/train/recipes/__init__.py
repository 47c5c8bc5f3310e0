"""Recipes: one module each with `Settings` and `run(settings, progress=...)`, and one line here."""

import os
from importlib import import_module
from typing import Any

from octavo.core.errors import ConfigError

# name, also of the module in this package, which is imported only when it is asked for -> what it does
RECIPES: dict[str, str] = {
    "tokenizer": "Learn a byte-level BPE with Qwen3's special tokens and chat template from texts.",
    "pretrain": "Train a model from nothing or go on with one: general, reasoning-dense, long context.",
    "sft": "Supervised fine-tuning on conversations (JSONL): learnt is what the model says, as it would be asked.",
    "coldstart": "Few thinking conversations, few steps: the format, and to think; the rest is left to RL.",
    "rl": "Reasoning RL on problems with checkable answers: GRPO, DAPO, GSPO; levels by measured success.",
    "fuse": "Both modes in one model: its own right thinking, replies without, flags at random, the last one counts.",
    "general_rl": "RL for the format, the mode that is asked for, budgets of thinking and tools, both modes mixed.",
    "distill": "Strong to weak: the teacher's right replies, then the student's own, pulled towards the teacher.",
    "dpo": "Preferences: of two replies the better one becomes likelier than the other, compared with the start.",
    "chatvector": "Add a multiple of the difference of two models to a third, tensor by tensor.",
    "mini": "All of that in miniature, from nothing: a hybrid teacher, and its student, with their exams.",
}
# those that divide their work among processes
TOGETHER = ("pretrain", "sft", "coldstart", "rl", "fuse", "general_rl", "distill")


def recipe(name: str) -> Any:
    """The module of a recipe. Raises ConfigError for a name that is none, and for one that cannot run as it is to."""
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r:.80}: choose {', '.join(RECIPES)}.")
    if name not in TOGETHER and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{name} runs in one process, torchrun has started several: start octavo train {name}.")
    return import_module(f"{__name__}.{name}")
