"""`octavo models show`: what a model is, and what it needs as it is opened here."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from octavo.chat.loading import choose_backend
from octavo.cli.models import show
from octavo.models import build
from octavo.models.decoder import count_parameters
from octavo.weights import needs, open_checkpoint, save_checkpoint
from octavo.weights.quantise import Recipe, quantise
from octavo.weights.save_quantised import save_quantised
from tests.weights.hub_server import CONFIG


class NoTokenizer:
    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """So much memory is free, whatever other programs do."""
    monkeypatch.setenv("OCTAVO_MEMORY_BYTES", "900000000")


def test_a_copy_of_the_embedding_is_not_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = build(CONFIG)
    save_checkpoint(tmp_path / "m", model=model, config=CONFIG)
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file)
    show(str(tmp_path / "m"))
    assert f"parameters  {count_parameters(model):,}\n" in capsys.readouterr().out


def test_small_weights_need_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = CONFIG | {"vocab_size": 60_000}
    save_checkpoint(tmp_path / "m", model=build(config), config=config, dtype=torch.bfloat16)
    found = quantise(build(config).float(), Recipe(format="w8", method="rtn"))
    save_quantised(tmp_path / "q", found, checkpoint=open_checkpoint(tmp_path / "m"), tokenizer=NoTokenizer())
    show(str(tmp_path / "q"))
    checkpoint, shown = open_checkpoint(tmp_path / "q"), capsys.readouterr().out
    assert choose_backend(checkpoint).needed.line in shown and needs(checkpoint).line not in shown
