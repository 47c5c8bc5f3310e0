"""Each kernel equals its plain reference, on every instruction set that this machine has."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.core.errors import KernelError, MemoryNeeded
from octavo.nn.kernels import cpu_flags
from octavo.nn.kernels.build import TIERS
from octavo.nn.kernels.library import Library, open_library, pointer, reserved
from octavo.nn.packed import (
    GroupedWeight,
    PackedMatrix,
    pack_bf16,
    pack_grouped,
    pack_w4,
    pack_w8,
    rotated,
    rotation_of,
)
from octavo.nn.quant import Int8Weight, quantise_w4, quantise_w8

HERE = [name for name, tier in TIERS.items() if cpu_flags().issuperset(tier.needs)]
every_tier = pytest.mark.parametrize("tier", HERE)
few = settings(max_examples=25, deadline=None)


def to_bf16(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def int8_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    largest = np.abs(x).max(axis=1)
    inverse = np.where(largest > 0, np.float32(127) / np.where(largest > 0, largest, 1), 0).astype(np.float32)
    return np.rint(x * inverse[:, None]).astype(np.int64), (largest / np.float32(127)).astype(np.float32)


def random_matrix(kind: str, outputs: int, inputs: int, rng: np.random.Generator) -> tuple[PackedMatrix, np.ndarray]:
    """A packed matrix with a bias, and its whole weights: integers (int64) with their scales left out, or fp32."""
    bias = rng.standard_normal(outputs).astype(np.float32)
    scale = rng.uniform(0.001, 0.02, outputs).astype(np.float32)
    if kind == "bf16":
        bits = to_bf16(rng.standard_normal((outputs, inputs)))
        return pack_bf16(bits, bias_N=bias), from_bf16(bits)
    if kind == "w8":
        q = rng.integers(-128, 128, (outputs, inputs), dtype=np.int8)
        return pack_w8(q, scale, bias_N=bias), q.astype(np.int64)
    q = rng.integers(-8, 8, (outputs, inputs), dtype=np.int8)
    group = rng.integers(1, 16, (outputs, -(-inputs // 32)), dtype=np.uint8)
    whole = q.astype(np.int64) * np.repeat(group, 32, axis=1)[:, :inputs]
    return pack_w4(q, group, scale, bias_N=bias), whole


def reference(kind: str, packed: PackedMatrix, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    bias = packed.bias[: len(weight)]
    if kind == "bf16":
        return (from_bf16(to_bf16(x)).astype(np.float64) @ weight.T.astype(np.float64) + bias).astype(np.float32)
    q, scale = int8_rows(x)
    exact = (q @ weight.T).astype(np.float32)
    return exact * (scale[:, None] * packed.scale[: len(weight)]) + bias


@every_tier
@pytest.mark.parametrize("kind", ["bf16", "w8", "w4"])
@few
@given(rows=st.integers(1, 40), outputs=st.integers(1, 100), inputs=st.integers(1, 300), seed=st.integers(0, 99))
def test_a_linear_layer_equals_its_reference(tier: str, kind: str, rows: int, outputs: int, inputs: int, seed: int):
    rng = np.random.default_rng(seed)
    packed, weight = random_matrix(kind, outputs, inputs, rng)
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    found = open_library(tier).linear(packed, x)
    wanted = reference(kind, packed, weight, x)
    if kind == "bf16":
        np.testing.assert_allclose(found[:, :outputs], wanted, rtol=1e-4, atol=1e-4 * inputs**0.5)
    else:
        np.testing.assert_array_equal(found[:, :outputs], wanted)  # integers: to the bit
    assert not found[:, outputs:].any()


def random_grouped(kind: str, outputs: int, groups: int, rng: np.random.Generator) -> GroupedWeight:
    scale, minimum = (rng.uniform(-0.02, 0.02, (outputs, groups)).astype(np.float16) for _ in range(2))
    if kind == "g8":
        return GroupedWeight("g8", rng.integers(-128, 128, (outputs, 32 * groups), dtype=np.int8), scale)
    if kind == "g4":
        return GroupedWeight("g4", rng.integers(-8, 8, (outputs, 32 * groups), dtype=np.int8), scale)
    return GroupedWeight("g4m", rng.integers(0, 16, (outputs, 32 * groups), dtype=np.uint8), scale, minimum)


@every_tier
@pytest.mark.parametrize("kind", ["g8", "g4", "g4m"])
@few
@given(rows=st.integers(1, 13), outputs=st.integers(1, 70), groups=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_layer_of_gguf_blocks_equals_its_reference(tier: str, kind: str, rows: int, outputs: int, groups: int,
                                                     seed: int):  # fmt: skip
    rng = np.random.default_rng(seed)
    weight = random_grouped(kind, outputs, groups, rng)
    x = rng.standard_normal((rows, 32 * groups)).astype(np.float32)
    q, scale = int8_rows(x.reshape(-1, 32))
    wanted = (q * scale[:, None].astype(np.float64)).reshape(x.shape) @ weight.dense().T.astype(np.float64)
    found = open_library(tier).linear(pack_grouped(weight), x)
    np.testing.assert_allclose(found[:, :outputs], wanted, rtol=1e-4, atol=1e-4)


@every_tier
@pytest.mark.parametrize("kind", ["w8", "w4"])
@pytest.mark.parametrize("inputs", [16, 48, 64, 96, 320, 576, 1024])
def test_a_rotation_changes_nothing_but_the_rounding(tier: str, kind: str, inputs: int):
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((40, inputs)).astype(np.float32)
    turned = rotated(weight, rotation_of(inputs))
    np.testing.assert_allclose(rotated(turned, rotation_of(inputs)), weight, atol=1e-5)  # its own inverse
    x = rng.standard_normal((3, inputs)).astype(np.float32)
    np.testing.assert_allclose(turned @ rotated(x, rotation_of(inputs)).T, weight @ x.T, atol=1e-4 * inputs)
    x[:, 5] = 60  # an outlier, which takes most of an int8 where it is not spread
    rounded = {}
    for rotation in (0, rotation_of(inputs)):
        made = (quantise_w8 if kind == "w8" else quantise_w4)(rotated(weight, rotation))
        packed = pack_w8(made.q_NK, made.scale_N, rotation=rotation) if isinstance(made, Int8Weight) else \
            pack_w4(made.q_NK, made.group_NG, made.scale_N, rotation=rotation)  # fmt: skip
        rounded[rotation] = np.abs(open_library(tier).linear(packed, x)[:, :40] - x @ weight.T).mean()
    if kind == "w8" and inputs >= 64:
        assert rounded[rotation_of(inputs)] < 0.7 * rounded[0]


def test_without_the_systems_leave_for_tiles_the_next_best_kernels_run(monkeypatch: pytest.MonkeyPatch):
    def refused(tier: str) -> str:
        if tier == "amx":
            raise KernelError("no leave")
        return tier

    monkeypatch.setattr("octavo.nn.kernels.library.Library", refused)
    monkeypatch.setattr("octavo.nn.kernels.build.cpu_flags", lambda: frozenset(TIERS["amx"].needs))
    assert open_library.__wrapped__() == "avx512-bf16"


@every_tier
@pytest.mark.parametrize("kind", ["bf16", "w8", "w4", "g8", "g4", "g4m"])
def test_a_row_does_not_depend_on_its_neighbours(tier: str, kind: str):
    rng = np.random.default_rng(5)
    grouped = kind.startswith("g")
    packed = pack_grouped(random_grouped(kind, 96, 10, rng)) if grouped else random_matrix(kind, 96, 320, rng)[0]
    x, library = rng.standard_normal((37, 320)).astype(np.float32), open_library(tier)
    whole = library.linear(packed, x)
    for first, last in [(0, 1), (0, 2), (3, 7), (5, 18), (12, 37), (36, 37)]:
        np.testing.assert_array_equal(library.linear(packed, x[first:last]), whole[first:last])


@every_tier
def test_what_others_did_with_the_tiles_of_this_thread_does_not_matter(tier: str):
    rng = np.random.default_rng(6)
    packed, x, library = random_matrix("w8", 96, 320, rng)[0], rng.standard_normal((16, 320)), open_library(tier)
    before = library.linear(packed, x.astype(np.float32))
    theirs = torch.nn.Linear(256, 256, dtype=torch.bfloat16)  # on tiles too, which it gives up afterwards
    with torch.no_grad():
        theirs(torch.ones(256, 256, dtype=torch.bfloat16))
    np.testing.assert_array_equal(library.linear(packed, x.astype(np.float32)), before)


@every_tier
@pytest.mark.parametrize("kind", ["w8", "w4"])
def test_a_row_that_is_not_finite_says_so_and_spoils_no_other(tier: str, kind: str):
    rng = np.random.default_rng(6)
    packed, _ = random_matrix(kind, 32, 64, rng)
    x = rng.standard_normal((3, 64)).astype(np.float32)
    clean, library = open_library(tier).linear(packed, x), open_library(tier)
    for bad in (np.nan, np.inf, -np.inf):
        x[1, 7] = bad
        found = library.linear(packed, x)
        assert np.isnan(found[1]).all()
        np.testing.assert_array_equal(found[[0, 2]], clean[[0, 2]])


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, group: int, scale: float) -> np.ndarray:
    """In fp64."""
    tokens, out = len(k), np.empty(q.shape)
    for i, row in enumerate(q.astype(np.float64)):
        seen = tokens - len(q) // group + i // group + 1
        scores = k[:seen].astype(np.float64) @ row * scale
        weights = np.exp(scores - scores.max())
        out[i] = weights @ v[:seen] / weights.sum()
    return out


@every_tier
@pytest.mark.parametrize(("kind", "bound"), [("bf16", 0.02), ("int8", 0.04)])
@few
@given(
    tokens=st.integers(1, 200), new=st.integers(1, 9), group=st.integers(1, 8),
    width=st.sampled_from([16, 32, 64, 80, 128, 256]), seed=st.integers(0, 99),
)  # fmt: skip
def test_attention_equals_its_reference(tier: str, kind: str, bound: float, tokens: int, new: int, group: int,
                                        width: int, seed: int):  # fmt: skip
    rng, new = np.random.default_rng(seed), min(new, tokens)
    k, v = (rng.standard_normal((tokens, width)).astype(np.float32) for _ in range(2))
    q = rng.standard_normal((new * group, width)).astype(np.float32)
    scale = width**-0.5
    found = open_library(tier).attend(q, k, v, group=group, kind=kind, scale=scale)
    wanted = attention(q, k, v, group=group, scale=scale)
    assert np.abs(found - wanted).max() < bound * max(1.0, np.abs(wanted).max())


@every_tier
@pytest.mark.parametrize("kind", ["bf16", "int8"])
@few
@given(
    group=st.integers(1, 6), width=st.sampled_from([16, 32, 48, 64, 80, 128, 256]), tokens=st.integers(1, 150),
    spread=st.sampled_from([1.0, 8.0]), size=st.sampled_from([1.0, 1e-36]), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_query_does_not_depend_on_its_chunk(tier: str, kind: str, group: int, width: int, tokens: int, spread: float,
                                              size: float, seed: int):  # fmt: skip
    """Nor on whether tiles or vectors compute it. size: of values; times a weight, the small ones are subnormal."""
    rng = np.random.default_rng(seed)
    q, k, v = (np.float32(rng.standard_normal((rows, width)) * spread) for rows in (150 * group, 150, 150))
    v *= np.float32(size)
    library, scale = open_library(tier), width**-0.5
    whole = library.attend(q, k, v, group=group, kind=kind, scale=scale)
    here = slice((tokens - 1) * group, tokens * group)
    alone = library.attend(q[here], k[:tokens], v[:tokens], group=group, kind=kind, scale=scale)
    np.testing.assert_array_equal(alone, whole[here])


@pytest.mark.parametrize("large", [True, False])
def test_keys_and_values_may_lie_in_large_pages(large: bool):
    """Which shared memory seldom may: most systems allow it none."""
    path = Path("/proc/self/smaps")
    if not path.exists() or "VmFlags" not in path.read_text():
        pytest.skip("this system does not say how memory is mapped")
    store = reserved(4 << 20, large_pages=large)
    entries = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", path.read_text(), flags=re.MULTILINE)[1:]
    places = [tuple(int(end, 16) for end in entry.split(maxsplit=1)[0].split("-")) for entry in entries]
    here = next(e for e, (first, last) in zip(entries, places, strict=True) if first <= pointer(store) < last)
    flags = here.split("VmFlags:")[1].split()
    assert ("hg" in flags) == large and "sh" not in flags


def test_memory_that_cannot_be_reserved_is_said():
    with pytest.raises(MemoryNeeded, match=r"1,152,921,504,606,846,976 bytes .*ulimit.* OCTAVO_MEMORY_BYTES"):
        reserved(1 << 60, large_pages=False)


SANITIZERS = {
    "undefined": ("-fsanitize=undefined", "-fno-sanitize-recover=all", "-static-libubsan", "-O1"),
    "address": ("-fsanitize=address", "-O1"),
}


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_a_sanitizer_finds_nothing(sanitizer: str):
    """In a process of its own, which the address sanitizer must be the first library of."""
    found = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True)
    if found.returncode or "/" not in found.stdout:
        pytest.skip("gcc and its sanitizers are not installed")
    environment = os.environ | {"LD_PRELOAD": found.stdout.strip() if sanitizer == "address" else "",
                                "ASAN_OPTIONS": "detect_leaks=0"}  # fmt: skip
    code = f"from tests.nn.test_kernels import sanitized; sanitized({sanitizer!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=250)
    assert done.returncode == 0 and done.stdout.strip() == "clean", done.stderr[-3000:]


def sanitized(sanitizer: str) -> None:
    """Every kernel once, on libraries that watch themselves: that of tiles is also checked without them."""
    for tier in HERE[: 2 if HERE[0] == "amx" else 1]:
        every_kernel(Library(tier, extra_flags=SANITIZERS[sanitizer]))
    print("clean")


def every_kernel(library: Library) -> None:
    rng = np.random.default_rng(8)
    for kind in ("g8", "g4", "g4m"):
        library.linear(pack_grouped(random_grouped(kind, 70, 5, rng)), rng.standard_normal((9, 160)).astype(np.float32))
    for kind in ("bf16", "w8", "w4"):
        packed, _ = random_matrix(kind, 70, 130, rng)
        library.linear(packed, rng.standard_normal((29, 130)).astype(np.float32))
    k, v, q = (rng.standard_normal((70, 48)).astype(np.float32) for _ in range(3))
    for kind in ("bf16", "int8"):
        library.attend(q, k, v, group=1, kind=kind, scale=0.1)
    whole_steps(library)


def whole_steps(library: Library) -> None:
    """A prompt, a mixed batch and a copied page through a sparse and a dense decoder."""
    from octavo.engine.cpu_backend import CpuBackend
    from octavo.engine.types import Chunk, Copy, Plan
    from tests.engine.test_cpu_backend import packed

    for family in ("qwen3_moe", "qwen2"):
        for recipe, cache_kind in (("w4", "int8"), ("bf16", "bf16")):
            backend = CpuBackend(packed(family, recipe), cache_bytes=1 << 20, cache_kind=cache_kind, library=library)
            prompt = Chunk(tokens=tuple(range(40)), start=0, pages=(3, 1, 2), rows="all")
            backend.forward(Plan(chunks=(prompt,)))
            chunks = (
                Chunk(tokens=(5,), start=40, pages=(3, 1, 2)),
                Chunk(tokens=(7, 8), start=3, pages=(0,), rows="none"),
            )
            backend.forward(Plan(chunks=chunks, copies=(Copy(source=3, target=0, tokens=3),)))


def test_more_threads_than_a_byte_counts_come_to_an_end():
    """In a process of its own: one that hangs cannot be called off."""
    code = "from tests.nn.test_kernels import many_threads; many_threads()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip() == "the same", done.stderr[-3000:]


def many_threads() -> None:
    """300 threads, which spilt over when a byte counted them, and 256, which were none to it, equal one."""
    from octavo.engine.cpu_backend import CpuBackend
    from tests.engine.test_cpu_backend import packed, whole

    model, tokens = packed("qwen2"), tuple(range(20))
    one, *more = (whole(CpuBackend(model, cache_bytes=1 << 20, threads=n), tokens) for n in (1, 256, 300))
    assert all(np.array_equal(one, found) for found in more)
    print("the same")


def test_a_request_that_gives_nan_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch):
    """A hidden size between two multiples of the padding: what lies beside it is part of every sum."""
    from octavo.engine.cpu_backend import CpuBackend
    from tests.engine.test_cpu_backend import FAMILIES, packed, whole

    monkeypatch.setitem(FAMILIES, "odd", FAMILIES["qwen2"] | {"hidden_size": 80})
    model = packed("odd")
    model.arrays["embedding"][7] = to_bf16(np.array([np.nan]))
    backend = CpuBackend(model, cache_bytes=1 << 20)
    wanted = whole(backend, (1, 2, 3))
    assert np.isnan(whole(backend, (1, 7, 3))).any() and np.isfinite(wanted).all()
    np.testing.assert_array_equal(whole(backend, (1, 2, 3)), wanted)


def crew(one: float, two: np.ndarray, waited: np.ndarray, *, tokens: np.ndarray | None = None) -> np.ndarray:
    """Threads of each call, where a call takes `one` seconds with one thread and two[i] with two, or so many for each
    of its 32 tokens."""
    sizes = np.full(len(two), 32) if tokens is None else tokens
    times = np.stack([np.full_like(two, one), two], axis=1) * (sizes / 32)[:, None]
    return open_library().crew(sizes, times, waited)


def test_a_crew_stays_whole_while_nobody_takes_a_core():
    rng = np.random.default_rng(0)
    assert (crew(1.0, 0.55 + 0.1 * rng.random(2000), 0.25 * rng.random(2000)) == 2).all()


@pytest.mark.parametrize("changing", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_crew_gives_a_stolen_core_up_and_takes_it_back(changing: bool, seed: int):
    rng, calls = np.random.default_rng(seed), 4000
    stolen = (np.arange(calls) >= 500) & (np.arange(calls) < 2500)
    two = np.where(stolen, 1.5, 0.55) * (0.9 + 0.2 * rng.random(calls))
    tokens = np.where(rng.random(calls) < 0.1, rng.integers(100, 300, calls), rng.integers(24, 33, calls))
    sizes = crew(1.0, two, np.where(stolen, 0.6, 0.05), tokens=tokens if changing else None)
    taken = np.where(sizes == 2, two, 1.0)
    assert (sizes[:500] == 2).all()
    assert 2000 / taken[500:2500].sum() >= 0.93  # of what one clean core does
    assert (sizes[3000:] == 2).all()


def test_a_crew_that_would_be_slower_with_one_less_stays_whole():
    two = np.full(4000, 0.8)
    sizes = crew(1.0, two, np.full(4000, 0.4))
    assert (sizes == 2).mean() > 0.95


def test_a_crew_beside_busy_neighbours_stays_whole_whatever_comes():
    rng, calls = np.random.default_rng(1), 8000
    burst = np.repeat(rng.random(calls // 20) < 0.3, 20)  # now and then a core is half taken
    two = np.where(burst, 0.85, 0.55) * (0.9 + 0.2 * rng.random(calls))
    tokens = np.where(rng.random(calls) < 0.2, rng.integers(40, 400, calls), rng.integers(20, 33, calls))
    sizes = crew(1.0, two, np.where(burst, 0.45, 0.1), tokens=tokens)
    taken = np.where(sizes == 2, two, 1.0)
    assert two.sum() / taken.sum() > 0.97


@pytest.mark.parametrize(("late", "least"), [(1, 1.0), (4, 0.9)])
def test_a_crew_does_not_give_up_for_some_late_calls(late: int, least: float):
    rng, calls = np.random.default_rng(2), 8000
    slow = np.arange(calls) % 200 < late  # now and then a thread is held up
    two = np.where(slow, 2.0, 0.55) * (0.9 + 0.2 * rng.random(calls))
    sizes = crew(1.0, two, np.where(slow, 0.75, 0.05))
    assert two.sum() / np.where(sizes == 2, two, 1.0).sum() >= least


def test_a_crew_of_one_stays():
    assert (open_library().crew(np.ones(100), np.ones((100, 1)), np.ones(100)) == 1).all()
