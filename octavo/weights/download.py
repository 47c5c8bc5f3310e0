"""A model from a hub into the shared cache, in the layout of `huggingface_hub`: blobs, snapshots, refs.

`huggingface_hub` itself throws a file away when its download is interrupted; here it stays and is gone on with.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from octavo.core.errors import HubError, MemoryNeeded, OctavoError
from octavo.core.sources import Hub, Report, silent
from octavo.core.strict import read_json_object
from octavo.weights.checkpoint import INDEX, SINGLE, shards_of_index
from octavo.weights.memory import gigabytes
from octavo.weights.quantised_file import plain_config
from octavo.weights.transfer import GIT_SHA1, SHA256, RemoteFile, Web, check_url, digest_of

CONFIGS = ("config.json", "generation_config.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json",
             "added_tokens.json", "chat_template.jinja", "chat_template.json")  # fmt: skip
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}")  # of a file: no folder, not hidden
PART_OF_GGUF = re.compile(r".*-\d{5}-of-\d{5}\.gguf")
SPARE_BYTES = 256 << 20  # of disk, left free
REPORT_S = 0.5  # between two lines of progress
MODELSCOPE_HOST = "www.modelscope.cn"


class _Lfs(Struct):
    sha256: str
    size: int


class _Sibling(Struct, rename="camel"):
    rfilename: str
    size: int | None = None
    blob_id: str | None = None
    lfs: _Lfs | None = None


class _HuggingFaceAnswer(Struct):
    sha: str
    siblings: list[_Sibling]


class _ScopeFile(Struct, rename="pascal"):
    path: str
    type: str = "blob"
    size: int = 0
    sha256: str = ""


class _ScopeFiles(Struct, rename="pascal"):
    files: list[_ScopeFile] | None = None


class _ScopeAnswer(Struct, rename="pascal"):
    success: bool = True
    message: str = ""
    data: _ScopeFiles | None = None


class Listing(Struct, frozen=True, kw_only=True):
    """What a hub has of a model, by file name: only files at the top, with a size and a digest. revision: a commit."""

    name: str
    revision: str
    files: dict[str, RemoteFile]


def download(name: str, *, hub: Hub, file: str, cache: Path, report: Report, suspect: bool = False) -> Path:
    """Fetch a model: config, tokenizer and safetensors, or one GGUF file. Returns its snapshot, or the GGUF file in it.

    name    "org/name", checked before;   file   a GGUF file to take, "" for what the repository has
    cache   the hub cache;   report   gets lines of progress
    suspect what is here already does not open: its digests are checked, not only its sizes
    Raises HubError; ConfigError for a model that is not understood, MemoryNeeded where the disk is too small. What was
    interrupted goes on at the next call.
    """
    web, listing = _HUBS[hub](name)
    folder = cache / f"models--{name.replace('/', '--')}"
    try:
        quiet = _Fetching(web, folder, report=silent, suspect=suspect)
        chosen = _choose(listing, file, quiet=quiet)
        _check_config(chosen, quiet=quiet, name=name)
        _check_disk(chosen, folder=folder, name=name)
        _Fetching(web, folder, report=report, suspect=suspect).all(chosen, name=name)
        snapshot = _link(chosen, folder, revision=listing.revision, suspect=suspect)
    except OSError as cause:
        raise HubError(f"{folder} cannot be written ({cause.strerror}): free some space or mend its permissions, "
                       f"or set HF_HUB_CACHE to another folder.") from cause  # fmt: skip
    ggufs = [each.name for each in chosen if each.name.endswith(".gguf")]
    return snapshot / ggufs[0] if ggufs else snapshot


def list_huggingface(name: str) -> tuple[Web, Listing]:
    """A model's newest revision on the Hugging Face hub, or on the mirror that HF_ENDPOINT names."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    base = constants.ENDPOINT
    check_url(base)
    web = Web(host=base.partition("://")[2], headers=build_hf_headers(library_name="octavo"))
    answer = _decoded(web, f"{base}/api/models/{name}/revision/main?blobs=true", _HuggingFaceAnswer)
    if not GIT_SHA1.fullmatch(answer.sha):
        raise HubError(f"{web.host} gives {name} the revision {answer.sha[:80]!r}, a commit was needed: try later.")
    files = [
        RemoteFile(
            name=each.rfilename, size_bytes=each.lfs.size if each.lfs else each.size or 0,
            url=f"{base}/{name}/resolve/{answer.sha}/{quote(each.rfilename)}",
            digest=each.lfs.sha256 if each.lfs else each.blob_id or "",
        ) for each in answer.siblings
    ]  # fmt: skip
    return web, Listing(name=name, revision=answer.sha, files=_safe(files))


