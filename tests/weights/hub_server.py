"""A hub on this machine: a real HTTP server that speaks as much of the two hubs' interfaces as a download needs."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import torch

from octavo.models import build
from octavo.weights import save_checkpoint

COMMIT = "c0ffee" + "0" * 34
HF = re.compile(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)")

NAME = "acme/Tiny-1"
WANTED = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}  # of what `files_of` gives
CONFIG = {
    "model_type": "qwen3", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip


def files_of(folder: Path, *, layers: int = 2, shard_bytes: int = 1 << 40) -> dict[str, bytes]:
    config = CONFIG | {"num_hidden_layers": layers}
    torch.manual_seed(0)
    save_checkpoint(folder, model=build(config), config=config, shard_bytes=shard_bytes)
    extra = {"tokenizer.json": b'{"model": {}}', "tokenizer_config.json": b"{}", "README.md": b"# Tiny",
             "pytorch_model.bin": b"\x80\x04 a pickle", "onnx/model.onnx": b"o", "../escape.json": b"{}",
             "original/model.safetensors": b"s"}  # fmt: skip
    return {path.name: path.read_bytes() for path in folder.iterdir()} | extra


def put(cache: Path, name: str, *, layers: int = 2) -> Path:
    """A usable model straight into the cache."""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    config = CONFIG | {"num_hidden_layers": layers}
    save_checkpoint(snapshot, model=build(config), config=config)
    (snapshot / "tokenizer.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return snapshot


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class HubServer:
    """repos: name -> file -> bytes. What goes wrong is asked for by file name, and counted down."""

    repos: dict[str, dict[str, bytes]]
    cut_after: dict[str, int] = field(default_factory=dict)  # file -> bytes after which the connection breaks
    cuts: int = 0  # how many times it still breaks
    stall: bool = False  # instead of breaking, send nothing more and keep the connection open
    ranges: bool = True
    lies: dict[str, bytes] = field(default_factory=dict)  # file -> what is sent in its place
    redirect: str = ""  # where files are sent from, "" for here
    status: int = 200
    asked: list[tuple[str, int, str]] = field(default_factory=list)  # path, first byte, authorisation
    url: str = ""

    def hub_listing(self, name: str) -> dict[str, Any]:
        siblings = []
        for file, data in self.repos[name].items():
            one: dict[str, Any] = {"rfilename": file, "size": len(data), "blobId": git_id(data)}
            if file.endswith((".safetensors", ".gguf", "tokenizer.json")):
                one["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(one)
        return {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": [], "downloads": 0}

    def scope_listing(self, name: str) -> dict[str, Any]:
        files = [
            {"Path": file, "Name": file, "Type": "blob", "Size": len(data),
             "Sha256": hashlib.sha256(data).hexdigest(), "IsLFS": False}
            for file, data in self.repos[name].items()
        ]  # fmt: skip
        return {"Code": 200, "Success": True, "Message": "", "Data": {"Files": [*files, {"Path": "x", "Type": "tree"}]}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        del format, args

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        split, hub = urlsplit(self.path), self.hub
        path, query = unquote(split.path), parse_qs(split.query)
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if body:
            hub.asked.append((self.path, start, self.headers.get("Authorization") or ""))
        if hub.status != 200:
            return self.send(b"{}", status=hub.status, body=body)
        parts = path.split("/")
        if path.startswith("/api/models/") and len(parts) >= 5:
            name = "/".join(parts[3:5])
            return self.send_json(hub.hub_listing(name) if name in hub.repos else None, body=body)
        if path.startswith("/api/v1/models/"):
            name = "/".join(parts[4:6])
            if path.endswith("/repo/files"):
                return self.send_json(hub.scope_listing(name) if name in hub.repos else None, body=body)
            return self.send_file(name, query["FilePath"][0], start=start, body=body)
        match = HF.fullmatch(path)
        if match:
            return self.send_file(match[1], match[2], start=start, body=body)
        return self.send(b"", status=404, body=body)

    def send_json(self, value: Any, *, body: bool) -> None:
        self.send(json.dumps(value).encode(), status=200 if value is not None else 404, body=body)

    def send(self, data: bytes, *, status: int, body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def send_file(self, name: str, file: str, *, start: int, body: bool) -> None:
        hub = self.hub
        data = hub.repos.get(name, {}).get(file)
        if data is None:
            return self.send(b"", status=404, body=body)
        if hub.redirect:
            self.send_response(302)
            self.send_header("Location", hub.redirect + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        lfs = file.endswith((".safetensors", ".gguf", "tokenizer.json"))
        etag = hashlib.sha256(data).hexdigest() if lfs else git_id(data)
        data = hub.lies.get(file, data)
        partial = hub.ranges and start > 0
        rest = data[start:] if partial else data
        self.send_response(206 if partial else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return None
        if file in hub.cut_after and hub.cuts > 0:
            hub.cuts -= 1
            self.wfile.write(rest[: hub.cut_after[file]])
            self.wfile.flush()
            if hub.stall:
                time.sleep(60)
            self.close_connection = True
            return self.connection.close()
        self.wfile.write(rest)
        return None


@contextmanager
def serving(hub: HubServer) -> Iterator[HubServer]:
    """Run the hub until the block ends; `hub.url` is its address."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
