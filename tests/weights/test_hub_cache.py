"""The hub cache and what comes with the install: listed, the default chosen, removed, found by name."""

import errno
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from octavo.core.errors import CheckpointError, HubError, KernelError
from octavo.weights import default_model, find_model, hub, list_models, open_checkpoint, remove_model
from octavo.weights.memory import KERNELS_BYTES, TORCH_BYTES, packed_needs
from tests.weights.hub_server import COMMIT, NAME, WANTED, HubServer, put


def test_only_usable_models_are_listed_and_the_best_is_the_default(cache: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(HubError, match="octavo models pull"):
        default_model()
    small, large = put(cache, "Qwen/Qwen3-S", layers=2), put(cache, "Qwen/Qwen3-L", layers=5)
    put(cache, "Qwen/Qwen3-XL-Base", layers=9)
    cut = put(cache, "acme/Cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-10])
    (put(cache, "acme/Alien") / "config.json").write_text('{"model_type": "mamba"}')
    (put(cache, "acme/Mute") / "tokenizer.json").unlink()
    save_file({"x": torch.zeros(1)}, put(cache, "acme/Two") / "second.safetensors")
    assert [model.name for model in list_models()] == ["Qwen/Qwen3-L", "Qwen/Qwen3-S", "Qwen/Qwen3-XL-Base", "acme/Two"]
    assert default_model() == large
    with pytest.raises(HubError, match="not whole"):
        find_model("acme/Cut", offline=True)
    size = open_checkpoint(large).size_bytes

    def tight(checkpoint, *, recipe):
        found = packed_needs(checkpoint, recipe=recipe)
        left = found.needed_bytes - (checkpoint.size_bytes >= size)
        return msgspec.structs.replace(found, available_bytes=left)

    remove_model("acme/Two")
    monkeypatch.setattr(hub, "packed_needs", tight)
    assert default_model() == small


def test_what_another_user_keeps_to_himself_is_passed_over(cache: Path, monkeypatch: pytest.MonkeyPatch):
    mine, secret, iterdir = put(cache, "Qwen/Qwen3-S"), put(cache, "acme/Secret"), Path.iterdir

    def refused(path: Path) -> Iterator[Path]:
        if path == secret:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    assert [model.path for model in list_models()] == [mine] == [default_model()]
    with pytest.raises(HubError, match=r"acme/Secret cannot be read .*Permission denied.*: mend its permissions"):
        find_model("acme/Secret")


def test_without_our_kernels_the_default_is_what_fits_with_torch(cache: Path, monkeypatch: pytest.MonkeyPatch):
    def broken() -> None:
        raise KernelError("there is no compiler")

    path = put(cache, "Qwen/Qwen3-S")
    monkeypatch.setenv("OCTAVO_MEMORY_BYTES", str((KERNELS_BYTES + TORCH_BYTES) // 2))
    assert default_model() == path
    monkeypatch.setattr("octavo.nn.kernels.open_library", broken)
    with pytest.raises(HubError, match="no model on this machine that fits"):
        default_model()
    monkeypatch.setenv("OCTAVO_MEMORY_BYTES", str(2 * TORCH_BYTES))
    assert default_model() == path


def test_a_model_behind_a_link_is_not_removed_and_the_reason_is_said(cache: Path, tmp_path: Path):
    put(cache, NAME)
    (cache / "models--acme--Tiny-1").rename(tmp_path / "elsewhere")
    (cache / "models--acme--Tiny-1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HubError, match=r"symbolic link\): remove it by hand"):
        remove_model(NAME)
    assert find_model(NAME, offline=True).is_dir()


def test_removing_frees_what_it_says(cache: Path, server: HubServer):
    path = find_model(NAME)
    freed = remove_model(NAME)
    wanted = sum(len(server.repos[NAME][name]) for name in WANTED) + len(COMMIT)
    assert freed == wanted and not path.exists() and not list(cache.rglob("*Tiny*"))
    with pytest.raises(HubError, match="not in the hub cache"):
        remove_model(NAME)


def test_models_made_by_us_are_found_by_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = tmp_path / "shipped" / "octavo-mini"
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    monkeypatch.setattr("octavo.weights.hub.SHIPPED", tmp_path / "shipped")
    assert find_model("octavo-mini", offline=True) == made
    with pytest.raises(HubError, match=r"neither a path .* octavo-mini, or org/name .* Did you mean octavo-mini\?"):
        find_model("octavo-mni", offline=True)
    with pytest.raises(HubError, match=r"octavo-mini, or org/name such as Qwen/Qwen3-0\.6B\.$"):
        find_model("llama", offline=True)


def test_a_path_is_itself_and_the_packaged_model_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert find_model(tmp_path) == tmp_path
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    packaged = default_model()
    assert packaged.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert [find_model(model.name, offline=True) for model in list_models()] == [
        packaged,
        *sorted(hub.SHIPPED.iterdir()),
    ]
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)
