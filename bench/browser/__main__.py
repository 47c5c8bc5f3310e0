"""The page in a real browser: `python -m bench.browser` plays all flows, `--pictures` takes the pictures of the README.

`--only WORD` plays the flows whose names hold the word, and writes no results. 1 where a flow fails, or could not be
played for want of a browser.
"""

import argparse
import json
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from bench.browser import guarding, keeping, pictures, real, talking
from bench.browser.stage import ROOT, Flow, Missing, Stage, browser, folder
from tests.serve.mini import mini_random
from tests.serve.page.scripted import Scripted, running
from tests.serve.serving import serving

FLOWS: dict[str, Flow] = {**talking.FLOWS, **keeping.FLOWS, **guarding.FLOWS, **real.FLOWS}
RESULTS = ROOT / "bench" / "results" / "browser.json"


def played(stage: Stage, name: str, flow: Flow) -> dict[str, Any]:
    """One flow, told on a line."""
    begin = time.perf_counter()
    try:
        said, failed = flow(stage) or "", ""
    except Exception:
        said, failed = "", traceback.format_exc()
        print(failed, file=sys.stderr)
        if "KeyboardInterrupt" in failed:
            raise
    seconds = time.perf_counter() - begin
    print(f"{'FAILS' if failed else 'holds'}  {name}  {said}  ({seconds:.1f} s)", flush=True)
    return {"flow": name, "holds": not failed, "said": said}


def play(wanted: str) -> int:
    """All flows whose names hold the word. Returns the exit code."""
    flows = {name: flow for name, flow in FLOWS.items() if wanted in name}
    with folder() as place, browser() as shown, running(Scripted()) as scripted:
        mini = mini_random()
        thinker = shutil.copytree(mini, Path(place) / "mini-qwen3-thinking")
        models = [f"mini={mini}", f"second={mini}", f"{real.THINKER}={thinker}"]
        with serving(models, folder=Path(place)) as served:
            stage = Stage(shown, scripted, served.url)
            told = [played(stage, name, flow) for name, flow in flows.items()]
        version = shown.version
    held = sum(one["holds"] for one in told)
    alone = ", none to anybody else" if held == len(told) else ""  # who asks elsewhere does not hold
    print(f"{held} of {len(told)} flows hold in chromium {version}; {stage.requests} requests{alone}")
    if not wanted:
        result = {"command": "python -m bench.browser", "chromium": version, "flows": len(told), "held": held,
                  "told": told}  # fmt: skip
        RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(held < len(told))


def main() -> int:
    """Play, or take pictures."""
    parser = argparse.ArgumentParser(prog="python -m bench.browser", description=__doc__)
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--only", default="", metavar="WORD")
    options = parser.parse_args()
    try:
        return pictures.take() if options.pictures else play(options.only)
    except Missing as why:
        print(f"not played: {why}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
