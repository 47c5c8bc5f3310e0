"""What is left of a run for people: its card, and one page with curves that needs nothing else."""

import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from octavo.train.run import Run, Told

PAGE = "report.html"
SHOWN = 2000  # points of a curve at most: more cannot be seen
STYLE = "body{font:15px system-ui;margin:2em auto;max-width:60em}td{padding:.1em 1em .1em 0}svg{width:100%;height:auto}"


def report(run: Run, *, recipe: str) -> dict[str, Any]:
    """Write the page into the run's folder, where this is the process that writes, and return the card."""
    told = card(run, recipe=recipe)
    if run.first:
        write_report(run.folder / PAGE, told, run.told)
    return told


def card(run: Run, *, recipe: str) -> dict[str, Any]:
    """What a run was, plain: settings (with the data's hash), tokens, arithmetic, time, and the last figures."""
    told = run.told
    parameters = sum(p.numel() for p in run.trainer.model.parameters())
    last = {name: value for line in told for name, value in line.figures.items()}
    return {
        "recipe": recipe, "settings": run.settings, "parameters": parameters,
        "products": "bfloat16" if run.trainer.bf16 else "float32",
        "processes": run.trainer.ranks.size, "steps": len(told), "tokens": told[-1].tokens, "flops": told[-1].flops,
        "seconds": sum(line.seconds for line in told), "cpu_s": sum(line.cpu_s for line in told),
        "loss": told[-1].loss, "figures": last,
    }  # fmt: skip


def write_report(path: Path, card: Mapping[str, Any], told: Sequence[Told]) -> None:
    """One HTML file: the card as a table, and a curve for each figure of the log."""
    curves: dict[str, Callable[[Told], float | None]] = {
        "loss, nats per token": lambda line: line.loss, "gradient norm": lambda line: line.norm,
        "learning rate": lambda line: line.rate, "tokens per second": lambda line: line.speed,
        "MFU": lambda line: line.mfu,
    }  # fmt: skip
    for name in sorted({name for line in told for name in line.figures}):
        curves[name] = lambda line, name=name: line.figures.get(name)
    parts = [f"<!doctype html><meta charset=utf-8><title>{escape(str(card['recipe']))}</title><style>{STYLE}</style>"]
    parts.append(f"<h1>{escape(str(card['recipe']))}</h1><table>")
    parts += [f"<tr><td>{escape(name)}<td>{escape(_text(value))}" for name, value in _flat(card)]
    parts.append("</table>")
    for name, value in curves.items():
        points = [(line.step, y) for line in told if (y := value(line)) is not None]
        if points:
            parts.append(f"<h2>{escape(name)}</h2>{curve(points[:: -(-len(points) // SHOWN)], name=name)}")
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def curve(points: Sequence[tuple[int, float]], *, name: str) -> str:
    """An SVG picture of steps and values."""

    def draw(axes: Any) -> None:
        axes.plot([x for x, _ in points], [y for _, y in points], linewidth=1, marker="o" if len(points) < 3 else "")
        axes.set_xlabel("step")
        axes.set_ylabel(name)

    return drawn(draw, height=3)


def drawn(draw: Callable[[Any], None], *, height: float) -> str:
    """An SVG picture, 9 wide and so high.   draw   is given matplotlib's axes"""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.grid(alpha=0.3)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue().partition("<svg")[1] + out.getvalue().partition("<svg")[2]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows = list[tuple[str, Any]]()
    for name, value in values.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return rows


def _text(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
