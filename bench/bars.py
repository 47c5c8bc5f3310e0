"""Tables, rooflines and the bars of the issue, from figures that were measured: nothing here measures."""

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.machine import Limits
from bench.shapes import SHAPES, reads

if TYPE_CHECKING:
    from bench.cpu import Contender, Figure

CACHE_BITS = {"16": 16.0, "int8": 8.25}  # int8 with a 16-bit scale per 64 numbers or fewer scales
OURS, LLAMA, OPENVINO = "octavo", "llama.cpp", "openvino"
LEAST = {4: 2.0, 8: 1.8, 16: 1.2}  # of bar 1, by bits


def step_bytes(model: str, contender: "Contender", *, context: int, batch: int, cache: str) -> float:
    """Bytes that one step has to read: the weights once, keys and values of each sequence.

    Of a mixture of experts, the weights that one sequence alone reads.
    """
    read = reads(SHAPES[model])
    weights = (read.linears * contender.weights + read.head * contender.head) / 8
    return weights + batch * context * read.cache * CACHE_BITS[cache] / 8


def prefill_seconds(model: str, *, tokens: int, rate: float, attention_rate: float) -> float:
    """The least time of a prompt: all linear layers at `rate`, attention over what came before at `attention_rate`,
    the head for one token. Operations per second; a multiplication with its addition is two."""
    config, read = SHAPES[model], reads(SHAPES[model])
    linear = 2 * (read.linears * tokens + read.head)
    attention = 2 * tokens**2 * config["num_hidden_layers"] * config["num_attention_heads"] * config["head_dim"]
    return linear / rate + attention / attention_rate


def share(contender: "Contender", figure: "Figure", found: Limits, *, model: str, value: float) -> float | None:
    """What a figure is of the most that memory or matrix units allow, 0..1; None where there is no such limit."""
    order = figure.order
    if order is None or order.do == "requests" or figure.core == "stolen":
        return None
    if order.do == "decode":
        size = step_bytes(model, contender, context=order.context, batch=order.batch, cache=order.cache)
        return value * size / found.bandwidth / order.batch
    rate = found.bf16 if contender.weights == 16 else found.int8
    least_s = prefill_seconds(model, tokens=order.context, rate=rate, attention_rate=found.bf16)
    return value * least_s / order.context


def row(name: str, figure: "Figure", found: dict[str, Any], *, model: str) -> dict[str, Any]:
    """One figure as the result keeps it: contender -> median, rounds, setting, share of the roofline, ratio to ours.

    found   "answers": (contender, answer) in the order of the rounds; "limits", the best that were seen between them,
            and "typical limits", their medians, where they were measured: bars go by the best, so that what a shared
            machine takes away for a time counts against us
    A ratio says how many times better ours is than that contender, round by round, with the ratio of the medians.
    """
    by: dict[str, dict[str, Any]] = {}
    for contender, answer in found["answers"]:
        entry = by.setdefault(contender.name, {"rounds": []})
        entry |= {key: answer[key] for key in ("setting", "tried", "missing") if answer.get(key)}
        entry["rounds"] += [answer["value"]] if "value" in answer else []
        if entry["rounds"]:
            entry["median"] = statistics.median(entry["rounds"])
            if "limits" in found:
                for key, limits in (("share", "limits"), ("share_of_typical", "typical limits")):
                    entry[key] = share(contender, figure, found[limits], model=model, value=entry["median"])
    larger = figure.unit == "tok/s"
    ours = next((entry for name, entry in by.items() if name.startswith(OURS) and "median" in entry), None)
    for entry in by.values():
        if ours is not None and "median" in entry and entry is not ours:
            entry["ratio"] = ratio(ours["median"], entry["median"], larger=larger)
            pairs = zip(ours["rounds"], entry["rounds"], strict=False)
            entry["ratios"] = sorted(ratio(a, b, larger=larger) for a, b in pairs)
    kept = {"unit": figure.unit, "contenders": by}
    if "limits" in found:
        kept |= {key: found[key]._asdict() for key in ("limits", "typical limits")}
        kept["machine busy"] = round(found["machine busy"], 3)
    return kept


def ratio(ours: float, theirs: float, *, larger: bool) -> float:
    """How many times better ours is: above 1 is ahead."""
    return ours / theirs if larger else theirs / ours


def print_table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """One line per figure and contender."""
    print(f"\n{title}\n{'':44}{'median':>10}  {'of roofline (typical)':>21}  {'ours is':>8}   spread of the rounds")
    for name, found in rows.items():
        for contender, entry in found["contenders"].items():
            head = f"{name + ', ' + found['unit']:22}{contender:22}"
            if "median" not in entry:
                print(f"{head}{'-':>10}  {entry.get('missing', 'not measured')}")
                continue
            both = [entry.get(key) for key in ("share", "share_of_typical")]
            part = "{:.0%} ({:.0%})".format(*both) if None not in both else ""
            times = f"{entry['ratio']:.2f} x" if "ratio" in entry else ""
            spread = entry.get("ratios") or entry["rounds"]
            shown = f"{min(spread):.4g} to {max(spread):.4g}"
            setting = f"   ({entry['setting']})" if entry.get("setting") else ""
            print(f"{head}{entry['median']:10.4g}  {part:>21}  {times:>8}   {shown}{setting}", flush=True)


