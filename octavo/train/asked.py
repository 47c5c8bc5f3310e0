"""What was asked of a recipe, kept with the model that came of it: the same question finds the same model again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from octavo.core.errors import TrainingError
from octavo.train.texts import texts_hash

CARD = "stage.json"
MODELS = ("model", "teacher", "plus", "minus")  # settings that name a model: of its path only the name is kept
PLACES = ("out", "data", "servers", "reload")  # may be another one when a run goes on; of data the content is kept


def asked(settings: Struct, *, recipe: str, files: Sequence[Path] = ()) -> dict[str, Any]:
    """All that decides what comes out, as plain JSON.   files   the data's"""
    plain = {name: value for name, value in msgspec.to_builtins(settings).items() if name not in PLACES}
    plain |= {name: Path(plain[name]).name for name in MODELS if name in plain}
    hashed = {"data_sha256": texts_hash(files)} if files else {}
    return {"recipe": recipe, **plain, **hashed}


def made(out: Path, wanted: dict[str, Any]) -> bool:
    """Whether the model is there already. Raises TrainingError where the folder has something else."""
    if not out.is_dir():
        return False
    card = out / CARD
    found: dict[str, Any] = json.loads(card.read_text(encoding="utf-8")).get("settings", {}) if card.exists() else {}
    for key, value in json.loads(json.dumps(wanted)).items():
        if found.get(key) != value:
            raise TrainingError(f"{out} has a model made with {key}={found.get(key)!r:.200}, asked for is "
                                f"{value!r:.200}: name another folder, or remove it.")  # fmt: skip
    return True
