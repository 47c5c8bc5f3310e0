"""The shape law: a tensor's name carries its axes, so `q_THK` has three, and T is one number within a function."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dis import opname
from pathlib import Path
from types import FrameType
from typing import Any

AXES = re.compile(r"[a-z]\w*_([A-Z]+)")
OCTAVO = Path(__file__).resolve().parents[1] / "octavo"
ROOMS = tuple(str(OCTAVO / room) + "/" for room in ("nn", "models"))


def faults(names: dict[str, Any]) -> list[str]:
    """What is wrong with the tensors among local variables: axes that are too many, too few, or of two sizes."""
    from torch import Tensor

    found: list[str] = []
    sizes: dict[str, tuple[int, str]] = {}
    for name, value in names.items():
        axes = AXES.fullmatch(name)
        if axes is None or not isinstance(value, Tensor):
            continue
        shape = tuple(value.shape)
        if len(shape) != len(axes[1]):
            found.append(f"{name} has the shape {shape}: {len(axes[1])} letters, {len(shape)} axes")
            continue
        for letter, size in zip(axes[1], shape, strict=True):
            first, where = sizes.setdefault(letter, (size, name))
            if size != first:
                found.append(f"{name} has the shape {shape}: {letter} is {size} here and {first} in {where}")
    return found


class ShapeWatch:
    """Looks at the local variables of every function under `folders` as it returns; `faults` holds what was wrong."""

    def __init__(self, folders: tuple[str, ...] = ROOMS) -> None:
        self.folders, self.faults, self.seen = folders, set[str](), 0

    def called(self, frame: FrameType, event: str, arg: Any) -> Any:
        """The tracer of every call: frames of other folders are left alone, so that they cost next to nothing."""
        del event, arg
        if not frame.f_code.co_filename.startswith(self.folders):
            return None
        frame.f_trace_lines = False
        return self.returned

    def returned(self, frame: FrameType, event: str, arg: Any) -> Any:
        """The tracer of a watched frame. A frame that an exception ends has nothing to answer for."""
        code = frame.f_code
        if event == "return" and (
            arg is not None or opname[code.co_code[frame.f_lasti]].startswith(("RETURN", "YIELD"))
        ):
            self.seen += 1
            self.faults |= {f"{code.co_filename}:{code.co_name}: {fault}" for fault in faults(frame.f_locals)}
        return self.returned

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch this thread while the block runs."""
        before = sys.gettrace()
        sys.settrace(self.called)
        try:
            yield
        finally:
            sys.settrace(before)
