"""Finding, downloading, listing and removing models, against a real server on this machine."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from octavo.cli.models import pull
from octavo.core.errors import CheckpointError, ConfigError, HubError, MemoryNeeded
from octavo.weights import (
    download,
    find_model,
    list_models,
    open_checkpoint,
    remove_model,
    transfer,
)
from tests.weights.gguf_files import write_gguf
from tests.weights.hub_server import COMMIT, NAME, WANTED, HubServer, files_of, serving


@pytest.mark.parametrize("where", ["huggingface", "modelscope"])
def test_a_model_is_fetched_once_and_found_by_everyone(cache: Path, server: HubServer, where: download.Hub):
    lines: list[str] = []
    path = find_model(NAME, hub=where, report=lines.append)
    assert {file.name for file in path.iterdir()} == WANTED  # no pickle, no folders, nothing outside
    assert all((path / name).read_bytes() == server.repos[NAME][name] for name in WANTED)
    assert open_checkpoint(path).name == NAME
    assert "to download" in lines[0] and "100%" in lines[-2] and str(path) in lines[-1]
    assert not any("pytorch_model" in url or "escape" in url or "onnx" in url for url, _, _ in server.asked)

    asked = len(server.asked)
    assert find_model(NAME) == path == find_model(NAME, offline=True) and len(server.asked) == asked
    official = huggingface_hub.snapshot_download(NAME, cache_dir=cache, local_files_only=True)
    assert Path(official) == path
    (repo,) = huggingface_hub.scan_cache_dir(cache).repos
    assert repo.repo_id == NAME and repo.size_on_disk == sum(len(server.repos[NAME][name]) for name in WANTED)
    assert [(m.name, m.path, m.model_type) for m in list_models()] == [(NAME, path, "qwen3")]


def test_what_huggingface_hub_fetched_is_found(cache: Path, server: HubServer):
    code = f"from huggingface_hub import hf_hub_download as d; [d({NAME!r}, f) for f in {sorted(WANTED)!r}]"
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    path = find_model(NAME, offline=True)
    assert path.name == COMMIT and open_checkpoint(path).config["num_hidden_layers"] == 4


@pytest.mark.parametrize("where", ["huggingface", "modelscope"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_goes_on_where_it_was(cache: Path, server: HubServer, where: download.Hub, ranges: bool):
    server.cut_after, server.cuts, server.ranges = {"model.safetensors": 50_000}, 3, ranges
    path = find_model(NAME, hub=where)
    assert (path / "model.safetensors").read_bytes() == server.repos[NAME]["model.safetensors"]
    starts = [start for url, start, _ in server.asked if "model.safetensors" in url]
    assert starts == [0, 50_000, 100_000, 150_000] if ranges else len(starts) == 4
    assert not list(cache.rglob("*.incomplete"))


def test_a_killed_download_goes_on_in_the_next_process(cache: Path, server: HubServer, tmp_path: Path):
    server.cut_after, server.cuts, server.stall = {"model.safetensors": 70_000}, 1, True
    code = f"from octavo.weights import find_model; find_model({NAME!r})"
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    begin = time.monotonic()
    digest = hashlib.sha256(server.repos[NAME]["model.safetensors"]).hexdigest()
    part = cache / "models--acme--Tiny-1" / "blobs" / f"{digest}.incomplete"
    while not part.exists() or part.stat().st_size < 70_000:
        assert time.monotonic() - begin < 60 and process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(HubError, match="not in the hub cache"):
        find_model(NAME, offline=True)  # half a download is no model
    assert list_models() == []
    path = find_model(NAME)
    assert [start for url, start, _ in server.asked if "model.safetensors" in url] == [0, 70_000]
    assert (path / "model.safetensors").read_bytes() == server.repos[NAME]["model.safetensors"]


def test_a_server_that_keeps_breaking_off_is_given_up_and_nothing_is_lost(cache: Path, server: HubServer):
    server.cut_after, server.cuts = {"model.safetensors": 0}, 99
    with pytest.raises(HubError, match="try again: what has come is kept"):
        find_model(NAME)
    assert 99 - server.cuts == transfer.ATTEMPTS
    server.cuts = 0
    assert find_model(NAME).is_dir()


def test_wrong_or_too_many_bytes_are_refused(cache: Path, server: HubServer):
    true = server.repos[NAME]["model.safetensors"]
    for lie in (true[:-1] + bytes([true[-1] ^ 1]), true + b"more"):
        server.lies = {"model.safetensors": lie}
        with pytest.raises(HubError, match=r"digest|more of"):
            find_model(NAME)
        assert not (cache / "models--acme--Tiny-1" / "snapshots").exists()
    server.lies = {}
    assert (find_model(NAME) / "model.safetensors").read_bytes() == true


def test_the_token_stays_with_the_hub_and_plain_http_is_refused(cache: Path, server: HubServer, tmp_path: Path):
    with serving(HubServer(server.repos)) as other:
        server.redirect = other.url
        find_model(NAME)
        assert {auth for _, _, auth in server.asked} == {"Bearer hf_secret"}
        assert {auth for _, _, auth in other.asked} == {""}
    shutil.rmtree(cache)
    server.redirect = "http://example.invalid"
    with pytest.raises(HubError, match=r"http://example.invalid.* is not https"):
        find_model(NAME)


def damaged(true: bytes) -> Iterator[bytes]:
    """A file that was cut, that lost what was written last, and whose beginning was never written."""
    yield true[:-10]
    yield b""
    yield bytes(4096) + true[4096:]


def test_a_damaged_blob_is_fetched_again_and_the_others_stay(cache: Path, server: HubServer):
    path = find_model(NAME) / "model.safetensors"
    true, files = path.read_bytes(), ["model.safetensors"]
    for damage in damaged(true):
        path.resolve().write_bytes(damage)
        server.asked.clear()
        with pytest.raises(HubError, match="not whole"):
            find_model(NAME, offline=True)
        assert find_model(NAME) == path.parent and path.read_bytes() == true
        assert [url.rpartition("/")[2] for url, _, _ in server.asked if "/resolve/" in url] == files


def test_a_damaged_gguf_file_that_is_named_is_fetched_again(cache: Path, server: HubServer, tmp_path: Path):
    write_gguf(tmp_path / "made.gguf", architecture="qwen3", tied=True)
    true = (tmp_path / "made.gguf").read_bytes()
    server.repos["acme/Two-GGUF"] = {"a.gguf": true, "b.gguf": true}
    path = find_model("acme/Two-GGUF/a.gguf")
    for damage in damaged(true):
        path.resolve().write_bytes(damage)
        assert find_model("acme/Two-GGUF/a.gguf") == path and path.read_bytes() == true


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_pulling_again_mends_a_damaged_tokenizer(cache: Path, server: HubServer, name: str):
    path = find_model(NAME) / name
    true = path.read_bytes()
    for damage in (true[:-1], b"", bytes(len(true)), None):
        path.resolve().unlink()
        if damage is not None:
            path.resolve().write_bytes(damage)
        with pytest.raises(HubError, match="not whole"):
            find_model(NAME, offline=True, whole=True)
        pull(NAME)
        assert path.read_bytes() == true


def test_a_damaged_copy_is_made_anew_where_the_system_has_no_links(cache: Path, server: HubServer,
                                                                   monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    def refused(place: Path, target: Path) -> None:
        raise OSError(f"no link to {target} at {place}")

    monkeypatch.setattr(Path, "symlink_to", refused)
    path = find_model(NAME) / "model.safetensors"
    true = path.read_bytes()
    for damage in damaged(true):
        path.write_bytes(damage)
        assert find_model(NAME) == path.parent and path.read_bytes() == true


def test_what_octavo_quantised_is_fetched_as_any_other_model(cache: Path, server: HubServer):
    config = json.loads(server.repos[NAME]["config.json"])
    how = {"quant_method": "octavo", "rotation": "hadamard-hartley", "format": "w4"}
    own, other = ({"quantization_config": how | change} for change in ({}, {"rotation": "of tomorrow"}))
    server.repos["acme/Own"] = server.repos[NAME] | {"config.json": json.dumps(config | own).encode()}
    assert find_model("acme/Own").is_dir()
    server.repos["acme/Other"] = server.repos[NAME] | {"config.json": json.dumps(config | other).encode()}
    with pytest.raises(ConfigError, match=r"the rotation 'of tomorrow'.* update Octavo"):
        find_model("acme/Other")


def test_a_link_that_another_process_makes_first_is_taken(cache: Path, server: HubServer,
                                                          monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    link = Path.symlink_to

    def second(place: Path, target: Path) -> None:
        link(place, target)
        link(place, target)

    monkeypatch.setattr(Path, "symlink_to", second)
    assert {file.name for file in find_model(NAME).iterdir()} == WANTED


@pytest.mark.parametrize("status, words", [(401, "permission"), (404, "look the name up"), (503, "status 503")])
def test_a_refusal_says_why(cache: Path, server: HubServer, status: int, words: str):
    server.status = status
    with pytest.raises(HubError, match=words):
        find_model(NAME)


def test_an_unreachable_hub_is_one_error(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="cannot be reached"):
        find_model(NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://example.invalid")
    with pytest.raises(HubError, match="is not https"):
        find_model(NAME)


@pytest.mark.parametrize("offline", ["argument", "variable"])
def test_offline_asks_nobody(cache: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch, offline: str):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline == "variable")
    with pytest.raises(HubError, match=r"not in the hub cache .* offline mode"):
        find_model(NAME, offline=offline == "argument")
    assert server.asked == []


@pytest.mark.parametrize(
    "source",
    [
        "Qwen",
        "a/b/c",
        "a/b/../c.gguf",
        "../x/y",
        "a--b/c",
        "a/..",
        "a/b.gguf",
        "",
        "a/b\n",
        "~nosuch/x",
        "a" * 300,
        "a\0b",
    ],
)
def test_what_is_no_name_is_refused_before_anything_is_asked(cache: Path, server: HubServer, source: str):
    if source:
        with pytest.raises(HubError, match="neither a path that exists nor a model's name"):
            find_model(source)
    with pytest.raises(HubError):
        remove_model(source)
    assert server.asked == []


def test_sharded_models_come_with_their_index(cache: Path, server: HubServer, tmp_path: Path):
    server.repos["acme/Shards"] = files_of(tmp_path / "shards", shard_bytes=60_000)
    path = find_model("acme/Shards")
    assert len(list(path.glob("model-*-of-*.safetensors"))) > 2 and len(open_checkpoint(path).names) == 24
    index = json.loads(server.repos["acme/Shards"]["model.safetensors.index.json"])
    index["weight_map"]["model.norm.weight"] = "../../escape.safetensors"
    server.repos["acme/Evil"] = server.repos["acme/Shards"] | {
        "model.safetensors.index.json": json.dumps(index).encode()
    }
    with pytest.raises(HubError, match="a safetensors file beside it was needed"):
        find_model("acme/Evil")


def test_one_gguf_is_taken_and_several_are_named(cache: Path, server: HubServer):
    gguf = b"GGUF" + bytes(100)
    server.repos["acme/One-GGUF"] = {"one.gguf": gguf, "README.md": b""}
    server.repos["acme/Two-GGUF"] = {"a.Q4_K_M.gguf": gguf, "a.Q8_0.gguf": gguf, "b-00001-of-00002.gguf": gguf}
    assert find_model("acme/One-GGUF").read_bytes() == gguf
    with pytest.raises(
        HubError, match=r"2 GGUF files: a.Q4_K_M.gguf \(0 MB\), .* Name one: acme/Two-GGUF/a.Q4_K_M.gguf"
    ):
        find_model("acme/Two-GGUF")
    with pytest.raises(CheckpointError, match="GGUF version 0"):
        pull("acme/One-GGUF")
    path = find_model("acme/Two-GGUF/a.Q8_0.gguf")
    assert path.name == "a.Q8_0.gguf" and len(list(path.parent.iterdir())) == 1
    with pytest.raises(HubError, match=r"has no file c.gguf"):
        find_model("acme/Two-GGUF/c.gguf")
    server.repos["acme/Parts-GGUF"] = {"b-00001-of-00002.gguf": gguf, "b-00002-of-00002.gguf": gguf}
    for name in ("acme/Parts-GGUF", "acme/Two-GGUF/b-00001-of-00002.gguf"):
        with pytest.raises(HubError, match=r"has b-00001-of-00002.gguf, one of several parts"):
            find_model(name)


def test_what_cannot_be_used_is_not_downloaded(cache: Path, server: HubServer):
    server.repos["acme/Pickled"] = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"}
    with pytest.raises(HubError, match="never pickled"):
        find_model("acme/Pickled")
    server.repos["acme/Alien"] = server.repos[NAME] | {"config.json": b'{"model_type": "mamba"}'}
    with pytest.raises(ConfigError, match="mamba"):
        find_model("acme/Alien")
    assert not any(url.endswith("model.safetensors") for url, _, _ in server.asked)


def test_a_full_disk_is_seen_before_the_download(cache: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch):
    free = shutil.disk_usage(cache.parent).free
    monkeypatch.setattr(download, "SPARE_BYTES", 2 * free)  # others may free some meanwhile
    with pytest.raises(MemoryNeeded, match=r"more on the disk of .* which has .* free"):
        find_model(NAME)
    assert not any(url.endswith("model.safetensors") for url, _, _ in server.asked)
