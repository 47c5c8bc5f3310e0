"""What runs of `octavo train mini` show, as the claims that they have to meet: python -m bench.mini [FOLDER ...]

Writes bench/results/mini_SCALE.json with the figures of every run named, beside those of other seeds that it has
already from runs of the same plan; with no folder, prints the tables of those that are there.
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

RESULTS = Path(__file__).with_name("results")


def result(scale: str) -> Path:
    """Where the runs of a scale are kept."""
    return RESULTS / f"mini_{scale}.json"


def known(path: Path) -> list[dict[str, Any]]:
    """The runs of a file."""
    return json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []


def show(runs: list[dict[str, Any]]) -> None:
    """One table of all."""
    print(table([Evidence(about=run["about"], exams=run["exams"], cards=run["cards"]) for run in runs]))


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
    if not found:
        for path in sorted(RESULTS.glob("mini_*.json")):
            print(f"{path.stem}:")
            show(known(path))
        return
    plans = {(run["about"]["plan"], run["about"]["scale"]) for run in found}
    if len(plans) > 1:
        sys.exit(f"These are runs of {len(plans)} plans: give those of one.")
    plan, scale = plans.pop()
    seeds, path = {run["about"]["seed"] for run in found}, result(scale)
    kept = [run for run in known(path) if run["about"]["plan"] == plan and run["about"]["seed"] not in seeds]
    runs = sorted([*kept, *found], key=lambda run: run["about"]["seed"])
    show(runs)
    told = {"command": "python -m bench.mini FOLDER ...", "runs": runs}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
