"""The whole suite, small: every stage is made, examined, and not made again; and a kill costs nothing."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from msgspec.structs import replace

from octavo.core.errors import TrainingError
from octavo.core.sampling import Thinking
from octavo.tasks import TASKS
from octavo.tasks.forms import FORMS
from octavo.tasks.retrieval import NAMES as PEOPLE
from octavo.tasks.retrieval import THINGS
from octavo.text.tokenizer import Tokenizer
from octavo.train.measure import problems_of
from octavo.train.mini import suite
from octavo.train.mini.card import CURVES, NAMES, ship
from octavo.train.mini.evidence import Claim, Evidence, table
from octavo.train.mini.exam import MODES
from octavo.train.mini.plan import LEVELS, Reading, plan
from octavo.train.mini.reading import looked_up
from octavo.train.mini.suite import LOOK, Suite
from octavo.train.mini.texts import AGAIN, ANSWERS, WORKS, Blend, document, prose, slipped, sought
from octavo.train.models import fresh, read_model
from octavo.train.run import Silent, read_log

STAGES = ("teacher-1-general", "teacher-2-reasoning", "teacher-3-long", "teacher-cold", "teacher-rl", "teacher-fused",
          "teacher", "student-1-general", "student-2-reasoning", "student-3-long", "student-off", "student-rl",
          "student", "experts-1-general", "experts-2-reasoning", "experts-3-long", "experts")  # fmt: skip
EXAMS = ("teacher-cold", "teacher-rl", "teacher-fused", "teacher", "student-off", "student-rl", "student", "experts")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Killed on the way, then gone on with: the folder, and how many stages were there at the kill."""
    out = tmp_path_factory.mktemp("mini") / "mini"
    command = [sys.executable, "-m", "octavo", "train", "mini", f"out={out}", "scale=smoke"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while first.poll() is None and not (out / "teacher-rl").is_dir():
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("*/model.safetensors")}
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, before


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_every_stage_leaves_a_model_in_the_official_layout(made):
    out, _ = made
    for name in STAGES:
        files = {path.name for path in (out / name).iterdir()}
        assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
                "stage.json"} <= files  # fmt: skip


@pytest.mark.slow
def test_what_was_there_at_the_kill_was_not_made_again(made):
    out, before = made
    assert len(before) >= 4
    for path in out.glob("*/model.safetensors"):
        assert before.get(path.parent.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns


def test_a_folder_with_another_suite_is_refused(tmp_path):
    Suite(tmp_path / "a", plan("smoke"), seed=1)
    Suite(tmp_path / "a", plan("smoke"), seed=1)
    with pytest.raises(TrainingError, match="another folder"):
        Suite(tmp_path / "a", plan("smoke"), seed=2)


@pytest.mark.slow
def test_stages_change_the_model_and_the_third_its_rotary_base(made):
    out, _ = made
    models = [read_model(out / name) for name in ("teacher-2-reasoning", "teacher-3-long", "teacher-cold", "teacher")]
    for (one, _), (other, _) in pairwise(models):
        assert not torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)
    assert [config["rope_theta"] for _, config in models] == [1e4, 1e5, 1e5, 1e5]


@pytest.mark.slow
def test_exams_say_what_was_asked_and_how_sure_it_is(made):
    out, _ = made
    for name in EXAMS:
        found = json.loads((out / "exams" / f"{name}.json").read_text())
        for family in ("retrieval", "format"):
            for mode in MODES:
                share = found[family][mode]["greedy"]["accuracy"]
                assert share["count"] == 10 and 0 <= share["low"] <= share["value"] <= share["high"] <= 1
    curve = json.loads((out / "exams" / "teacher.json").read_text())["budgets"]["retrieval"]
    assert all(one["all"]["most_thinking"] <= int(budget) for budget, one in curve.items())


@pytest.mark.slow
def test_transformers_reads_what_came_of_it(made):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, _ = made
    words = AutoTokenizer.from_pretrained(out / "student")
    asked = [{"role": "user", "content": "Look up Mia: Mia: boat, Tom: lamp, Ana: hat"}]
    ids = words.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    theirs = AutoModelForCausalLM.from_pretrained(out / "student", dtype=torch.float32)
    with torch.no_grad():
        logits = theirs(**ids).logits[0]
    from octavo.nn.context import PackedContext

    model, _ = read_model(out / "student")
    tokens = ids["input_ids"][0]
    with torch.no_grad():
        ours = model.logits(model(tokens, PackedContext([len(tokens)])))
    torch.testing.assert_close(ours, logits, atol=1e-4, rtol=0)


