"""What a file holds -> torch. The only place of this room's readers that imports it."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.weights.numbers import NUMBERS


def torch_dtype(stored: str) -> torch.dtype:
    """The type that `as_tensor` gives: the file's own; of numbers in quantised blocks float32."""
    dtype = getattr(torch, NUMBERS[stored].torch if stored in NUMBERS else "float32")
    assert isinstance(dtype, torch.dtype)
    return dtype


def as_tensor(numbers: NDArray[Any], stored: str) -> Tensor:
    """A tensor over the memory of an array that was stored as this type."""
    return torch.from_numpy(numbers).view(torch_dtype(stored))
