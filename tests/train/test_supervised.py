"""Recipes that learn from what is written: from folder to folder, with settings as words."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from octavo.chat.loading import open_text
from octavo.core.errors import CheckpointError, ConfigError, SampleError, TrainingError
from octavo.core.sample import sample
from octavo.train.gate import Gate
from octavo.train.lessons import problem_of
from octavo.train.models import fresh, read_model, write_model
from octavo.train.recipes import RECIPES, recipe
from octavo.train.run import Run, Silent, read_log
from octavo.train.settings import read_settings
from octavo.train.supervised import Lesson, learn, shuffled
from octavo.weights.checkpoint import open_checkpoint
from tests.serve.mini import config
from tests.train.guesses import guesser, words
from tests.train.minis import told
from tests.train.models import SHAPES, small

LESSON = ("lesson.steps=6", "lesson.samples=8", "lesson.warmup=0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", guesser(), config=config(), tokenizer=words()[0])
    return tmp_path


def go(name: str, folder: Path, *more: str, model: str = "model", out: Path | None = None) -> Path:
    told_words = [f"model={folder}/{model}", f"out={out or folder}/{name}", *more]
    return recipe(name).run(read_settings(recipe(name).Settings, told_words, recipe=name), progress=Silent())


def written(folder: Path, *rows: object) -> str:
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"data={folder}/data.jsonl"


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "Say red"}, {"role": "assistant", "content": text, "thinking": "user"}]


def logprob(folder: Path, text: str) -> float:
    """Of a reply, nats."""
    from octavo.core.messages import Message
    from octavo.nn.context import PackedContext
    from octavo.nn.head import tell
    from octavo.train.batch import pack
    from octavo.train.conversations import Writer

    tokenizer, form = open_text(open_checkpoint(folder))
    one = pack([Writer(form, tokenizer).reply([Message(**m) for m in say(text)])])
    model = read_model(folder)[0]
    with torch.no_grad():
        hidden_ND = model(one.tokens_T, PackedContext(one.lengths))[one.rows_N]
        return float(tell(hidden_ND, model.head_weight, one.targets_N).logprobs_N.sum())


def test_sft_makes_what_is_written_likelier(folder):
    out = go("sft", folder, written(folder, *({"messages": say("blue")} for _ in range(8))), *LESSON)
    assert logprob(out, "blue") > logprob(folder / "model", "blue") + 1
    assert len(read_log(folder / "sft.run")) == 6


@pytest.mark.parametrize(("enough_after", "taken"), [(0, 4), (1, 7), (2, 10), (9, 10)])
def test_a_gate_brings_rounds_until_there_is_enough_and_is_gone_on_with(enough_after: int, taken: int, tmp_path: Path):
    samples, lesson = [sample([1, 2, 3], [1.0, 1.0, 1.0], name="one")], Lesson(steps=4, samples=1, warmup=0, bf16=False)

    def learnt(folder: Path, rounds: int) -> Run:
        asked = list[int]()

        def success() -> float:
            asked.append(1)
            return 0.8 if len(going_on) + len(asked) > enough_after else 0.2

        going_on = [line for line in read_log(folder) if line["figures"]] if (folder / "log.jsonl").exists() else []
        gate = Gate(least=0.5, again=3, rounds=rounds)
        return learn(small("dense"), samples, lesson, run=folder, settings={}, gate=gate, success=success)

    whole, halves = learnt(tmp_path / "whole", 2), tmp_path / "halves"
    learnt(halves, 0)  # as if it had been stopped there
    again = learnt(halves, 2)
    assert len(whole.told) == taken
    assert [line.step for line in whole.told if line.figures] == [*range(4, taken + 1, 3)]
    assert [(line.loss, line.rate, line.figures) for line in again.told] == [
        (line.loss, line.rate, line.figures) for line in whole.told
    ]


def test_sft_with_lora_leaves_a_plain_model_and_an_adapter(folder):
    data = written(folder, *({"messages": say("blue")} for _ in range(8)))
    out = go("sft", folder, data, *LESSON, "lora.rank=4", "lesson.how.rate=0.01", "lesson.how.method=adamw")
    assert logprob(out, "blue") > logprob(folder / "model", "blue") + 1
    assert {path.name for path in (out / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert set(open_checkpoint(out).names) == set(open_checkpoint(folder / "model").names)


def test_sft_refuses_what_it_cannot_learn_and_writes_nothing(folder):
    with pytest.raises(SampleError, match=r"data.jsonl:1 message 1: unknown field 'thoughts'"):
        go("sft", folder, written(folder, {"messages": [say("a")[0], {**say("a")[1], "thoughts": "x"}]}), *LESSON)
    assert not (folder / "sft").exists()


@pytest.mark.parametrize(("rows", "more", "found"), [
    ([""], [], "has no conversations"), ([{"messages": say("blue")}], ["lesson.tokens=9"], "a batch takes 9"),
])  # fmt: skip
def test_what_no_step_could_learn_is_refused_before_the_first(folder, rows, more, found):
    data = written(folder, *rows) if rows != [""] else f"data={folder}/data.jsonl"
    if rows == [""]:
        (folder / "data.jsonl").write_text("\n\n")
    with pytest.raises(SampleError, match=found):
        go("sft", folder, data, *LESSON, *more)
    assert not (folder / "sft.run").exists()


def test_dpo_compares_with_the_model_as_its_own_passes_see_it(folder):
    """Also in bf16, whose rounding is a margin where the reference was computed in float32."""
    rows = [{"prompt": say("")[:1], "chosen": say("blue " * 30)[1:], "rejected": say("tell")[1:]} for _ in range(4)]
    go("dpo", folder, written(folder, *rows), "steps=1", "pairs=4", "warmup=0", "bf16=true", "beta=1")
    assert read_log(folder / "dpo.run")[0]["loss"] == pytest.approx(0.6931, abs=2e-2)


def test_dpo_makes_the_chosen_reply_likelier_than_the_rejected_one(folder):
    rows = [{"prompt": say("")[:1], "chosen": say("blue")[1:], "rejected": say("tell")[1:]} for _ in range(4)]
    out = go("dpo", folder, written(folder, *rows), "steps=8", "pairs=4", "warmup=0", "how.rate=0.003")
    margins = [logprob(place, "blue") - logprob(place, "tell") for place in (folder / "model", out)]
    assert margins[1] > margins[0] + 1
    lines = read_log(folder / "dpo.run")
    assert lines[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and lines[-1]["figures"]["right"] == 1


def test_dpo_refuses_pairs_that_are_the_same(folder):
    row = {"prompt": say("")[:1], "chosen": say("blue")[1:], "rejected": say("blue")[1:]}
    with pytest.raises(SampleError, match=r"data.jsonl:1.*the same"):
        go("dpo", folder, written(folder, row))


def test_dpo_compares_replies_to_one_prompt_only(folder):
    rejected = [{"role": "assistant", "content": "tell"}]
    for row in (
        {"prompt": say("")[:1], "chosen": say("blue")[1:], "rejected": rejected},  # asked in another mode
        {"chosen": say("blue"), "rejected": [{"role": "user", "content": "Say blue"}, say("tell")[1]]},
    ):
        with pytest.raises(SampleError, match=r"data.jsonl:1.*different prompts"):
            go("dpo", folder, written(folder, row))


def test_a_base_model_that_learns_to_chat_ends_its_replies_in_other_programs_too(folder):
    config_file = folder / "model" / "tokenizer_config.json"
    config_file.write_text(json.dumps({**json.loads(config_file.read_text()), "eos_token": "<|endoftext|>"}))
    row = {"prompt": say("")[:1], "chosen": say("blue")[1:], "rejected": say("tell")[1:]}
    for name, data, more in (("sft", {"messages": say("blue")}, LESSON), ("dpo", row, ("steps=1",))):
        out = go(name, folder, written(folder, data), *more)
        ends = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
        assert ends == [words()[0].id_of("<|im_end|>"), words()[0].id_of("<|endoftext|>")]


def test_a_model_is_not_taught_in_another_format_than_it_will_be_asked_in(folder):
    """Without a template its name decides; `SmolLM2` has a system message of its own."""
    told = {**config(), "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    write_model(folder / "SmolLM2-tiny", fresh(told, seed=0), config=told, tokenizer=words()[0])
    question, replies = say("")[:1], [[{"role": "assistant", "content": text}] for text in ("blue", "tell")]
    row = {"messages": question + replies[0], "prompt": question, "chosen": replies[0], "rejected": replies[1]}
    data, task = written(folder, row), 'tasks={"retrieval": [1]}'
    for name, more in (("sft", [data, *LESSON]), ("dpo", [data]), ("rl", [task]),
                       ("distill", [task, f"teacher={folder}/SmolLM2-tiny"])):  # fmt: skip
        with pytest.raises(ConfigError, match="as chatml there, and it would learn as smollm2"):
            go(name, folder, *more, model="SmolLM2-tiny")


def test_a_run_whose_log_lacks_lines_is_not_gone_on_with(folder):
    data, log = written(folder, {"messages": say("blue")}), folder / "sft.run" / "log.jsonl"
    shutil.rmtree(go("sft", folder, data, *LESSON))
    for left in (log.read_text()[:-5], ""):
        log.write_text(left)
        with pytest.raises(TrainingError, match=r"log.jsonl has not all lines of the 6 steps"):
            go("sft", folder, data, *LESSON)


def test_the_only_state_is_there_at_every_moment(folder, monkeypatch: pytest.MonkeyPatch):
    """A run that had learnt all and was stopped before its model was written has nothing new to save."""
    data = written(folder, {"messages": say("blue")})
    shutil.rmtree(go("sft", folder, data, *LESSON))
    with monkeypatch.context() as patch:
        patch.setattr("octavo.train.run.save_state", None)
        go("sft", folder, data, *LESSON)
    assert [path.name for path in (folder / "sft.run").glob("state-*")] == ["state-000000006"]


def test_a_place_that_cannot_be_written_is_told(folder):
    (folder / "file").write_text("")
    with pytest.raises(TrainingError, match=r"file/sft.run cannot be written \(.*\): choose another place"):
        go("sft", folder, written(folder, {"messages": say("blue")}), *LESSON, out=folder / "file")


def test_a_chat_vector_of_a_larger_model_is_refused(folder):
    more = {**config(), "num_hidden_layers": config()["num_hidden_layers"] + 1}
    write_model(folder / "larger", fresh(more, seed=0), config=more, tokenizer=words()[0])
    with pytest.raises(CheckpointError, match="must have one shape"):
        go("chatvector", folder, f"plus={folder}/larger", f"minus={folder}/larger")


def test_chat_vectors_bring_the_difference_and_nothing_else(folder):
    go("sft", folder, written(folder, {"messages": say("blue")}), *LESSON)
    out = go("chatvector", folder, f"plus={folder}/sft", f"minus={folder}/model", model="model")
    wanted = dict(read_model(folder / "sft")[0].named_parameters())
    for name, a in read_model(out)[0].named_parameters():
        b = wanted[name]
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg=name)
    half = recipe("chatvector").Settings(model=str(folder / "model"), plus=str(folder / "sft"), scale=0.0,
                                         minus=str(folder / "model"), out=str(folder / "none"))  # fmt: skip
    recipe("chatvector").run(half)
    with pytest.raises(ConfigError, match="scale=nan"):
        go("chatvector", folder, f"plus={folder}/sft", f"minus={folder}/model", "scale=nan")
    assert logprob(folder / "none", "blue") == logprob(folder / "model", "blue")


def test_chat_vectors_of_experts_are_added_too_and_a_bf16_model_stays_one(tmp_path):
    for seed, name in enumerate(("model", "plus", "minus")):
        write_model(tmp_path / name, small("moe", seed=seed), config=SHAPES["moe"], tokenizer=words()[0],
                    dtype=torch.bfloat16)  # fmt: skip
    out = go("chatvector", tmp_path, f"plus={tmp_path}/plus", f"minus={tmp_path}/minus", "scale=0.5")
    a, plus, minus = (read_model(tmp_path / name)[0].state_dict() for name in ("model", "plus", "minus"))
    for name, found in read_model(out)[0].state_dict().items():
        wanted = a[name] + 0.5 * (plus[name] - minus[name])
        torch.testing.assert_close(found, wanted, atol=0, rtol=2**-8, msg=name)
    assert {open_checkpoint(out).dtype_name(name) for name in open_checkpoint(out).names} == {"BF16"}


def test_a_cold_start_may_be_gated_by_what_it_has_brought(folder):
    gated = (*LESSON, "gate.least=1", "gate.again=2", "gate.rounds=1", "longest=8")
    go("coldstart", folder, 'tasks={"retrieval": [1]}', "count=40", *gated)
    lines = read_log(folder / "coldstart.run")
    assert [line["step"] for line in lines if "success" in line["figures"]] == [6, 8] and lines[-1]["step"] == 8


def test_chat_vectors_of_another_shape_are_refused_by_name(folder):
    from octavo.models import build

    other = {**config(), "intermediate_size": 96}
    write_model(folder / "other", build(other), config=other, tokenizer=words()[0])
    with pytest.raises(CheckpointError, match=r"gate_proj.weight has shape \(96, 64\)"):
        go("chatvector", folder, f"plus={folder}/other", f"minus={folder}/model")


def test_the_cold_start_and_the_fusion_teach_both_modes(folder):
    cold = go("coldstart", folder, 'tasks={"retrieval": [1]}', "count=40", *LESSON)
    assert read_log(folder / "coldstart.run")[-1]["loss"] < read_log(folder / "coldstart.run")[0]["loss"]
    assert open_text(open_checkpoint(cold))[1].name == "qwen3"


def test_tasks_come_as_often_as_they_are_told_to(folder):
    draw, levels = random.Random(0), {"chain": (1,), "retrieval": (1,)}
    found = Counter(problem_of(draw, levels, often={"chain": 3.0}).task for _ in range(400))
    assert 0.68 < found["chain"] / 400 < 0.82
    for name in "coldstart", "fuse":
        with pytest.raises(ConfigError, match="often: 'maze' is none of the tasks: retrieval"):
            go(name, folder, 'tasks={"retrieval": [1]}', 'often={"maze": 2}', *LESSON)
    with pytest.raises(ConfigError, match="direct_often: 'maze' is none"):
        go("fuse", folder, 'tasks={"retrieval": [1]}', 'direct_often={"maze": 2}', *LESSON)


def test_samples_come_once_before_any_comes_again():
    samples = [told(i) for i in range(10)]
    seen = [one.name for step in range(5) for one in shuffled(samples, 4, step=step, seed=0)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == sorted(one.name for one in samples)
    assert seen[:10] != seen[10:]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_short_and_explains_itself(name):
    module = recipe(name)
    assert len(Path(str(module.__file__)).read_text(encoding="utf-8").splitlines()) <= 150
    assert module.__doc__ and issubclass(module.Settings, object) and callable(module.run)
