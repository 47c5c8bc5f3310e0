"""What runs of `octavo train mini` show, as the claims that they have to meet: python -m bench.mini [FOLDER ...]

Writes bench/results/mini.json with the figures of every run named, beside those of other seeds that it has already from
runs of the same plan; with no folder, prints the table of those that are there.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from bench.machine import facts
from octavo.core.errors import TrainingError
from octavo.train.mini.card import ship
from octavo.train.mini.evidence import Evidence, table

RESULT = Path(__file__).with_name("results") / "mini.json"


def known() -> list[dict[str, Any]]:
    """The runs of the file."""
    return json.loads(RESULT.read_text(encoding="utf-8"))["runs"] if RESULT.exists() else []


def as_json(run: Evidence) -> dict[str, Any]:
    """One run, with the machine that it was examined on."""
    shown = msgspec.to_builtins(run.claims())
    return {"about": run.about, "machine": facts(), "claims": shown, "exams": run.exams, "cards": run.cards}


def main() -> None:
    """Cards anew from each run's JSON, then one table of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    folders = parser.parse_args().folders
    try:
        found = [as_json(Evidence.of(folder)) for folder in folders]
    except TrainingError as cause:
        sys.exit(str(cause))
    for folder in folders:
        ship(folder)
    plans = {run["about"]["plan"] for run in found}
    if len(plans) > 1:
        sys.exit(f"These are runs of {len(plans)} plans: give those of one.")
    seeds = {run["about"]["seed"] for run in found}
    kept = [r for r in known() if not found or (r["about"]["plan"] in plans and r["about"]["seed"] not in seeds)]
    runs = sorted([*kept, *found], key=lambda run: run["about"]["seed"])
    if not runs:
        sys.exit("There is no run yet: give the folder of one.")
    print(table([Evidence(about=run["about"], exams=run["exams"], cards=run["cards"]) for run in runs]))
    if found:
        RESULT.write_text(
            json.dumps({"command": "python -m bench.mini FOLDER ...", "runs": runs}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