def test_documents_are_functions_of_seed_and_number():
    blend = Blend(levels={"chain": (1, 2), "stories": (1,)}, slips=0.5)
    texts = [document(blend, seed=3, number=i) for i in range(60)]
    assert texts == [document(blend, seed=3, number=i) for i in range(60)]
    assert texts != [document(blend, seed=4, number=i) for i in range(60)]
    assert 0.3 < sum(any(work in text for work in WORKS) for text in texts) / len(texts) < 0.7
    assert len(set(texts)) > 50


def test_a_working_and_an_answer_begin_in_all_wordings():
    texts = [document(Blend(levels={"chain": (2,)}, worked=1, prose=0), seed=0, number=i) for i in range(400)]
    for wordings in WORKS, ANSWERS:
        counts = [sum(wording in text for text in texts) for wording in wordings]
        assert min(counts) > 400 / len(wordings) / 3


def test_half_of_the_bare_problems_are_those_whose_answer_can_be_seen():
    blend = Blend(levels={"chain": (1,), "stories": (1,), "retrieval": (1,)}, worked=0, prose=0, seen=("retrieval",))
    texts = [document(blend, seed=0, number=i) for i in range(300)]
    looked = sum(re.split(r"\s", text)[-1] in THINGS for text in texts)
    assert 0.55 < looked / len(texts) < 0.78  # half, and a third of the rest


def test_a_text_with_a_tool_holds_the_call_and_what_it_brought():
    for worked in (0, 1):
        blend = Blend(levels={"tools": (1,)}, worked=worked, prose=0)
        texts = [document(blend, seed=0, number=i) for i in range(60)]
        calls = [[line for line in text.split("\n") if '{"name": ' in line] for text in texts]
        names = [[json.loads(line)["name"] for line in some] for some in calls]
        assert all(some in (["day"], ["calc"], ["points"], []) for some in names)
        assert 0.6 < sum(map(len, names)) / len(texts) < 0.95  # one problem in five takes none
        for text in [text for text, call in zip(texts, calls, strict=True) if call]:
            answer = text.split()[-1]
            assert re.search(rf"\}}\n{re.escape(answer)}( --|\n)", text)  # as the tool said


def test_texts_hold_more_of_what_is_to_come_more_often():
    levels = {"chain": (1,), "stories": (1,), "format": (1,)}
    for often, share in ({}, 1 / 3), ({"format": 4.0}, 2 / 3):
        blend = Blend(levels=levels, prose=0, often=often)
        texts = [document(blend, seed=0, number=i) for i in range(600)]
        forms = sum(any(form in text for form in FORMS) for text in texts)
        assert abs(forms / len(texts) - share) < 0.06


def test_a_slip_changes_one_sign_into_another_of_its_kind():

    for seed in range(50):
        changed = slipped("7+5=2", random.Random(seed))
        apart = [(a, b) for a, b in zip("7+5=2", changed, strict=True) if a != b]
        assert len(apart) <= 1 and all(b.isdigit() for _, b in apart)
    assert prose(random.Random(0)) != prose(random.Random(1))


