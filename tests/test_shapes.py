"""The shape law sees what it must see, and nothing else."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from octavo.nn.context import PackedContext
from tests.shapes import ShapeWatch, faults

SOURCE = """
def right(x_TD, y_TD):
    MAX_T, x_T1, names_TD = x_TD, x_TD, "no tensor"
    return x_TD + y_TD

def rank(x_TD):
    flat_TD = x_TD.flatten()
    return None

def size(x_TD, q_TD):
    return q_TD

def broken(x_TDK):
    raise ValueError

def looped(x_TDK):
    for _ in (i for i in range(2)):
        pass

def caught(x_TDK):
    try:
        broken(x_TDK)
    except ValueError:
        return None

def yielded(x_TDK):
    yield 1
"""


@pytest.fixture
def sample(tmp_path: Path) -> ModuleType:
    (tmp_path / "sample.py").write_text(SOURCE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("sample", tmp_path / "sample.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def watch(sample: ModuleType) -> ShapeWatch:
    return ShapeWatch(folders=(str(Path(str(sample.__file__)).parent),))


def test_right_names_pass(sample: ModuleType):
    look = watch(sample)
    with look.watching():
        sample.right(torch.ones(3, 2), torch.zeros(3, 2))
    assert look.seen == 1 and not look.faults


@pytest.mark.parametrize(
    ("function", "shapes", "fault"),
    [
        ("rank", [(3, 2)], "rank: flat_TD has the shape (6,): 2 letters, 1 axes"),
        ("size", [(3, 2), (4, 2)], "size: q_TD has the shape (4, 2): T is 4 here and 3 in x_TD"),
        ("looped", [(3, 2)], "looped: x_TDK has the shape (3, 2): 3 letters, 2 axes"),
        ("caught", [(3, 2)], "caught: x_TDK has the shape (3, 2): 3 letters, 2 axes"),
    ],
)
def test_wrong_names_are_found(sample: ModuleType, function: str, shapes: list[tuple[int, ...]], fault: str):
    look = watch(sample)
    with look.watching():
        getattr(sample, function)(*(torch.ones(shape) for shape in shapes))
    assert look.faults == {f"{sample.__file__}:{fault}"}


def test_generators_are_watched_and_failing_functions_are_not(sample: ModuleType):
    look = watch(sample)
    with look.watching(), pytest.raises(ValueError):
        sample.broken(torch.ones(2))
    assert not look.faults
    with look.watching():
        list(sample.yielded(torch.ones(2)))
    assert look.faults


def test_the_rooms_of_the_product_are_watched_by_default():
    look = ShapeWatch()
    with look.watching():
        PackedContext([2, 1]).attend(0, torch.ones(3, 2, 4), torch.ones(3, 1, 4), torch.ones(3, 1, 4), scale=1.0)
    assert look.seen > 0 and not look.faults


def test_one_letter_is_one_size_only_within_a_function():
    assert faults({"a_T": torch.ones(2), "b_T": torch.ones(2), "c_K": torch.ones(3)}) == []
    assert len(faults({"a_T": torch.ones(2), "b_T": torch.ones(3)})) == 1
