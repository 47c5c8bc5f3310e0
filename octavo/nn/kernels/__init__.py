"""Our own CPU kernels: one C++17 source, compiled for the machine's instruction set, called through ctypes."""

from octavo.nn.kernels.build import best_tier, cache_folder, cpu_flags, usable_cores
from octavo.nn.kernels.library import Library, open_library

__all__ = ["Library", "best_tier", "cache_folder", "cpu_flags", "open_library", "usable_cores"]
