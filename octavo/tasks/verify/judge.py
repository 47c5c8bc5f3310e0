"""A program of its own: says whether two mathematical expressions in LaTeX are the same, by `math-verify`.

A line in is a JSON list of two, the gold one first; a line out is true or false. See `octavo/tasks/sandbox.py`: here
nothing is bounded in time, and a comparison that needs more memory than MEMORY_BYTES is false.
"""

import json
import logging
import sys

from math_verify import LatexExtractionConfig, parse, verify

MEMORY_BYTES = 2 << 30


def same(gold: str, said: str) -> bool:
    """Whether the two are equal as numbers, sets, intervals, tuples, matrices, equations or expressions."""
    how = [LatexExtractionConfig()]
    wanted, found = (parse(f"${text}$", how, fallback_mode="no_fallback", parsing_timeout=0) for text in (gold, said))
    return bool(wanted and found and verify(wanted, found, timeout_seconds=None))


def run() -> None:
    """Answer until there is nothing more to read."""
    logging.disable(logging.CRITICAL)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    print('"ready"', flush=True)
    for line in sys.stdin:
        gold, said = json.loads(line)
        print(json.dumps(same(gold, said)), flush=True)


if __name__ == "__main__":
    run()