@pytest.mark.parametrize("kind", ["things", "owners", "words", "rows", "values", "neighbours"])
def test_a_list_says_everything_again_as_often_as_it_should(kind):
    blend = Blend(levels={}, prose=1, listed=1, lists=(kind,))
    for number in range(20):
        lines = Counter(written := document(blend, seed=0, number=number).split("\n"))
        same = kind in ("things", "rows", "values")
        if kind == "words":
            first = written[: len(written) // (AGAIN + 1)]
            backwards = [" ".join([name, *said[::-1]]) for name, *said in map(str.split, first)]
            ways = [set(first), {line.upper() for line in first}, set(backwards)]
            same = ways.index(set(written[len(first) :])) == 0
        told = AGAIN + same  # the others are told in other words at first
        assert Counter(lines.values())[told] >= 3 and set(lines.values()) <= {1, told}


def test_what_is_looked_for_stands_in_the_list_below_it():
    blend = Blend(levels={}, prose=1, listed=1, lists=("sought",))
    assert document(blend, seed=0, number=1).count("Look up") == AGAIN + 1
    for number in range(50):
        before, after = sought(random.Random(number))
        name = before.removeprefix("Look up ").split(":")[0]
        assert f"\n{name} {after.strip()}" in before


def test_what_older_texts_made_is_refused(tmp_path, monkeypatch):
    tiny = replace(plan("smoke"), readings=(replace(plan("smoke").readings[0], steps=1),))
    Suite(tmp_path, tiny).pretrain("teacher", tiny.teacher)
    monkeypatch.setattr(suite, "EDITION", 0)
    with pytest.raises(TrainingError, match="another plan"):
        Suite(tmp_path, tiny).pretrain("teacher", tiny.teacher)


def test_a_plan_may_change_for_what_is_not_made_yet_and_only_there(tmp_path):
    first, *others = plan("smoke").readings
    tiny = replace(plan("smoke"), readings=(replace(first, steps=4),))
    path = Suite(tmp_path, tiny).pretrain("teacher", tiny.teacher)
    before = (path / "model.safetensors").stat().st_mtime_ns
    longer = replace(tiny, longest=49, readings=(*tiny.readings, replace(others[0], steps=4, blend=first.blend)))
    assert Suite(tmp_path, longer).pretrain("teacher", tiny.teacher) == tmp_path / "teacher-2-reasoning"
    assert (path / "model.safetensors").stat().st_mtime_ns == before
    for changed in (replace(tiny, readings=(replace(first, steps=5),)), replace(tiny, vocabulary=361)):
        with pytest.raises(TrainingError, match="another plan"):
            Suite(tmp_path, changed).pretrain("teacher", tiny.teacher)
    with pytest.raises(TrainingError, match="let `octavo train mini"):
        Evidence.of(tmp_path)


def test_time_of_a_stage_that_was_killed_on_the_way_counts(tmp_path, monkeypatch: pytest.MonkeyPatch):
    class Killed(Silent):
        @contextmanager
        def begin(self, name, *, steps, done):
            def show(told):
                if told.step == 3:
                    raise KeyboardInterrupt

            yield show

    small = replace(plan("smoke"), readings=(replace(plan("smoke").readings[0], steps=4),))
    kept = {}
    for mark_s in 0.0, 1e9:
        monkeypatch.setattr(suite, "MARK_S", mark_s)
        made = Suite(tmp_path / str(mark_s), small, progress=Killed())
        made.tokenizer()
        made.mark()
        before_s = made.about["seconds"]
        with pytest.raises(KeyboardInterrupt):
            made.pretrain("teacher", small.teacher)
        lines = read_log(made.folder / "runs/teacher-1-general")
        found = json.loads((made.folder / "mini.json").read_text())["seconds"] - before_s
        kept[mark_s] = found, sum(line["seconds"] for line in lines[:2])
    assert kept[0.0][0] >= kept[0.0][1] > 0 == kept[1e9][0]


class Knower:
    """Says what comes next, in these lists only."""

    def __init__(self, words: Tokenizer, *begin: str) -> None:
        self.words, self.begin = words, begin

    def __call__(self, tokens, ctx):
        knows = self.words.decode(tokens.tolist()).startswith(self.begin)
        return torch.cat([tokens[1:], tokens[:1]]) if knows else torch.zeros_like(tokens)

    def parameters(self):
        return [torch.zeros(1)]

    def logits(self, said):
        return torch.nn.functional.one_hot(said, 400).float()


def test_looking_up_is_seen_where_it_is_learnt_and_only_there(tmp_path):
    words = Suite(tmp_path, plan("smoke")).tokenizer()
    assert looked_up(Knower(words, ""), words) == 1  # type: ignore
    assert looked_up(Knower(words, "Look up"), words) == 0  # type: ignore
    assert looked_up(Knower(words, *PEOPLE), words) == 0  # type: ignore


def test_a_gate_ends_a_stage_and_only_where_it_is_reached(tmp_path):
    for gate, steps in ((1e-9, LOOK), (1.0, LOOK + 5)):
        blend = Blend(levels={}, prose=1, listed=1, lists=("things", "sought"))
        reading = Reading(name="lists", steps=LOOK + 5, documents=16, rate=8e-3, blend=blend, gate=gate)
        small = replace(plan("smoke"), readings=(reading,))
        made = Suite(tmp_path / str(gate), small).pretrain("teacher", small.teacher, share=0.1)
        card = json.loads((made / "stage.json").read_text())
        assert card["steps"] == steps and 0 < card["looked_up"] < 0.9, card


def test_a_first_stage_that_fails_is_begun_with_other_numbers(tmp_path):
    blend = Blend(levels={}, prose=1, listed=1, lists=("things",))
    reading = Reading(name="lists", steps=2, documents=16, blend=blend, gate=1.0, tries=2)
    small = replace(plan("smoke"), readings=(reading,))
    made = Suite(tmp_path, small).pretrain("teacher", small.teacher)
    first, second = (tmp_path / f"teacher-1-lists{tried}/model.safetensors" for tried in ("", "-again-1"))
    assert made == second.parent and first.read_bytes() != second.read_bytes()
    assert Suite(tmp_path, small).pretrain("teacher", small.teacher) == made
    free = replace(plan("smoke"), readings=(replace(reading, gate=0.0),))
    assert Suite(tmp_path / "other", free).pretrain("teacher", small.teacher).name == "teacher-1-lists"


def test_problems_of_an_exam_are_different_and_held_out():
    problems = problems_of(TASKS["chain"], (1, 2, 3), count=60)
    assert len({p.key for p in problems}) == 60 and {p.level for p in problems} == {1, 2, 3}
    assert all(p.id.startswith("test") and p.thinking == Thinking() for p in problems)


def test_plans_grow_with_their_scale():
    short, wide, long = plan("short"), plan("wide"), plan("long")
    assert set(short.levels) < set(wide.levels) < set(long.levels) == set(LEVELS)
    assert len(short.levels) >= 6 and len(wide.levels) >= 10
    steps = [sum(r.steps for r in one.readings) for one in (short, wide, long)]
    assert steps[0] < steps[1] < steps[2] / 2
    rows = {one.scale: [_parameters(size, one) for size in (one.teacher, one.student)] for one in (wide, long)}
    assert rows["long"][0] > 2 * rows["wide"][0] and rows["long"][1] > 2 * rows["wide"][1]
    assert 2 * sum(rows["long"]) < 40e6  # bytes of what is shipped, in bf16


def _parameters(size, one):
    config = size.config(vocabulary=one.vocabulary, context_tokens=one.context_tokens, rope_theta=1e4)
    return sum(p.numel() for p in fresh(config, seed=0).parameters())


@pytest.mark.slow
def test_cards_are_made_from_the_exams(made):
    out, _ = made
    evidence = Evidence.of(out)
    assert {claim.bar for claim in evidence.claims()} == {1, 2, 3, 4, 5}
    killed = Evidence(about={**evidence.about, "seconds": 0.0}, exams=evidence.exams, cards=evidence.cards)
    assert 0 < killed.claims()[0].value <= evidence.claims()[0].value  # what mini.json lost, the stages have kept
    for stage, name in NAMES.items():
        text = (out / name / "README.md").read_text()
        assert f"{evidence.points(stage, 'retrieval', 'thinking'):.1f} (" in text and "| 5 |" in text
        assert read_model(out / name)[1]["dtype"] == "bfloat16"
    assert "<svg" in (out / NAMES["teacher"] / CURVES).read_text()
    assert "| NO |" in table([evidence])  # a smoke run meets few of them


@pytest.mark.slow
def test_a_plan_may_be_without_the_experts(made, tmp_path):
    out, _ = made
    few = tmp_path / "mini"
    shutil.copytree(out, few, ignore=lambda _, names: [name for name in names if name.startswith("experts")])
    suite = Suite(few, plan("smoke", experts=False))
    assert suite.experts(few / "teacher") == []
    with pytest.raises(TrainingError, match="whole plan"):
        Evidence.of(few)
    suite.end()
    assert [path.name for path in ship(few)] == list(NAMES.values())
    with_them, without = ((folder / NAMES["teacher"] / "README.md").read_text() for folder in (out, few))
    assert "experts: both" in with_them and "experts: both" not in without
    (minutes, *claims), (all_minutes, *all_claims) = Evidence.of(few).claims(), Evidence.of(out).claims()
    assert [claim.what for claim in claims] == [claim.what for claim in all_claims]
    assert minutes.what == f"{all_minutes.what}, without the experts"


def test_a_claim_is_met_within_its_bounds_only():
    assert Claim(bar=1, what="", value=2, least=2).met and not Claim(bar=1, what="", value=1.9, least=2).met
    assert Claim(bar=1, what="", value=2, most=2).met and not Claim(bar=1, what="", value=2.1, most=2).met


def test_a_folder_without_exams_is_no_evidence(tmp_path):
    with pytest.raises(TrainingError, match="student-rl"):
        Evidence.of(tmp_path)


def test_a_share_of_a_gain_of_few_problems_is_none():
    def share(**cuts: dict[str, float]) -> float:
        curve = {budget.strip("b"): {"cut": cut} for budget, cut in cuts.items()}
        exam = {"countdown": {"thinking": {}, "shows": "search"}, "budgets": {"countdown": curve}}
        return Evidence(about={}, cards={}, exams={"teacher": exam}).half("countdown")

    early = {"count": 200, "right": 0.2, "least": 0.1, "most": 0.5}
    last = {"count": 44, "right": 0.5, "least": 0.0, "most": 0.5}  # itself compared with itself
    assert share(b0={}, b8=early, b256=last) == 25 and share(b0={}, b256=last) == 0
    late = {"count": 64, "right": 0.3, "least": 0.27, "most": 0.3}  # two problems
    assert share(b8=early, b112=late, b256=last) == 25 and share(b112=late, b256=last) == 0
