"""The doctor's report: one line each, ok or warn, and what to do where something is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from octavo.cli.doctor import CHECKS, Finding, cpu_features, existing
from octavo.cli.models import table
from octavo.nn.kernels import cpu_flags, open_library
from tests.cli.terminal import ROOT


def test_the_report_has_a_line_for_each_thing_and_says_what_to_do(tmp_path: Path):
    code = "from octavo.cli.main import run; run()"
    done = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    names = {line[5:17].strip() for line in lines}
    assert names >= {"Python", "torch", "CPU", "threads", "kernels", "GPU", "memory", "disk", "hub cache", "models",
                     "octavo chat", "terminal"}  # fmt: skip
    assert all(line.startswith(("ok   ", "warn ")) for line in lines)
    assert all(": " in line for line in lines if line.startswith("warn"))
    assert f"kernels     {open_library().tier}" in done.stdout


def test_nothing_in_the_cache_is_a_warning_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from octavo.weights import hub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none/hub"))
    monkeypatch.setattr(hub, "PACKAGED", "no_such_package_at_all")
    models = next(check for check in CHECKS if check.__name__ == "models")
    lines = [finding.line for finding in models()]  # those that Octavo made are there, and not what a chat begins with
    assert [line[:4] for line in lines] == ["ok  ", "ok  ", "warn"] and "octavo-mini" in lines[1] and "pull" in lines[2]
    monkeypatch.setattr(hub, "SHIPPED", tmp_path / "shipped")
    lines = [finding.line for finding in models()]
    assert [line[:4] for line in lines] == ["ok  ", "warn", "warn"] and "octavo models pull" in lines[1]


def test_a_line_says_ok_or_warn():
    assert Finding(name="disk", found="9 GB").line == "ok   disk        9 GB"
    assert Finding(name="disk", found="1\nGB\x1b[0m", todo="make room.").line == "warn disk        1 GB␛[0m: make room."


def test_cpu_flags_are_read_from_x86_and_arm(tmp_path: Path):
    (tmp_path / "x86").write_text("processor : 0\nflags\t\t: fpu avx2 avx512f amx_bf16\n")
    (tmp_path / "arm").write_text("Features\t: fp asimd sve\n")
    assert cpu_features(cpu_flags(tmp_path / "x86")) == ["AMX-BF16", "AVX512", "AVX2"]
    assert cpu_features(cpu_flags(tmp_path / "arm")) == ["NEON", "SVE"]
    assert cpu_flags(tmp_path / "none") == frozenset()


def test_the_nearest_folder_that_exists(tmp_path: Path):
    assert existing(tmp_path / "a/b/c") == tmp_path == existing(tmp_path)


def test_tables_line_up():
    assert table([("a", "bbb", "c"), ("aa", "b", "cc")]) == ["a   bbb  c", "aa  b    cc"]
    assert table([]) == []
