"""Templates of other models: text as `transformers` gives it, nothing runs away, the right choice."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
import pytest

from octavo.core.errors import FormatError
from octavo.core.messages import Message
from octavo.text.chat import FORMATS, choose_format, jinja_engine
from octavo.text.chat.jinja_format import JinjaFormat, as_template_message
from octavo.text.tokenizer import Tokenizer
from tests.text.chats import (
    CHATML,
    OFF,
    PIECES,
    Templated,
    call,
    conversation,
    official_text,
    says,
    specs,
    templates,
    tool,
    user,
)


@pytest.mark.slow
def test_every_template_gives_what_transformers_makes_of_it(templated: Templated):
    """All that the package trl carries: conversations that one refuses, the other refuses."""
    from transformers.utils.chat_template_utils import render_jinja_template

    equal = refused = 0
    names = sorted(path.stem for path in templates().glob("*.jinja"))
    assert len(names) > 60
    for name in names:
        engine = jinja_engine.Template(official_text(name))
        for seed in range(8):
            random_ = random.Random(f"{name} {seed}")
            messages = [as_template_message(m) for m in conversation(random_, tools=seed % 2 == 0, calls=1)]
            tools = [spec.as_openai() for spec in specs(random_)] if seed % 3 == 0 else None
            more: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"} | (
                {"enable_thinking": False} if seed % 4 else {}
            )
            try:
                theirs = render_jinja_template(
                    [messages],
                    tools=tools,
                    chat_template=official_text(name),
                    add_generation_prompt=bool(seed % 2),
                    **more,
                )[0][0]
            except (jinja2.TemplateError, TypeError, ValueError, AttributeError) as error:
                theirs = f"refused: {type(error).__name__}"
            given = {
                "messages": messages,
                "tools": tools,
                "documents": None,
                "add_generation_prompt": bool(seed % 2),
                **more,
            }
            if theirs.startswith("refused: "):
                refused += 1
                with pytest.raises(FormatError):
                    engine.render(given)
            else:
                equal += 1
                assert engine.render(given) == theirs, (name, seed)
    assert equal > 300 and refused > 10


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "deepseekv3", "glm4moe", "qwen3_5_think", "nemotron_3_nano"])
def test_calls_are_given_as_the_template_takes_them(name: str, qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    """DeepSeek's wants JSON text, and no text beside a call: else it fails, or leaves the call out."""
    monkeypatch.setattr(qwen, "chat_template", official_text(name))
    text = JinjaFormat(qwen).render([user("q"), says(calls=(call("weather", city="Ulm"),)), tool("21C")]).text
    assert all(word in text for word in ("weather", "city", "Ulm", "21C"))


def test_threads_do_not_disturb_each_other(templated: Templated):
    """The server renders prompts in several: whose generation marks are whose?"""
    turn = "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    form = JinjaFormat(templated("{% for m in messages %}{{ m.role }}: " + turn + "{% endfor %}"))
    talk = [user("a"), says("b")] * 200
    expected = form.render(talk, reply=False)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: form.render(talk, reply=False), range(24)))
    assert all(rendered == expected for rendered in found)


def test_without_generation_blocks_the_last_reply_is_the_mask(templated: Templated):
    form = JinjaFormat(tokenizer := templated(CHATML))
    tokens, weights = form.render([user("a"), says("b"), user("c"), says("d")], reply=False).tokens_and_weights(
        tokenizer
    )
    assert tokenizer.decode([t for t, w in zip(tokens, weights, strict=True) if w]) == "d<|im_end|>"
    assert set(form.render([user("a"), says("b"), user("c")]).tokens_and_weights(tokenizer)[1]) == {0.0}