class Bar(NamedTuple):
    """name; least: what `value` must reach; value: from all figures, KeyError or StopIteration where one is missing."""

    name: str
    least: float
    value: Callable[[dict[str, Any]], float]


class Measured(NamedTuple):
    """The better of the medians of all contenders of a figure whose name begins with `who`."""

    group: str
    figure: str
    who: str = OURS

    def row(self, figures: dict[str, Any]) -> dict[str, Any]:
        """KeyError where there is none."""
        return figures[self.group][self.figure]

    def median(self, figures: dict[str, Any]) -> float:
        """KeyError where it was not measured."""
        row = self.row(figures)
        found = [e["median"] for name, e in row["contenders"].items() if name.startswith(self.who) and "median" in e]
        if not found:
            raise KeyError(self.figure)
        return max(found) if row["unit"] == "tok/s" else min(found)


def over(first: Measured, second: Measured) -> Callable[[dict[str, Any]], float]:
    """The quotient of two values of one run: machines, and hours of one machine, are not compared with each other."""

    def value(figures: dict[str, Any]) -> float:
        if first.row(figures).get("command") != second.row(figures).get("command"):
            raise KeyError(f"{first} and {second} are of two runs")
        return first.median(figures) / second.median(figures)

    return value


def part(group: str, figure: str) -> Callable[[dict[str, Any]], float]:
    """Our share of the roofline."""

    def value(figures: dict[str, Any]) -> float:
        entries = figures[group][figure]["contenders"].items()
        return next(e["share"] for name, e in entries if name.startswith(OURS) and e.get("share") is not None)

    return value


def all_bars() -> list[Bar]:
    """The bars 1, 2, 3, 5 and 7 of the issue on CPU speed that speed alone decides."""
    found = [bar for bits in (4, 8, 16) for bar in bars_of(bits)]
    for model in ("4b", "8b", "30b-a3b"):
        found.append(Bar(f"7 {model} at W4, share of roofline", 0.8, part(f"{model} at 4 bits", "decode_1")))
    return found


def bars_of(bits: int) -> list[Bar]:
    """Those of the 0.6B shape in one precision. No OpenVINO at 16 bits."""

    def at(figure: str, who: str = OURS) -> Measured:
        return Measured(f"0.6b at {bits} bits", figure, who)

    ours, long, openvino = at("decode_1"), "decode_1_at_2048_int8", bits != 16
    found = [
        Bar(f"1 decode at {bits} bits over llama.cpp", LEAST[bits], over(ours, at("decode_1", LLAMA))),
        Bar(f"1 decode at {bits} bits, share of roofline", 0.85, part(ours.group, "decode_1")),
    ]
    if openvino:
        found.append(Bar(f"1 decode at {bits} bits over OpenVINO", 1, over(ours, at("decode_1", OPENVINO))))
    for batch, times in ((8, 4.5), (16, 6)):
        found.append(Bar(f"2 {batch} streams over one, {bits} bits", times, over(at(f"decode_{batch}"), ours)))
    found.append(Bar(f"2 context 2048, int8 cache, {bits} bits, share of roofline", 0.75, part(ours.group, long)))
    for who in (LLAMA, OPENVINO) if openvino else (LLAMA,):
        times = over(at("requests_64", who), at("requests_64"))
        found.append(Bar(f"2 64 requests, {bits} bits, {who} over ours", 1, times))
    for figure in ("prefill_512", "prefill_4096"):
        found.append(Bar(f"3 {figure} at {bits} bits over llama.cpp", 5, over(at(figure), at(figure, LLAMA))))
        found.append(Bar(f"3 {figure} at {bits} bits, share of matrix rate", 0.6, part(ours.group, figure)))
        if openvino:
            times = over(at(figure), at(figure, f"{OPENVINO} int8"))
            found.append(Bar(f"3 {figure} at {bits} bits over OpenVINO int8", 1.3, times))
    stolen = over(at("stolen_core"), at("one_core"))
    return [*found, Bar(f"5 one core stolen, {bits} bits, of one clean core", 0.9, stolen)]


def judged(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Every bar: its value and whether it is met; None for both where the figures were not measured, or in two runs."""
    told: list[dict[str, Any]] = []
    for bar in all_bars():
        try:
            value: float | None = bar.value(figures)
        except (KeyError, StopIteration):
            value = None
        met = None if value is None else value >= bar.least
        told.append({"bar": bar.name, "least": bar.least, "value": value, "met": met})
    return told


def print_bars(bars: list[dict[str, Any]]) -> None:
    """One line per bar."""
    print()
    for bar in bars:
        mark = {True: "met", False: "MISSED", None: "not measured, or not in one run"}[bar["met"]]
        value = "" if bar["value"] is None else f"{bar['value']:.3g}"
        print(f"{bar['bar']:58} at least {bar['least']:<5g} {value:>8}  {mark}")
