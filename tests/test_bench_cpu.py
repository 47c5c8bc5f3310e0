"""The arithmetic of `bench.cpu`: rooflines, ratios, bars, and how a worker chooses its setting. Nothing is timed."""

import json

import pytest

from bench import bars
from bench.cpu import CONTENDERS, FIGURES, LARGE, chosen_figures
from bench.machine import Limits, busy_share
from bench.rivals.worker import Measurer, MissingFigure, Order, crowd, prompt
from bench.shapes import SHAPES, reads, tensors
from octavo.models import skeleton

LIMITS = Limits(bandwidth=25e9, bf16=2e12, int8=4e12)
TYPICAL = Limits(bandwidth=20e9, bf16=1e12, int8=2e12)


@pytest.mark.parametrize("name", SHAPES)
def test_a_gguf_has_every_parameter_of_the_model_once(name: str):
    model = skeleton(SHAPES[name])
    count = sum(parameter.numel() for parameter in model.parameters())
    sizes = [tensor.shape for tensor in tensors(SHAPES[name])]
    assert sum(_product(shape) for shape in sizes) == count


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size


def test_a_step_reads_what_the_prototype_was_found_to_read():
    """596 million weights: 335 MB in Q4_0 throughout, 1,192 MB in bf16; 114,688 bytes of cache per token."""
    q4 = next(c for c in CONTENDERS[4] if c.name == "llama.cpp q4_0 pure")
    bf16 = CONTENDERS[16][1]
    assert bars.step_bytes("0.6b", q4, context=0, batch=1, cache="16") == pytest.approx(335e6, rel=0.01)
    assert bars.step_bytes("0.6b", bf16, context=0, batch=1, cache="16") == pytest.approx(1192e6, rel=0.01)
    one = bars.step_bytes("0.6b", bf16, context=1, batch=1, cache="16")
    assert one - bars.step_bytes("0.6b", bf16, context=0, batch=1, cache="16") == 114_688
    assert reads(SHAPES["30b-a3b"]).linears == 48 * 2048 * (2 * 128 * 36 + 3 * 8 * 768 + 128)


def test_a_figure_at_its_limit_has_a_share_of_one():
    contender = CONTENDERS[16][0]
    for name in ("decode_1", "decode_16", "decode_1_at_2048"):
        order = FIGURES[name].order
        assert order is not None
        size = bars.step_bytes("0.6b", contender, context=order.context, batch=order.batch, cache=order.cache)
        value = order.batch * LIMITS.bandwidth / size
        assert bars.share(contender, FIGURES[name], LIMITS, model="0.6b", value=value) == pytest.approx(1)
    least_s = bars.prefill_seconds("0.6b", tokens=512, rate=LIMITS.bf16, attention_rate=LIMITS.bf16)
    found = bars.share(contender, FIGURES["prefill_512"], LIMITS, model="0.6b", value=512 / least_s)
    assert found == pytest.approx(1)
    assert bars.share(contender, FIGURES["load"], LIMITS, model="0.6b", value=1) is None


def _row(name: str, **values: list[float]) -> dict:
    by = {c.name.replace(" ", "_").replace(".", "_"): c for group in CONTENDERS.values() for c in group}
    answers = [(by[key], {"value": v}) for key, found in values.items() for v in found]
    found = {"answers": answers, "limits": LIMITS, "typical limits": TYPICAL, "machine busy": 1.0}
    return bars.row(name, FIGURES[name], found, model="0.6b")


def test_a_ratio_above_one_is_ahead_whichever_way_the_figure_points():
    faster = _row("decode_1", octavo_w8=[40, 42, 44], llama_cpp_q8_0=[20, 21, 22])["contenders"]["llama.cpp q8_0"]
    assert faster["ratio"] == 2 and faster["ratios"] == [2, 2, 2] and faster["median"] == 21
    sooner = _row("requests_64", octavo_w8=[10], llama_cpp_q8_0=[30])["contenders"]["llama.cpp q8_0"]
    assert sooner["ratio"] == 3


def test_bars_go_by_the_best_that_the_machine_allowed():
    row = _row("decode_1", octavo_w8=[40, 42, 44])
    entry = row["contenders"]["octavo w8"]
    assert entry["share"] == pytest.approx(0.8 * entry["share_of_typical"])
    told = {bar["bar"]: bar["value"] for bar in bars.judged({"0.6b at 8 bits": {"decode_1": row}})}
    assert told["1 decode at 8 bits, share of roofline"] == entry["share"]


