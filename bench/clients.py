"""Official clients against one server: `sh bench/clients.sh && python -m bench.clients`.

The server is started as a user starts it, with the mini model of the tests and one key. Each file in bench/clients is
one client; each test in it is a scenario: what a user of that client does, and what they would look at. Python's are
run by pytest, JavaScript's by node's own runner.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from bench.machine import facts
from tests.serve.mini import mini_qwen3
from tests.serve.serving import OCTAVO, Served, serving

HERE = Path(__file__).parent
SCENARIOS, RESULT = HERE / "clients", HERE / "results" / "clients.json"
PYTHON, NODE = HERE.parent / ".clients" / "py", HERE.parent / ".clients" / "node"
SUITES: dict[str, tuple[str, ...]] = {  # client -> its files
    "openai-python": ("openai_python.py", "openai_python_responses.py", "openai_python_more.py"),
    "openai-node": ("openai_node.mjs",),
    "anthropic-python": ("anthropic_python.py",),
    "anthropic-node": ("anthropic_node.mjs",),
    "ai-sdk": ("ai_sdk.mjs",),
    "langchain": ("langchain_python.py",),
    "pydantic-ai": ("pydantic_ai_python.py",),
}
NAMES = {"py": ("openai", "anthropic", "langchain-openai", "pydantic-ai-slim"),
         "node": ("openai", "@anthropic-ai/sdk", "ai", "@ai-sdk/openai-compatible")}  # fmt: skip
LEAST, PATIENCE_S, WHY_WIDTH = 60, 600, 300


class Seen(NamedTuple):
    """One scenario.   why   what was wrong, "" where it passed"""

    client: str
    scenario: str
    why: str
    took_s: float


def main() -> int:
    """Run, print, write. 1 where a scenario fails, or there are too few."""
    parser = argparse.ArgumentParser(description="Official clients against one server.")
    parser.add_argument("--only", choices=[*SUITES], action="append", help="run this client's scenarios alone; write "
                        "no result")  # fmt: skip
    only = parser.parse_args().only
    for needed in (PYTHON / "bin" / "python", NODE / "node_modules"):
        if not needed.exists():
            parser.error(f"{needed} is not there: set it up with `sh bench/clients.sh`.")
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        key = made_key(folder)
        known = {"authorization": f"Bearer {key}"}
        with serving([f"mini={mini_qwen3()}"], folder=folder, key=known) as served:
            seen = [one for client in only or SUITES for one in suite(client, served, key=key, folder=folder)]
    failed = [one for one in seen if one.why]
    show(seen, failed)
    if not only:
        write(seen, seconds=time.monotonic() - began_s)
    return 1 if failed or (len(seen) < LEAST and not only) else 0


def made_key(folder: Path) -> str:
    """A key of the server whose state is in that folder."""
    done = subprocess.run([*OCTAVO, "keys", "create", "bench"], env={**os.environ, "OCTAVO_STATE": str(folder)},
                          capture_output=True, text=True, check=True)  # fmt: skip
    return done.stdout.strip()


def suite(client: str, served: Served, *, key: str, folder: Path) -> Iterator[Seen]:
    """All scenarios of a client. A file that cannot be run is a scenario that failed."""
    env = {**os.environ, "OCTAVO_URL": served.url, "OCTAVO_KEY": key, "OCTAVO_MODEL": "mini", "NO_COLOR": "1"}
    env = {name: value for name, value in env.items() if not name.startswith(("OPENAI_", "ANTHROPIC_", "PYTHONPATH"))}
    for name in SUITES[client]:
        report = folder / f"{name}.xml"
        run = by_pytest if name.endswith(".py") else by_node
        said = run(name, report, env=env)
        found = list(read(client, report)) if report.exists() and report.stat().st_size else []
        yield from found or [Seen(client, name, f"it could not be run: {said[-2000:]}", 0.0)]


def by_pytest(name: str, report: Path, *, env: dict[str, str]) -> str:
    """Run one file; what was printed."""
    command = [str(PYTHON / "bin" / "python"), "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(SCENARIOS),
               "-p", "no:cacheprovider", f"--junitxml={report}", "--tb=short", str(SCENARIOS / name)]  # fmt: skip
    return finished(command, env=env, folder=SCENARIOS)


def by_node(name: str, report: Path, *, env: dict[str, str]) -> str:
    """Run one file, from a copy beside the packages that it imports; what was printed."""
    with tempfile.TemporaryDirectory(dir=NODE, prefix="run-") as place:
        for file in SCENARIOS.glob("*.mjs"):
            shutil.copy(file, place)
        command = ["node", "--test", "--test-timeout=60000", "--test-reporter=junit",
                   f"--test-reporter-destination={report}", name]  # fmt: skip
        return finished(command, env=env, folder=Path(place))


def finished(command: Sequence[str], *, env: dict[str, str], folder: Path) -> str:
    """What a program says. Raises TimeoutExpired."""
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)
    return done.stdout + done.stderr


def read(client: str, report: Path) -> Iterator[Seen]:
    """The scenarios of a report in JUnit's form."""
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        why = "" if wrong is None else " ".join(f"{wrong.get('message', '')} {wrong.text or ''}".split())
        for place in (NODE.resolve(), HERE.parent):  # machines differ in it
            why = why.replace(f"{place}/", "")
        name = case.get("name", "").removeprefix("test_")
        yield Seen(client, name, why or ("" if wrong is None else wrong.tag), float(case.get("time", 0)))


