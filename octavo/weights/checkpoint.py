"""What a model's files hold, whatever their layout: config, tensors by official name, where its tokenizer is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import CheckpointError
from octavo.core.strict import read_json_object
from octavo.nn.quant import Weight
from octavo.weights.gguf_file import GgufFile
from octavo.weights.quantised_file import QuantisedFile, plain_config
from octavo.weights.safetensors_file import SafetensorsFile

if TYPE_CHECKING:
    import torch

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Source(Protocol):
    """One file with tensors."""

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors, by their official names."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        ...

    def dtype_name(self, name: str) -> str:
        """How one tensor is stored: a name of `NUMBERS`, else of quantised weights such as "w8" or "Q4_0"."""
        ...

    def array(self, name: str) -> NDArray[Any]:
        """One tensor's numbers, a view of the file where that is possible. See `Checkpoint.array`."""
        ...

    def raw(self, name: str) -> NDArray[np.uint8]:
        """One tensor's rows as they are stored. See `Checkpoint.raw`."""
        ...

    def prefetch(self, name: str) -> None:
        """Begin to read a tensor from the disk."""
        ...

    def release(self, name: str) -> None:
        """Give the memory behind a read tensor back."""
        ...


class Checkpoint:
    """A model's files, open but unread. Make it with `open_checkpoint`.

    path               the folder, or the GGUF file
    name               "org/name" where it lies in the hub's cache, else of the folder or file;   chat_name   less org
    config             as config.json has it, less how Octavo's own files are quantised: they give plain weights
    generation_config  as generation_config.json has it; {} where there is none
    tokenizer_source   the folder, or a GGUF file's metadata (key -> plain Python value)
    """

    def __init__(self, path: Path, files: list[Source], *, config: dict[str, Any],
                 generation_config: dict[str, Any], tokenizer_source: Path | Mapping[str, Any]) -> None:  # fmt: skip
        """Raises CheckpointError where two files hold a tensor of the same name."""
        self.path, self.files, self.config = path, files, config
        self.generation_config, self.tokenizer_source = generation_config, tokenizer_source
        self.name = name_of(path)
        self.chat_name = self.name.rpartition("/")[2]
        self._homes: dict[str, Source] = {}
        for file in files:
            for name in file.names:
                if name in self._homes:
                    raise CheckpointError(f"{path}: two files hold {name[:80]}. Remove one, or download again.")
                self._homes[name] = file

    @property
    def paths(self) -> tuple[Path, ...]:
        """Of all files with tensors."""
        return tuple(file.path for file in self.files)

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors, by their official names."""
        return tuple(self._homes)

    @property
    def size_bytes(self) -> int:
        """Of all files with tensors."""
        return sum(file.size_bytes for file in self.files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        return self._home(name).shape(name)

    def dtype_name(self, name: str) -> str:
        """How one tensor is stored: "F32", "BF16" ..., or a kind of quantised weights such as "w8" or "Q4_0"."""
        return self._home(name).dtype_name(name)

    def array(self, name: str) -> NDArray[Any]:
        """One tensor as NumPy has it: a view of the file where it is stored as such (writes stay in memory), else new.

        NumPy has no bfloat16 and no 8-bit floats: these come as the unsigned integers of their bits. Quantised weights
        come as the float32 numbers they stand for.
        """
        return self._home(name).array(name)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """One tensor's rows as they are stored, blocks and all, in the official order: (rows, bytes per row)."""
        return self._home(name).raw(name)

    def quantised(self, name: str) -> Weight | None:
        """A weight that `octavo quantize` wrote, rotated as it was quantised; else None."""
        home = self._home(name)
        return home.weight(name) if isinstance(home, QuantisedFile) and name in home.quantised else None

    def dtype(self, name: str) -> torch.dtype:
        """That `read` gives: the file's, or float32 where it holds quantised weights."""
        from octavo.weights.tensors import torch_dtype

        return torch_dtype(self.dtype_name(name))

    def read(self, name: str) -> torch.Tensor:
        """`array` in torch, over the same memory."""
        from octavo.weights.tensors import as_tensor

        return as_tensor(self.array(name), self.dtype_name(name))

    def prefetch(self, name: str) -> None:
        """Begin to read a tensor from the disk, in the background."""
        self._home(name).prefetch(name)

    def release(self, name: str) -> None:
        """Give the memory behind a read tensor back. A view stays valid, less what was written to it."""
        self._home(name).release(name)

    def _home(self, name: str) -> Source:
        if name not in self._homes:
            raise CheckpointError(f"{self.path} has no tensor {name[:80]}. Download the model again.")
        return self._homes[name]


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open a folder with config.json and safetensors (one file, or several and their index), or a GGUF file.

    Reads headers only. Raises CheckpointError or ConfigError naming the file at fault; never unpickles anything.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise CheckpointError(f"{path} is no GGUF file. Name a .gguf file, or the folder with config.json.")
        return _open_gguf(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist: name a model's folder or a GGUF file.")
    shards = _shards(path)
    if not shards:
        ggufs = sorted(path.glob("*.gguf"))
        if len(ggufs) == 1:
            return _open_gguf(ggufs[0])
        raise _nothing_to_open(path, ggufs)
    stated = read_json_object(path / "config.json", error=CheckpointError, limit_bytes=16 << 20)
    config, plain = plain_config(stated), _open_shards(shards)
    files: list[Source] = [*plain] if config is stated else [QuantisedFile(file) for file in plain]
    generation = path / "generation_config.json"
    return Checkpoint(
        path, files, config=config, tokenizer_source=path,
        generation_config=read_json_object(generation, error=CheckpointError) if generation.exists() else {},
    )  # fmt: skip


def name_of(path: Path) -> str:
    """What to call a model: "org/name" where it lies in the hub's cache (models--org--name/snapshots/...)."""
    for folder in (path, *path.parents):
        if folder.name.startswith("models--") and folder.name.count("--") >= 2:
            return folder.name.removeprefix("models--").replace("--", "/", 1)
    return path.stem if path.suffix == ".gguf" else path.resolve().name


def shards_of_index(index: Path) -> dict[str, str]:
    """An index's table, tensor -> file name. Raises CheckpointError for one that is broken or leaves its folder."""
    table = read_json_object(index, error=CheckpointError).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index} has no weight_map, a table from tensors to files: download it again.")
    for file in table.values():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names the file {str(file)[:80]!r}, a safetensors file beside it was needed."
            )
    return table


