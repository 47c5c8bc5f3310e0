"""The way to the first token needs no torch: it takes longer to import than a small model takes to answer."""

import subprocess
import sys
from pathlib import Path

import pytest

from octavo.chat.loading import has_nvidia
from octavo.weights.hub import packaged_model
from tests.test_laws import ROOT
from tests.weights.gguf_files import write_gguf, write_tokenizer
from tests.weights.test_load import good

READ = """
import sys
from pathlib import Path
from octavo.cli import exchange, main, run
from octavo.chat.loading import Opening, has_nvidia, open_text
from octavo.chat.local import LocalChat
from octavo.engine.engine import Engine
from octavo.models import read_config
from octavo.models.parameters import parameter_shapes
from octavo.weights import check_memory, default_model, find_model, needs, open_checkpoint
from octavo.weights.load import plan_load

checkpoint = open_checkpoint(find_model(sys.argv[1], offline=True))
config = read_config(checkpoint.config)
needs(checkpoint), config.rope.frequencies()
for name, wanted in plan_load(checkpoint, parameter_shapes(config)).items():
    for source in [part.source for part in wanted.parts] or [name]:
        checkpoint.raw(source).sum(), checkpoint.array(source).shape, checkpoint.dtype_name(source)
if "--text" in sys.argv:
    tokenizer, form = open_text(checkpoint)
    tokenizer.encode("Hello"), form.markers(tokenizer)
"""


def modules(code: str, *arguments: str) -> set[str]:
    """What a fresh process has imported once it has run `code`."""
    watched = code + "\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", watched, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


def with_tokenizer(folder: Path) -> Path:
    path = good(folder)
    write_tokenizer(path)
    return path


@pytest.mark.parametrize("kind", ["folder", "packaged GGUF", "GGUF of experts"])
def test_a_checkpoint_is_read_without_torch(kind: str, tmp_path: Path):
    if kind == "folder":
        arguments = [str(with_tokenizer(tmp_path / "m")), "--text"]
    elif kind == "packaged GGUF":
        arguments = [str(packaged_model()), "--text"]
    else:
        write_gguf(tmp_path / "tiny.gguf", "qwen3moe", kind="Q8_0")
        arguments = [str(tmp_path / "tiny.gguf")]
    found = modules(READ, *arguments)
    assert "octavo.engine.engine" in found and "octavo.weights.checkpoint" in found
    assert not found & {"torch", "transformers", "llguidance", "rich", "prompt_toolkit", "httpx", "markdown_it"}


def test_what_computes_with_torch_is_seen():
    assert "torch" in modules("import sys, octavo.nn.layers")


def test_a_driver_is_looked_for_without_torch(tmp_path: Path):
    assert not has_nvidia(root=tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert has_nvidia(root=tmp_path)
