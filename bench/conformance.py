"""Conformance of a server with what others have written to judge it: `python -m bench.conformance`.

llm-comply asks every text test of Chat Completions, Open Responses and Messages, compatcanary its modern profile. Both
come from their registries: --comply and --canary say where they are. Writes bench/results/conformance.json.

Their questions are asked of a tiny model that has learnt to answer them, to end, and to call the tool it is given: what
is judged is the server. Tests of images are left out: the models here read text. Those that llm-comply asks only of
models with certain names (reasoning) are asked once more under such a name.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from octavo.core.messages import Message, Role, ToolCall, ToolSpec
from octavo.core.sampling import Thinking
from tests.serve.mini import mini_taught
from tests.serve.mini_talks import Talk
from tests.serve.serving import serving

CITY = {"type": "object", "properties": {"location": {"type": "string", "description": "City name"}},
        "required": ["location"]}  # fmt: skip
VALUE = {"type": "object", "properties": {"value": {"type": "string"}}, "required": ["value"],
         "additionalProperties": False}  # fmt: skip
WEATHER = ToolSpec(name="get_weather", description="Get current weather for a location.", parameters=CITY)
ECHO = ToolSpec(name="compatcanary_echo", description="Echo a compatibility probe value.", parameters=VALUE)
# Conversations up to the question, roles by their first letter, and the answer.
SAID = (
    ("u:Say hello in exactly 3 words.", "Hello to you."), ("u:What is 15 * 37? Show your reasoning.", "It is 555."),
    ("s:Always respond in exactly one word.", "u:Say hello.", "Hello."), ("u:Count from 1 to 5.", "1, 2, 3, 4, 5."),
    ("u:My name is Alice.", "a:Hello Alice!", "u:What is my name? Reply with just the name.", "Alice."),
    ("u:Say one word.", "Word."), ("u:Reply briefly with CANARY_OK.", "CANARY_OK."), ("u:test", "Yes."),
    ("a:I should answer with the saved number.", "a:The number is four.", "u:Repeat only the number.", "Four."),
    ("u:Return the requested compatibility status.", '{"status": "ok"}'),
)  # fmt: skip
CALLED = (
    ("What is the weather in San Francisco?", WEATHER, '{"location": "San Francisco"}'),
    ("Call the provided tool with value CANARY_OK.", ECHO, '{"value": "CANARY_OK"}'),
)
ROLES: dict[str, Role] = {"u": "user", "a": "assistant", "s": "system"}
ROOT = Path(__file__).resolve().parents[1]
COMPLY, CANARY = ROOT / ".clients/py/bin/llm-comply", ROOT / ".clients/node/node_modules/.bin/compatcanary"
# Formats, and the name of a model whose reasoning is asked for.
FORMATS = {"openai-chat": "deepseek-r", "open-responses": "deepseek-r", "anthropic": "claude-4"}
SEEN = ("image",)  # in the ids of tests that no model of text can pass
TIMEOUT_S = 120


def talks(seed: int) -> list[Talk]:
    """What the suites ask, and what is answered."""
    found, on = list[Talk](), Thinking(mode="on")
    for *lines, answer in SAID:
        talk = tuple(Message(role=ROLES[line[0]], content=line[2:]) for line in lines)
        found.append(Talk((*talk, Message(role="assistant", content=answer, thinking="I answer.")), (), on))
    for question, tool, arguments in CALLED:
        call = ToolCall(name=tool.name, arguments=arguments)
        reply = Message(role="assistant", thinking="I call.", tool_calls=(call,))
        found.append(Talk((Message(role="user", content=question), reply), (tool,), on))
    return found


def comply(command: Path, url: str, *, form: str, model: str) -> dict[str, dict[str, Any]]:
    """Test id -> status and errors of llm-comply in one format, tests of images left out."""
    call = [str(command), "--base-url", f"{url}/v1", "--model", model, "--api-key", "none", "--format", form, "--json",
            "--timeout", str(TIMEOUT_S)]  # fmt: skip
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    tests = json.loads(done.stdout)["results"]
    return {
        test["id"]: {"status": test["status"], "errors": test.get("errors", []), "warnings": test.get("warnings", [])}
        for test in tests
        if not any(word in test["id"] for word in SEEN)
    }


def canary(command: Path, url: str, *, model: str) -> dict[str, Any]:
    """compatcanary's score and its probes that did not pass."""
    call = [str(command), "scan", "--base-url", f"{url}/v1", "--model", model, "--profile", "modern",
            "--format", "json", "--timeout", str(TIMEOUT_S)]  # fmt: skip
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    missed = {probe["id"]: probe["summary"] for probe in report["results"] if probe["status"] != "pass"}
    return {"score": report["score"], "probes": len(report["results"]), "missed": missed}


def hash_of(*values: Any) -> str:
    """A short name for what was taught."""
    return sha256(repr(values).encode()).hexdigest()[:8]


def judged(model: str, *, comply_at: Path, canary_at: Path) -> dict[str, Any]:
    """Everything about one model, which is served under three names."""
    names = ["mini", *dict.fromkeys(FORMATS.values())]
    models = [f"{name}={model}" for name in names]
    with tempfile.TemporaryDirectory() as folder, serving(models, folder=Path(folder)) as served:
        suites: dict[str, Any] = {}
        for form, thinker in FORMATS.items():
            found = comply(comply_at, served.url, form=form, model="mini")
            again = comply(comply_at, served.url, form=form, model=thinker)
            found |= {id: again[id] for id, test in found.items() if test["status"] == "skipped"}
            suites[form] = found
        return {"llm-comply": suites, "compatcanary": canary(canary_at, served.url, model="mini")}


def main() -> int:
    """Judge, print, write. Exit code 1 where anything was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comply", type=Path, default=COMPLY)
    parser.add_argument("--canary", type=Path, default=CANARY)
    parser.add_argument("--model", default="", help="what to serve instead of the tiny model")
    asked = parser.parse_args()
    found = judged(
        asked.model or str(mini_taught(f"suites-{hash_of(SAID, CALLED)}", talks)),
        comply_at=asked.comply,
        canary_at=asked.canary,
    )
    passed = total = 0
    for form, tests in found["llm-comply"].items():
        for id, test in tests.items():
            total, passed = total + 1, passed + (test["status"] == "passed")
            if test["status"] != "passed" or test["warnings"]:
                print(f"{form:16}{id:32}{test['status']:9}{'; '.join(test['errors'] + test['warnings'])[:200]}")
    score = found["compatcanary"]["score"]
    print(f"llm-comply: {passed} of {total} text tests passed; compatcanary: {score} of 100")
    for id, summary in found["compatcanary"]["missed"].items():
        print(f"compatcanary    {id:32}{summary}")
    counts = {"llm_comply_passed": passed, "llm_comply_tests": total, "compatcanary_score": score}
    result = {"command": "python -m bench.conformance", **counts, **found}
    (ROOT / "bench/results/conformance.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0 if passed == total and score == 100 else 1


if __name__ == "__main__":
    sys.exit(main())