def list_modelscope(name: str) -> tuple[Web, Listing]:
    """A model's newest files on ModelScope, or on the host that MODELSCOPE_DOMAIN names.

    ModelScope lists no commit, so the revision is a digest of what it lists.
    """
    host = os.environ.get("MODELSCOPE_DOMAIN") or MODELSCOPE_HOST
    base = host.rstrip("/") if "://" in host else f"https://{host}"
    check_url(base)
    web = Web(host=base.partition("://")[2], headers={"User-Agent": "octavo"})
    api = f"{base}/api/v1/models/{name}/repo"
    answer = _decoded(web, f"{api}/files?{urlencode({'Revision': 'master', 'Recursive': 'true'})}", _ScopeAnswer)
    if not answer.success or answer.data is None or answer.data.files is None:
        raise HubError(f"{web.host} lists no files of {name} ({answer.message[:200]}): look the name up on its site.")
    files = [
        RemoteFile(
            name=each.path, size_bytes=each.size, digest=each.sha256,
            url=f"{api}?{urlencode({'Revision': 'master', 'FilePath': each.path})}",
        ) for each in answer.data.files if each.type != "tree"
    ]  # fmt: skip
    table = "\n".join(sorted(f"{each.name} {each.digest}" for each in files))
    revision = hashlib.sha256(table.encode("utf-8")).hexdigest()[:40]
    return web, Listing(name=name, revision=revision, files=_safe(files))


_HUBS: dict[Hub, Callable[[str], tuple[Web, Listing]]] = {
    "huggingface": list_huggingface,
    "modelscope": list_modelscope,
}


