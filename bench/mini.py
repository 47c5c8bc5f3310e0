"""What runs of `octavo train mini` show, as the claims that they have to meet: python -m bench.mini FOLDER [FOLDER ...]

Writes bench/results/mini.json with the figures of every run named.
"""

import argparse
import json
import sys
from pathlib import Path

import msgspec

from bench.machine import facts
from octavo.core.errors import TrainingError
from octavo.train.mini.card import ship
from octavo.train.mini.evidence import Evidence, table

RESULT = Path(__file__).with_name("results") / "mini.json"


def main() -> None:
    """Cards anew from each run's JSON, then one table of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    try:
        runs = [Evidence(folder) for folder in parser.parse_args().folders]
    except TrainingError as cause:
        sys.exit(str(cause))
    for run in runs:
        ship(run.folder)
    print(table(runs))
    kept = [
        {**run.about, "claims": msgspec.to_builtins(run.claims()), "exams": run.exams, "cards": run.cards}
        for run in runs
    ]
    RESULT.write_text(json.dumps({"machine": facts(), "runs": kept}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
