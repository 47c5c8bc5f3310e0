"""`octavo bench`: the bars are shares of the limit, and a short run with the small model prints the whole table."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.cli import rivals
from octavo.cli.bench import QUICK, WIDTH, Row, bar, plot
from octavo.models import skeleton
from octavo.models.cost import cost
from octavo.weights.hub import packaged_model
from tests.cli.terminal import ROOT


@given(share=st.floats(0.001, 3))
def test_a_bar_is_as_long_as_its_share_and_never_longer_than_full(share: float):
    shown = bar(Row(title="", rate=100 * share, limit=100))[:WIDTH]
    assert abs(shown.count("█") - min(share, 1) * WIDTH) <= 1
    assert len(shown) == WIDTH and f"{share:.0%} of 100" in bar(Row(title="", rate=100 * share, limit=100))


def test_rows_line_up_and_a_rate_without_a_limit_has_no_bar():
    lines = plot([Row(title="a", rate=1), Row(title="long", rate=1234.56, limit=2469.12)])
    assert lines[0] == "a           1.0" and lines[1].startswith("long    1,234.6  ████████████·")
    assert lines[1].endswith("50% of 2,469") and plot([]) == []


def test_rates_come_from_the_steps_after_the_first():
    seen: list[list[int]] = []

    def step(tokens):
        seen.append(list(tokens))
        return len(seen)

    found = rivals.timed(step, [7, 8, 9], steps=2)
    assert seen == [[7, 8, 9], [1], [2], [3]] and found.prefill > 0 and found.decode > 0


def test_what_is_not_installed_comes_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rivals, "find_spec", lambda name: None)
    assert rivals.installed(Path("m.gguf")) == {}
    assert [line.split()[0] for line in rivals.missing()] == ["llama_cpp", "transformers"]
    assert all("pip install" in line for line in rivals.missing())


def test_the_cost_of_a_token_counts_every_matrix_once():
    dense = {"model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8,
             "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 100, "max_position_embeddings": 64,
             "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "hidden_act": "silu"}  # fmt: skip
    model = skeleton(dense)
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.dim() > 1}
    head, embedding = matrices.pop("lm_head.weight"), matrices.pop("model.embed_tokens.weight")
    found = cost(model.config)
    assert found.linears == sum(matrices.values()) and found.head == head == embedding
    assert found.cache == 3 * 2 * 2 * 8
    assert found.step_bytes(weight_bytes=2, number_bytes=1, batch=4, context=10) == 2 * sum(found[:2]) + 40 * found[2]


def test_a_short_run_prints_every_figure(tmp_path: Path):
    small = packaged_model()
    assert small is not None
    code = "from octavo.cli.main import run; run()"
    done = subprocess.run([sys.executable, "-c", code, "bench", str(small), "--quick", "--offline", "--no-rivals"],
                          capture_output=True, text=True, cwd=ROOT, timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stderr
    for task in QUICK:
        line = next(line for line in done.stdout.splitlines() if line.startswith(task.title))
        assert "% of" in line and float(line[len(task.title) :].split()[0].replace(",", "")) > 0
