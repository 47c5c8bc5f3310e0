"""What `test_parallel.py` runs alone and on two processes: recipes one after the other."""

import sys
from pathlib import Path

from octavo.train.recipes import recipe
from octavo.train.run import Silent
from octavo.train.settings import read_settings

TASKS = 'tasks={"retrieval": [1, 2], "format": [1]}'
# name -> recipe, the model that it begins with, its settings; three samples of a step: one rank waits for the other
STEPS: dict[str, tuple[str, str, list[str]]] = {
    "cold": ("coldstart", "model", ["count=20", "lesson.steps=6", "lesson.samples=3", "lesson.tokens=256",
                                    "lesson.bf16=false", "lesson.how.method=adamw"]),
    "rl": ("general_rl", "model", ["longest=24", "exact=true", "queries=3", "replies=4", "steps=2", "tokens=512"]),
    "distill": ("distill", "model", ["longest=24", "teacher={}/cold", "replies=0", "off_steps=0", "on_steps=1",
                                     "queries=6", "each=2", "tokens=256"]),
}  # fmt: skip


def run(folder: Path) -> None:
    """All of them."""
    for name, (kind, before, more) in STEPS.items():
        given = [f"model={folder}/{before}", f"out={folder}/{name}", TASKS, *(word.format(folder) for word in more)]
        recipe(kind).run(read_settings(recipe(kind).Settings, given, recipe=kind), progress=Silent())


if __name__ == "__main__":
    run(Path(sys.argv[1]))