def test_bars_take_the_better_rival_and_say_what_was_not_measured():
    row = _row("decode_1", octavo_w4=[60], llama_cpp_q4_0=[25], llama_cpp_q4_0_pure=[31], openvino_int4=[26])
    told = {bar["bar"]: bar for bar in bars.judged({"0.6b at 4 bits": {"decode_1": row}})}
    over_llama = told["1 decode at 4 bits over llama.cpp"]
    assert over_llama["value"] == pytest.approx(60 / 31) and over_llama["met"] is False
    assert told["1 decode at 4 bits over OpenVINO"]["met"] is True
    assert told["1 decode at 8 bits over llama.cpp"]["met"] is None
    json.dumps(row)


def test_figures_of_two_runs_are_not_divided_by_each_other():
    one, eight = _row("decode_1", octavo_w4=[60]), _row("decode_8", octavo_w4=[300])
    for commands, value in ((("a", "a"), 5), (("a", "b"), None)):
        one["command"], eight["command"] = commands
        told = {bar["bar"]: bar for bar in bars.judged({"0.6b at 4 bits": {"decode_1": one, "decode_8": eight}})}
        assert told["2 8 streams over one, 4 bits"]["value"] == value


def test_what_a_contender_cannot_do_is_kept_as_its_reason():
    contender = CONTENDERS[8][0]
    answers = [(contender, {"missing": "no such kind"})]
    found = {"answers": answers, "limits": LIMITS, "typical limits": TYPICAL, "machine busy": 0.5}
    row = bars.row("decode_1", FIGURES["decode_1"], found, model="0.6b")
    assert row["contenders"][contender.name] == {"rounds": [], "missing": "no such kind"}
    bars.print_table("title", {"decode_1": row})


class Fake:
    """A runner whose setting b is twice as fast."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []

    def settings(self, order: Order) -> list[str]:
        if order.cache == "int8":
            raise MissingFigure("no int8")
        return ["a", "b"]

    def decode(self, order: Order, setting: str) -> list[float]:
        self.seen.append((order.salt, setting))
        return [{"a": 0.2, "b": 0.1}[setting], {"a": 0.2, "b": 0.1}[setting], 0.7]

    def prefill(self, order: Order, setting: str) -> float:
        return {"a": 0.2, "b": 0.1}[setting]

    def requests(self, work, setting: str) -> float:
        return {"a": 2.0, "b": 1.0}[setting] * len(work)


def test_a_worker_takes_the_fastest_setting_and_keeps_it():
    fake = Fake()
    measurer = Measurer(fake)
    first = measurer.figure(Order(do="decode", batch=4, salt=1))
    assert first["setting"] == "b" and first["value"] == pytest.approx(40) and set(first["tried"]) == {"a", "b"}
    measurer.figure(Order(do="decode", batch=4, salt=2))
    assert measurer.figure(Order(do="decode", batch=4, salt=3, warm=True))["value"] == pytest.approx(40)
    assert [setting for _, setting in fake.seen] == ["a", "b", "b", "b"]
    assert len({salt for salt, _ in fake.seen}) == 3  # no prompt of a measurement was seen before
    assert measurer.figure(Order(do="requests", batch=64))["setting"] == "b"
    assert measurer.figure(Order(do="decode", cache="int8")) == {"missing": "no int8"}
    assert measurer.figure(Order(do="decode", batch=3, mean=True))["value"] == pytest.approx(3 / 0.3)


def test_every_round_has_the_same_lengths_and_other_tokens():
    first, second = crowd(Order(do="requests", batch=64)), crowd(Order(do="requests", batch=64, salt=1))
    assert [(len(p), r) for p, r in first] == [(len(p), r) for p, r in second]
    assert all(32 <= len(p) <= 512 and 16 <= r <= 128 for p, r in first)
    assert not any(a[0][:16] == b[0][:16] for a, b in zip(first, second, strict=True))
    assert prompt(Order(do="decode"), 0, tokens=9) != prompt(Order(do="decode"), 1, tokens=9)


def test_figures_are_chosen_by_name_or_by_beginning():
    assert chosen_figures("decode_1") == ["decode_1"] and "decode_16" in chosen_figures("decode")
    assert chosen_figures("") == list(FIGURES) and "stolen_core" in chosen_figures("load,stolen")
    with pytest.raises(SystemExit, match="names no figure"):
        chosen_figures("speed")
    assert all(group[0].name.startswith("octavo") for group in (*CONTENDERS.values(), LARGE))


def test_an_order_survives_its_line():
    order = Order(do="decode", batch=8, context=2048, cache="int8", salt=7)
    assert Order(**json.loads(order.line())) == order
    assert busy_share((10, 100), (60, 200)) == 0.5
