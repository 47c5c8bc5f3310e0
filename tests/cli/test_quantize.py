"""`octavo quantize`: a folder that runs, a table that says how far it is, and what is said to bad input."""

from pathlib import Path

import pytest
import torch

from octavo.models import build
from octavo.weights import save_checkpoint
from tests.chat.models import qwen_tokenizer
from tests.cli.test_pipe import OCTAVO, piped

CONFIG = {
    "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 32, "intermediate_size": 64, "head_dim": 16,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A small random Qwen3 with the real tokenizer, in bf16."""
    torch.manual_seed(0)
    folder = tmp_path / "tiny"
    save_checkpoint(folder, model=build(CONFIG), config=CONFIG, tokenizer=qwen_tokenizer(), dtype=torch.bfloat16)
    return folder


def test_a_model_is_quantised_measured_and_run(tiny: Path, tmp_path: Path):
    (tmp_path / "text.txt").write_text("".join(f"Line {i} says {i * i}.\n" for i in range(130)))
    out = tmp_path / "small"
    done = piped([*OCTAVO, "quantize", str(tiny), str(out), "--format", "w8", "--method", "gptq", "--report",
                  "--text", str(tmp_path / "text.txt")])  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, head, plain, ours = done.stdout.decode().splitlines()
    assert first == str(out) and "KL, nats per token" in head and plain.startswith("16 bits")
    name, kl, worst, perplexity, size = ours.rsplit(maxsplit=4)
    assert name == "w8 gptq" and 0 <= float(kl) <= float(worst) < 0.1 and float(perplexity) > 1
    assert int(size.replace(",", "")) < 0.6 * int(plain.split()[-1].replace(",", ""))
    assert abs(out.joinpath("model.safetensors").stat().st_size - int(size.replace(",", ""))) < 10_000  # the header
    done = piped([*OCTAVO, "run", str(out), "Hi", "--max-tokens", "3"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments, said", [
    (["{tiny}"], "nothing to do"), (["{tiny}", "{tiny}"], "exists already"),
    (["{tiny}", "{out}", "--text", "{out}/none"], "cannot be read"),
    (["{tiny}", "{out}", "--text", "{short}"], "tokens"),
    (["{tiny}", "{out}", "--format", "w3"], "w3"), (["{out}/none", "{out}"], "neither a path"),
])  # fmt: skip
def test_bad_input_gives_one_line_and_no_folder(arguments: list[str], said: str, tiny: Path, tmp_path: Path):
    (tmp_path / "short").write_text("A short text.")
    places = {"tiny": tiny, "out": tmp_path / "small", "short": tmp_path / "short"}
    done = piped([*OCTAVO, "quantize", *(each.format_map(places) for each in arguments)])
    assert done.returncode in (1, 2) and said in done.stderr.decode() and b"Traceback" not in done.stderr
    assert not (tmp_path / "small").exists()
