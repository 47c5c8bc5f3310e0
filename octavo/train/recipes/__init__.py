"""Recipes: one module each with `Settings` and `run(settings, progress=...)`, and one line here."""

from importlib import import_module
from typing import Any

from octavo.core.errors import ConfigError

# name, also of the module in this package, which is imported only when it is asked for -> what it does
RECIPES: dict[str, str] = {
    "tokenizer": "Learn a byte-level BPE with Qwen3's special tokens and chat template from texts.",
    "pretrain": "Train a model from nothing or go on with one: general, reasoning-dense, long context.",
    "rl": "Reasoning RL on problems with checkable answers: GRPO, DAPO, GSPO; levels by measured success.",
    "general_rl": "RL for the format, the mode that is asked for, budgets of thinking and tools, both modes mixed.",
    "distill": "Strong to weak: the teacher's right replies, then the student's own, pulled towards the teacher.",
}


def recipe(name: str) -> Any:
    """The module of a recipe. Raises ConfigError for a name that is none."""
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r:.80}: choose {', '.join(RECIPES)}.")
    return import_module(f"{__name__}.{name}")