def test_what_is_learnt_from_a_template(qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(qwen, "chat_template", official_text("qwen3"))
    form, native = JinjaFormat(qwen, generation_config={"eos_token_id": [151645, 151643]}), FORMATS["qwen3"]()
    assert form.markers(qwen) == native.markers(qwen)
    assert (form.thinks, form.tags, form.turn_open) == (native.thinks, native.tags, native.turn_open)
    monkeypatch.setattr(qwen, "chat_template", official_text("deepseek_r1_distill"))
    distilled = JinjaFormat(qwen)
    assert (distilled.thinks, distilled.recommended(True).temperature) == ("always", 0.6)
    with pytest.raises(FormatError, match="always thinks"):
        distilled.render([user("a")], thinking=OFF)
    with pytest.raises(FormatError, match="no place for tools"):
        distilled.render([user("a")], tools=specs(random.Random(1)))


# --- which format a model speaks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("qwen3", "qwen3"),
        ("qwen3_instruct_2507", "qwen3_instruct"),
        ("qwen2_5", "qwen2_5"),
        ("llama3", "llama3"),
        ("llama3_1", "llama3_1"),
        ("llama3_2", "llama3_2"),
        ("qwen3_training", "jinja"),  # keeps thinking where the official one cuts it
        ("qwen3_5_think", "jinja"),
        ("gemma3", "jinja"),
    ],
)
def test_a_template_decides(
    template: str, expected: str, qwen: Tokenizer, llama: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    tokenizer = llama if template.startswith("llama") else qwen
    monkeypatch.setattr(tokenizer, "chat_template", official_text(template))
    begun = time.perf_counter()
    assert choose_format(tokenizer, model_type="any", name="any").name == expected
    assert time.perf_counter() - begun < 5  # measured 0.03 to 0.12 s


def test_a_template_that_says_something_else_is_used_itself(qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    """The least change must not be rendered away."""
    text = official_text("qwen3")
    changes = [
        ("# Tools", "# tools"),
        ("'\\n</think>\\n\\n'", "'\\n</think>\\n'"),
        ("loop.last or (not loop.last and reasoning_content)", "reasoning_content"),
        ("'<think>\\n\\n</think>\\n\\n'", "'<think></think>'"),
        ("\\n<tool_response>\\n", "<tool_response>\\n"),
        ("tool_call.arguments | tojson", "tool_call.arguments | tojson(indent=1)"),
        ("ns.last_query_index", "ns.last_query_indeX"),
    ]
    for old, new in changes:
        assert old in text
        changed = (
            text.replace(old, new) if "indeX" not in new else text.replace("loop.index0 > ns.last_query_index", "true")
        )
        monkeypatch.setattr(qwen, "chat_template", changed)
        assert choose_format(qwen, model_type="qwen3", name="Qwen3-8B").name == "jinja", (old, new)


def test_the_small_model_speaks_its_own_format(smollm: Tokenizer, templated: Templated):
    assert choose_format(smollm, model_type="llama", name="SmolLM2-135M-Instruct").name == "smollm2"
    assert choose_format(templated(CHATML), model_type="llama", name="x").name == "chatml"


@pytest.mark.parametrize(
    ("model_type", "name", "expected"),
    [
        ("qwen3", "Qwen/Qwen3-0.6B", "qwen3"),
        ("qwen3_moe", "Qwen/Qwen3-30B-A3B-Thinking-2507", "qwen3_thinking"),
        ("qwen3", "Qwen/Qwen3-4B-Instruct-2507", "qwen3_instruct"),
        ("qwen2", "Qwen/Qwen2.5-7B-Instruct", "qwen2_5"),
        ("qwen2", "Qwen/Qwen2-7B-Instruct", "qwen2"),
        ("llama", "HuggingFaceTB/SmolLM2-360M-Instruct", "smollm2"),
        ("llama", "other", "chatml"),
    ],
)
def test_without_a_template_tokens_and_name_decide(model_type: str, name: str, expected: str, templated: Templated):
    assert choose_format(templated(None), model_type=model_type, name=name).name == expected


def test_a_base_model_is_told_to_be_one(qwen_ranks: Path):
    bare = Tokenizer.from_tiktoken(qwen_ranks, added=[("<|endoftext|>", True)])
    with pytest.raises(FormatError, match="base model"):
        choose_format(bare, model_type="qwen3", name="Base")
    with pytest.raises(FormatError, match="no chat template"):
        JinjaFormat(bare)


# --- templates that fail, and templates that mean harm ---------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["{% if %}", "{{ x", "{% for %}", "{{ messages | nosuchfilter }}", "(" * 5, "x" * (2 << 20)]
)
def test_text_that_is_no_template_is_refused(text: str, templated: Templated):
    if text == "(" * 5:  # text without any tags is a template, of which nothing can be learnt
        assert choose_format(templated(text), model_type="m", name="n").render([user("a")]).text == text
        return
    with pytest.raises(FormatError, match="chat template"):
        choose_format(templated(text), model_type="m", name="n")


@pytest.mark.parametrize(
    "expression",
    [
        "raise_exception('roles must alternate')",
        "messages[7].content.x",
        "''.__class__.__mro__[1].__subclasses__()",
        "messages.append(1)",
        "messages[0].update({'role': 'x'})",
        "cycler.__init__.__globals__",
        "raise_exception.__globals__['json']",
        "('%s' | attr('format')).__self__.x",
        "1 // 0",
        "'a' + 1",
        "messages | tojson(indent='x', bad=1)",
        "'x' * 10 ** 9",
        "'x' * 999999999",
        "[1] * 999999999",
        "9 ** 9 ** 9",
        "range(10 ** 9) | list",
        "range(999999999) | list",
        "lipsum(999999999)",
        "undefined_name()",
    ],
)
def test_failing_and_harmful_expressions_are_one_error(expression: str):
    template = jinja_engine.Template("{{ " + expression + " }}")
    given = {"messages": [{"role": "user", "content": "a"}]}
    begun = time.perf_counter()
    with pytest.raises(FormatError, match="does not take this conversation"):
        template.render(given)
    assert time.perf_counter() - begun < 5
    assert given == {"messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_templates_that_run_away_are_stopped(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jinja_engine, "LIMIT_S", 0.5)
    begun = time.perf_counter()
    with pytest.raises(FormatError):
        jinja_engine.Template(text).render({"messages": []})
    assert time.perf_counter() - begun < 10


def test_a_template_cannot_be_spoilt_by_an_earlier_conversation(templated: Templated):
    form = JinjaFormat(
        templated("{% set x = namespace(n=0) %}{% for m in messages %}{% set x.n = x.n + 1 %}{% endfor %}{{ x.n }}")
    )
    assert [form.render([user("a")] * n).text for n in (1, 3, 1)] == ["1", "3", "1"]


def test_the_reason_of_a_template_is_shown():
    refusing = jinja_engine.Template("{{ raise_exception('Conversation roles must alternate') }}")
    with pytest.raises(FormatError, match="Conversation roles must alternate"):
        refusing.render({"messages": []})


def test_going_on_is_refused_where_turns_have_no_end(templated: Templated):
    form = JinjaFormat(tokenizer := templated("{% for m in messages %}{{ m.content }} {% endfor %}"))
    with pytest.raises(FormatError, match="end"):
        form.extend([1], [user("a")], tokenizer)


def test_other_models_tool_calls_go_on(qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    """Templates of other families over Qwen's ids: prompt + reply + going on is the longer conversation."""
    for name in ("qwen3_5_think", "qwen3_instruct_2507", "lfm2_v2"):
        monkeypatch.setattr(qwen, "chat_template", official_text(name))
        form = JinjaFormat(qwen)
        asks = says("txt", calls=(call("f", x=1),), thinking="t" if form.thinks != "never" else None)
        talk: list[Message] = [user("q"), asks]
        longer = form.render([*talk, tool("<|im_end|>" + PIECES[0])])
        shorter = form.render(talk, reply=False)
        end = form.ends[0]
        so_far = longer.text[: longer.text.index(end, longer.text.index("txt")) + len(end)]
        assert end in shorter.text
        tokens = form.extend(qwen.encode(so_far, special=True), [tool("<|im_end|>" + PIECES[0])], qwen)
        assert qwen.decode(tokens) == longer.text
