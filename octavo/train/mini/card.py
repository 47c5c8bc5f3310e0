"""A model's card, made from the JSON of the run that made the model, and the models as they are shipped."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from octavo.tasks import TASKS
from octavo.text.tokenizer import Tokenizer
from octavo.train.mini.evidence import EXPERTS, Evidence, table
from octavo.train.mini.evidence import markdown_row as row
from octavo.train.mini.exam import MODES, WAYS
from octavo.train.models import read_model, write_model
from octavo.train.report import drawn

NAMES = {"teacher": "octavo-mini", "student": "octavo-mini-s"}
CURVES = "budgets.svg"
READ = re.compile(r".*-[0-9]-.*")  # names of the stages of pre-training


def ship(folder: Path) -> list[Path]:
    """The teacher and the student of a finished run, in bf16, each with its card; folders beside the stages."""
    evidence, made = Evidence.of(folder), list[Path]()
    for stage, name in NAMES.items():
        place = folder / name
        shutil.rmtree(place, ignore_errors=True)  # it may be of a stage that was made anew
        model, config = read_model(folder / stage)
        write_model(place, model, config=config, tokenizer=Tokenizer.from_folder(folder / stage), dtype=torch.bfloat16)
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        (place / "README.md").write_text(card(evidence, stage=stage, config=config), encoding="utf-8")
        (place / "exam.json").write_text(json.dumps(evidence.exams[stage]), encoding="utf-8")
        if stage == "teacher":
            (place / CURVES).write_text(curves(evidence), encoding="utf-8")
        made.append(place)
    return made


def card(evidence: Evidence, *, stage: str, config: Mapping[str, Any]) -> str:
    """The card of the model of a stage, in Markdown.   config   its config.json"""
    name = NAMES[stage]
    parameters = next(p["parameters"] for p in evidence.parts(stage))
    about = evidence.about
    command = f"octavo train mini scale={about['scale']} seed={about['seed']}"
    if EXPERTS not in evidence.stages:
        command += " experts=false"
    text = f"""---
license: apache-2.0
library_name: octavo
pipeline_tag: text-generation
---
# {name}

A Qwen3 in miniature, {parameters:,} parameters ({config["num_hidden_layers"]} layers, width {config["hidden_size"]}),
made from nothing by `{command}`. It knows the task families below
and nothing else: it is there to show each part of the recipe, and to be tried without a download. It thinks, or does
not (`/think`, `/no_think`, `enable_thinking`), keeps to a thinking budget, and calls tools.

Every figure on this card was written by the run that made the model. Problems are held out by what they are;
intervals are of 95 %.

## What it can be asked

{_questions(evidence)}

## Accuracy, per cent

{_families(evidence, stage)}

## Stages

Accuracy is the mean over all families but tools, greedy. CPU seconds are of training and of the replies it takes.

{_stages(evidence)}

## Claims

What the Qwen3 report says of its models, and what is seen here:

{table([evidence])}
"""
    return f"{text}\n![accuracy by thinking budget]({CURVES})\n" if stage == "teacher" else text


def curves(evidence: Evidence) -> str:
    """Accuracy by thinking budget of each family that thinks, with 95 % intervals, as an SVG picture."""

    def draw(axes: Any) -> None:
        for name, curve in evidence.exams["teacher"]["budgets"].items():
            shares, places = [one["all"]["accuracy"] for one in curve.values()], range(len(curve))
            value, low, high = ([100 * share[key] for share in shares] for key in ("value", "low", "high"))
            axes.plot(places, value, marker=".", label=name)
            axes.fill_between(places, low, high, alpha=0.12)
            axes.set_xticks(places, list(curve))
        axes.set_xlabel("thinking budget, tokens")
        axes.set_ylabel("accuracy, % (greedy; upper half of the levels)")
        axes.legend(ncols=2, fontsize="small")

    return drawn(draw, height=5)


def _questions(evidence: Evidence) -> str:
    """A problem of each family, of its second level, as it is put."""
    found = [(name, TASKS[name].problem(0, level=2, split="test")) for name in evidence.families]
    return "\n\n".join(f"{name}:\n```\n{problem.messages[-1].text}\n```" for name, problem in found)


def _families(evidence: Evidence, stage: str) -> str:
    lines = [row("family", "shows", "n", "thinking", "sampled", "without", "sampled", "thinking tokens")]
    lines.append(row(*["---"] * 8))
    exam = evidence.exams[stage]
    for name in evidence.families:
        found = exam[name]
        cells = [_share(found[mode][way]["accuracy"]) for mode in MODES for way in WAYS]
        count, tokens = found["thinking"]["greedy"]["accuracy"]["count"], found["thinking"]["greedy"]["thinking_tokens"]
        lines.append(row(name, found["shows"], str(count), *cells, f"{tokens:.0f}"))
    return "\n".join(lines)


def _stages(evidence: Evidence) -> str:
    lines = [row("stage", "thinking", "without", "mode as asked", "tokens", "CPU s"), row(*["---"] * 6)]
    for name, told in sorted(evidence.cards.items()):
        if READ.fullmatch(name):
            lines.append(row(f"pre-training, {name}", "", "", "", f"{told['tokens']:,}", f"{told['cpu_s']:.0f}"))
    for stage, what in evidence.stages.items():
        tokens = sum(part["tokens"] for part in evidence.parts(stage))
        figures = (evidence.mean(stage, mode) for mode in MODES)
        lines.append(row(what, *(f"{x:.1f}" for x in figures), f"{evidence.followed(stage):.1f}", f"{tokens:,}",
                          f"{evidence.cpu_s(stage):.0f}"))  # fmt: skip
    return "\n".join(lines)


def _share(share: dict[str, float]) -> str:
    return f"{100 * share['value']:.1f} ({100 * share['low']:.0f}-{100 * share['high']:.0f})"