def show(seen: Sequence[Seen], failed: Sequence[Seen]) -> None:
    """A table, scenarios x clients: passed of all that bear the name; then the reasons."""
    clients = [client for client in SUITES if any(one.client == client for one in seen)]
    rows: dict[str, dict[str, list[bool]]] = {}
    for one in seen:
        name = one.scenario.partition("[")[0]
        rows.setdefault(name, {}).setdefault(one.client, []).append(not one.why)
    print(f"{'':34}" + "".join(f"{client:>17}" for client in clients))
    for name, cells in sorted(rows.items()):
        shown = ["" if c not in cells else "pass" if all(cells[c]) else "FAIL" for c in clients]
        counts = [f" {sum(cells[c])}/{len(cells[c])}" if len(cells.get(c, ())) > 1 else "" for c in clients]
        print(f"{name[:34]:34}" + "".join(f"{s + n:>17}" for s, n in zip(shown, counts, strict=True)))
    for client in clients:
        mine = [one for one in seen if one.client == client]
        took_s = sum(one.took_s for one in mine)
        print(f"{client:18} {sum(not one.why for one in mine):3} of {len(mine):3} pass, {took_s:5.1f} s")
    for one in failed:
        print(f"\nFAILED {one.client}: {one.scenario}\n  {one.why[: WHY_WIDTH * 4]}")


def write(seen: Sequence[Seen], *, seconds: float) -> None:
    """The result, for the documents."""
    table = {client: {one.scenario: one.why[:WHY_WIDTH] or "pass" for one in seen if one.client == client}
             for client in SUITES}  # fmt: skip
    result = {
        "command": "python -m bench.clients", "machine": facts(), "versions": versions(), "seconds": round(seconds, 1),
        "scenarios": len(seen), "passed": sum(not one.why for one in seen), "needed": LEAST, "table": table,
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Of the clients."""
    ask = f"from importlib.metadata import version; print(*map(version, {NAMES['py']!r}))"
    done = subprocess.run([str(PYTHON / "bin" / "python"), "-c", ask], capture_output=True, text=True, check=True)
    found = {f"{name} (Python)": number for name, number in zip(NAMES["py"], done.stdout.split(), strict=True)}
    for name in NAMES["node"]:
        package = NODE / "node_modules" / name / "package.json"
        found[f"{name} (JavaScript)"] = json.loads(package.read_text(encoding="utf-8"))["version"]
    return found


if __name__ == "__main__":
    sys.exit(main())