def _decoded(web: Web, url: str, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(web.read(url), type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as cause:
        raise HubError(f"{web.host} answers {url} with something else than a list of files ({cause}).") from cause


def _safe(files: Iterable[RemoteFile]) -> dict[str, RemoteFile]:
    """Files whose name stays in its folder and whose bytes can be checked; the rest is never asked for."""
    return {
        each.name: each
        for each in files
        if PLAIN_NAME.fullmatch(each.name)
        and each.size_bytes >= 0
        and (SHA256.fullmatch(each.digest) or GIT_SHA1.fullmatch(each.digest))
    }


def _choose(listing: Listing, file: str, *, quiet: _Fetching) -> list[RemoteFile]:
    """The files to take. Raises HubError where there is nothing that Octavo reads, or too much of it."""
    files = listing.files
    parts = sorted(name for name in files if PART_OF_GGUF.fullmatch(name))
    ggufs = sorted(name for name in files if name.endswith(".gguf") and name not in parts)
    if file:
        if file in parts:
            raise _in_parts(listing.name, file)
        if file not in ggufs:
            raise HubError(f"{listing.name} has no file {file}. It has {', '.join(ggufs[:20]) or 'no GGUF file'}.")
        return [files[file]]
    weights = [SINGLE] if SINGLE in files else []
    if not weights and INDEX in files:
        weights = [INDEX, *_shards(listing, quiet=quiet)]
    lone = [name for name in files if name.endswith(".safetensors")]
    if not weights and len(lone) == 1:
        weights = lone
    if weights and "config.json" in files:
        tokenizer = [name for name in files if name in TOKENIZER or name.endswith(".tiktoken")]
        return [files[name] for name in (*(c for c in CONFIGS if c in files), *tokenizer, *weights)]
    if len(ggufs) == 1:
        return [files[ggufs[0]]]
    if ggufs:
        sizes = ", ".join(f"{name} ({gigabytes(files[name].size_bytes)})" for name in ggufs[:20])
        raise HubError(f"{listing.name} has {len(ggufs)} GGUF files: {sizes}. Name one: {listing.name}/{ggufs[0]}")
    if parts:
        raise _in_parts(listing.name, parts[0])
    raise HubError(f"{listing.name} has no config.json with safetensors and no GGUF file, which is what Octavo reads "
                   f"(never pickled weights). Choose another copy of the model.")  # fmt: skip


def _in_parts(name: str, file: str) -> HubError:
    return HubError(f"{name} has {file}, one of several parts of a model, which Octavo does not read: choose a file in "
                    f"one piece, or merge the parts with llama.cpp's gguf-split and give its path.")  # fmt: skip


def _shards(listing: Listing, *, quiet: _Fetching) -> list[str]:
    quiet.all([listing.files[INDEX]], name=listing.name)
    try:
        shards = sorted(set(shards_of_index(_blob(quiet.folder, listing.files[INDEX])).values()))
    except OctavoError as cause:
        raise HubError(f"{listing.name}: {cause}") from cause
    absent = [shard for shard in shards if shard not in listing.files]
    if absent:
        raise HubError(f"{listing.name} lacks {absent[0]}, which its index names: choose another copy of the model.")
    return shards


def _check_config(chosen: list[RemoteFile], *, quiet: _Fetching, name: str) -> None:
    """Read the config first: nobody waits for the weights of a model that cannot be used."""
    from octavo.models import read_config

    config = [each for each in chosen if each.name == "config.json"]
    if config:
        quiet.all(config, name=name)
        read_config(plain_config(read_json_object(_blob(quiet.folder, config[0]), error=HubError)))


def _check_disk(chosen: list[RemoteFile], *, folder: Path, name: str) -> None:
    needed = sum(each.size_bytes - _have(folder, each) for each in chosen)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise MemoryNeeded(f"{name} takes {gigabytes(needed)} more on the disk of {folder}, which has "
                           f"{gigabytes(free)} free. Free some (octavo models rm), or set HF_HUB_CACHE to a folder on "
                           f"another disk.")  # fmt: skip


class _Fetching:
    """Files into blobs, with one line of progress for all of them.   suspect: see `download`"""

    def __init__(self, web: Web, folder: Path, *, report: Report, suspect: bool) -> None:
        self.web, self.folder, self.report, self.suspect = web, folder, report, suspect
        self.name, self.here, self.size, self.came, self.begin, self.said = "", 0, 0, 0, 0.0, 0.0

    def all(self, files: list[RemoteFile], *, name: str) -> None:
        """Fetch what is not there yet, or damaged."""
        from huggingface_hub.utils import WeakFileLock

        locks = self.folder.parent / ".locks" / self.folder.name
        for place in (self.folder / "blobs", locks):
            place.mkdir(parents=True, exist_ok=True)
        if self.suspect:
            self.report(f"{name}: what is here does not open, so it is checked")
        for each in files:
            with WeakFileLock(locks / f"{each.digest}.lock"):  # one process at a time, as huggingface_hub has it
                self._drop_damaged(each)
        self.name, self.size = name, sum(each.size_bytes for each in files)
        self.here, self.begin = sum(_have(self.folder, each) for each in files), time.monotonic()
        if self.here < self.size:
            self.report(f"{name}: {gigabytes(self.size - self.here)} to download from {self.web.host}")
        for each in files:
            blob = _blob(self.folder, each)
            with WeakFileLock(locks / f"{each.digest}.lock"):
                if not blob.exists():
                    part = _part(self.folder, each)
                    self.web.fetch(each, part, moved=self._moved)
                    with part.open("r+b") as file:
                        os.fsync(file.fileno())  # before it gets the name of a whole one
                    part.replace(blob)

    def _drop_damaged(self, file: RemoteFile) -> None:
        blob = _blob(self.folder, file)
        if not blob.exists():
            return
        sound = blob.stat().st_size == file.size_bytes
        if not sound or (self.suspect and digest_of(blob, like=file.digest) != file.digest):
            blob.unlink()

    def _moved(self, count: int) -> None:
        self.here, self.came, now = self.here + count, self.came + max(0, count), time.monotonic()
        if now - self.said < REPORT_S and self.here < self.size:
            return
        self.said, speed = now, self.came / max(now - self.begin, 1e-3)
        self.report(f"{self.name}: {gigabytes(self.here)} of {gigabytes(self.size)} "
                    f"({self.here / max(1, self.size):.0%}), {speed / 1e6:.1f} MB/s, "
                    f"{(self.size - self.here) / max(speed, 1):.0f} s left")  # fmt: skip


def _link(files: list[RemoteFile], folder: Path, *, revision: str, suspect: bool) -> Path:
    """The snapshot: a folder of links to the blobs, made once all are there, and the ref that names it.

    suspect   copies, which a system without links has in their place, are made anew: they may be what does not open
    """
    snapshot = folder / "snapshots" / revision
    for place in (snapshot, folder / "refs"):
        place.mkdir(parents=True, exist_ok=True)
    for each in files:
        link, target = snapshot / each.name, Path("..", "..", "blobs", each.digest)
        if link.is_symlink() or (not suspect and link.exists() and link.stat().st_size == each.size_bytes):
            continue
        if link.exists():
            link.unlink(missing_ok=True)  # a copy that was cut, or is suspect
        try:
            link.symlink_to(target)
        except (OSError, NotImplementedError):  # a system without links: the file itself, as huggingface_hub does
            if not link.exists():  # else another process was faster
                shutil.copyfile(snapshot / target, link)
    ref = folder / "refs" / f".main.{os.getpid()}"
    ref.write_text(revision, encoding="utf-8")
    ref.replace(folder / "refs" / "main")
    return snapshot


def _blob(folder: Path, file: RemoteFile) -> Path:
    return folder / "blobs" / file.digest


def _part(folder: Path, file: RemoteFile) -> Path:
    return folder / "blobs" / f"{file.digest}.incomplete"


def _have(folder: Path, file: RemoteFile) -> int:
    """Bytes of a file that are here already."""
    blob, part = _blob(folder, file), _part(folder, file)
    if blob.exists() and blob.stat().st_size == file.size_bytes:
        return file.size_bytes
    return min(part.stat().st_size, file.size_bytes) if part.exists() else 0
