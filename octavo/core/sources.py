"""Where models come from, and who hears of it while they do."""

from collections.abc import Callable
from typing import Literal

Hub = Literal["huggingface", "modelscope"]
Report = Callable[[str], None]  # is given one line at a time, for the user


def silent(line: str) -> None:
    """A report that nobody reads."""
    del line
