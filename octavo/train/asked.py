"""What was asked of a recipe, kept with the model that came of it: the same question finds the same model again."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from octavo.core.errors import TrainingError
from octavo.train.texts import texts_hash
from octavo.weights.checkpoint import name_of

CARD = "stage.json"
MODELS = ("model", "teacher", "plus", "minus")  # settings that name a model: of its path the name is kept
PLACES = ("out", "data", "servers", "reload")  # may be another one when a run goes on; of data the content is kept
WHOLE_BYTES = 1 << 28  # of a model's file that is read to its end; of a larger one, LOOKS that are spread over it
LOOKS, LOOK_BYTES = 256, 1 << 14


def asked(settings: Struct, *, recipe: str, files: Sequence[Path] = ()) -> dict[str, Any]:
    """All that decides what comes out, as plain JSON.   files   the data's"""
    plain = {name: value for name, value in msgspec.to_builtins(settings).items() if name not in PLACES}
    models = {name: Path(plain[name]) for name in MODELS if plain.get(name)}
    plain |= {name: name_of(path) for name, path in models.items()}
    if changes := plain.get("lora", {}).get("begin"):
        models["lora"] = Path(changes)
        plain["lora"] = {**plain["lora"], "begin": Path(changes).name}
    digests = {f"{name}_digest": model_digest(path) for name, path in models.items() if path.exists()}
    hashed = {"data_sha256": texts_hash(files)} if files else {}
    return {"recipe": recipe, **plain, **digests, **hashed}


def model_digest(path: Path) -> str:
    """Of a folder of a model or of changes to one, or a GGUF file: its config and its weights, of large files the
    sizes and many looks at each."""
    kinds = ("config.json", "adapter_config.json", "*.safetensors", "*.gguf")
    files = [path] if path.is_file() else sorted(file for kind in kinds for file in path.glob(kind))
    told = hashlib.sha256()
    for file in files:
        with file.open("rb") as data:
            size = data.seek(0, os.SEEK_END)
            told.update(f"{size} ".encode())
            looks = [0] if size <= WHOLE_BYTES else [(size - LOOK_BYTES) * i // (LOOKS - 1) for i in range(LOOKS)]
            for place in looks:
                data.seek(place)
                told.update(data.read(WHOLE_BYTES if len(looks) == 1 else LOOK_BYTES))
    return told.hexdigest()[:16]


def made(out: Path, wanted: dict[str, Any]) -> bool:
    """Whether the model is there already. Raises TrainingError where the folder has something else."""
    if not out.exists():
        return False
    card = out / CARD
    if not card.exists():
        raise TrainingError(f"{out} is there, and is no model of a recipe: name another folder, or remove it.")
    found: dict[str, Any] = json.loads(card.read_text(encoding="utf-8")).get("settings", {})
    for key, value in json.loads(json.dumps(wanted)).items():
        if found.get(key) != value:
            raise TrainingError(f"{out} has a model made with {key}={found.get(key)!r:.200}, asked for is "
                                f"{value!r:.200}: name another folder, or remove it.")  # fmt: skip
    return True