def _shards(folder: Path) -> dict[Path, list[str]]:
    """Files of a folder, each with the tensors that the index expects in it."""
    if (folder / SINGLE).exists():
        return {folder / SINGLE: []}
    if (folder / INDEX).exists():
        shards: dict[Path, list[str]] = {}
        for tensor, file in shards_of_index(folder / INDEX).items():
            shards.setdefault(folder / file, []).append(tensor)
        missing = sorted(file.name for file in shards if not file.exists())
        if missing:
            raise CheckpointError(
                f"{folder}: {INDEX} names {len(shards)} files, {len(missing)} of them are missing, first "
                f"{missing[0][:80]}. "
                f"Download the model again; what is there is kept."
            )
        return shards
    files = sorted(folder.glob("*.safetensors"))
    if len(files) > 1:
        raise CheckpointError(f"{folder} has {len(files)} safetensors files and no {INDEX}: download that file too.")
    return {file: [] for file in files}


def _open_shards(shards: dict[Path, list[str]]) -> list[SafetensorsFile]:
    opened: list[SafetensorsFile] = []
    for path, expected in shards.items():
        file = SafetensorsFile(path)
        absent = [name for name in expected if name not in file.tensors]
        if absent:
            raise CheckpointError(
                f"{path.name} has no tensor {absent[0][:80]}, which {INDEX} promises ({len(absent)} such). "
                f"The files belong to different versions: download the model again."
            )
        opened.append(file)
    return opened


def _open_gguf(path: Path) -> Checkpoint:
    file = GgufFile(path)
    ids = {key: file.config[key] for key in ("bos_token_id", "eos_token_id") if file.config[key] is not None}
    return Checkpoint(path, [file], config=file.config, generation_config=ids, tokenizer_source=file.fields)


def _nothing_to_open(folder: Path, ggufs: list[Path]) -> CheckpointError:
    if ggufs:
        return CheckpointError(f"{folder} has {len(ggufs)} GGUF files: name one, such as {ggufs[0]}.")
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickled:
        return CheckpointError(
            f"{folder} has only pickled weights ({pickled[0]}), which can run code when opened, so Octavo never does. "
            f"Convert them to safetensors (huggingface.co/spaces/safetensors/convert), or choose another copy."
        )
    return CheckpointError(f"{folder} has no safetensors or GGUF file: name the folder of a model.")
