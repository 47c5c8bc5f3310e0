"""Templates that mean harm get hold of little memory and time; what chats need works as in Jinja's own sandbox."""

import json
import time
import tracemalloc
from typing import Any

import jinja2
import pytest
from jinja2.ext import loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from octavo.core.errors import FormatError
from octavo.text.chat import jinja_engine
from octavo.text.chat.jinja_engine import GenerationBlock, Template
from tests.text.chats import official_text, templates

TIME_S, LIMIT_S = 5, 0.7
TALK = {"messages": [{"role": "user", "content": "a b"}], "tools": [{"é": [1, None], "b": "<"}]}
BIG = "{% set big = 'x' * 4000000 %}"
DEEP = (  # a list that holds itself so often that its text would have 2 ** 60 items
    "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}"
    "{% set ns.b = (ns.b, ns.b) %}{% endfor %}"
)
EXPRESSIONS = [
    "'x'.ljust(100000000)", "'x'.rjust(100000000)", "'x'.center(100000000)", "'x'.zfill(100000000)",
    "'x\t'.expandtabs(100000000)", "'ab'.translate({97: 'x' * 4000000})", "'x'['ljust'](100000000)",
    "('x' | attr('ljust'))(100000000)", "(['x'] | map(attribute='ljust') | first)(100000000)",
    "(5).to_bytes(100000000)", "'x'.encode().ljust(100000000)", "dict.fromkeys(range(99999))",
    "'x' | center(100000000)", "'x' | indent(100000000, true)",
    "'x' | wordwrap(1, wrapstring='y' * 4000000)", "5 | round(-100000000)", "[1] | batch(100000000, 2) | list",
    "[1] | slice(100000000) | list", "[[1] * 1000000] | sum(start=[])", "[1, 2] | tojson(indent=100000000)",
    "[1, 2] | tojson(separators=('x' * 4000000, ':'))", "'%100000000s' % 'a'", "'%.100000000f' % 1",
    "'%*d' % (100000000, 1)",
    "'%(a)100000000s' % {'a': 1}", "'%((a)b)100000000s' % {'(a)b': 1}", "'%100000000s' | format(1)",
    "'{:>100000000}'.format('a')", "'{0:{1}}'.format('a', 100000000)", "'{a:100000000}'.format_map({'a': 1})",
    "strftime_now('%c' * 1000000)", "['x'] | map('center', 100000000) | list",
    "('a' * 2000).replace('a', 'b' * 2000).replace('b', 'c' * 2000)", "('a' * 4000) | replace('', 'b' * 4000)",
    "'x' * 4000000 * 2", "[[1] * 4000] * 4000", "range(99999) | map('string') | join('x' * 4000)",
]  # fmt: skip
PROGRAMS = [
    "{% set ns = namespace(a='ab') %}{% for i in range(99) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
    "{% set ns = namespace(a='ab') %}{% for i in range(99) %}{% set ns.a = '%s%s' % (ns.a, ns.a) %}{% endfor %}",
    "{% set ns = namespace(a='ab') %}{% for i in range(99) %}{% set ns.a = ns.a.replace('b', 'abb') %}{% endfor %}",
    "{% set ns = namespace(a='ab') %}{% for i in range(99) %}{% set ns.a = [ns.a, ns.a] | join %}{% endfor %}",
    "{% set ns = namespace(a=9) %}{% for i in range(99) %}{% set ns.a = ns.a * ns.a %}{% endfor %}",
    "{% set ns = namespace(a=[]) %}{% for i in range(999) %}{% set ns.a = [ns.a, 'x' * 4000000 ~ i] %}{% endfor %}",
    "{% set ns = namespace() %}{% for i in range(99999) %}{% set ns.a = [ns.a, [" + "1," * 999 + "]] %}{% endfor %}",
    "{% set ns = namespace() %}{% for i in range(99999) %}{% set ns.a = [ns.a, tools[:]] %}{% endfor %}{{ ns.a }}",
    "{% set ns = namespace() %}{% for i in range(60) %}{% set ns = namespace(a=ns, b=ns) %}{{ {}[ns].x }}{% endfor %}",
    DEEP, DEEP + "{{ ns.a }}", DEEP + "{{ ns.a ~ '' }}", DEEP + "{{ ns.a | tojson }}", DEEP + "{{ ns.b in {ns.b: 1} }}",
    DEEP + "{{ raise_exception(ns.a) }}",
    BIG + "{% for i in range(9999) %}{{ big }}{% endfor %}", BIG + "{{ [big] * 1000 }}", BIG + "{{ big.split('x') }}",
    BIG + "{% set many = range(9999) | map('replace', 1, big) | list %}{{ [big, big, big] | join }}",
    BIG + "{{ range(9999) | map('default', big) | map('upper') | list }}", BIG + "{{ '{0}{0}'.format(big) }}",
    "{% set x %}{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}{% endset %}",
    "{% macro m() %}{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}{% endmacro %}{{ m() }}",
    "{% filter upper %}{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}{% endfilter %}",
    "{% set l = range(99999) | list %}{% for a in l %}{% for b in l %}{% endfor %}{% endfor %}",
    "{% set l = range(99999) | list %}{{ l | select('in', l | map('string') | list) | list }}",
    ("{{ 'a' | replace('a', '" + "b" * 999 + "') | replace('b', '" + "c" * 999 + "') }}") * 450,
    "{% for i in range(9999) %}{{ ('😀' * 1000000) | list | length }}{% endfor %}",
]  # fmt: skip


@pytest.mark.parametrize("text, most_bytes", [*(("{{ " + expression + " }}", 50 << 20) for expression in EXPRESSIONS),
                                              *((program, 400 << 20) for program in PROGRAMS)])  # fmt: skip
def test_harm_is_refused_before_it_is_done(text: str, most_bytes: int, monkeypatch: pytest.MonkeyPatch):
    """Of a program, 256 MiB are allowed, and an operation more."""
    monkeypatch.setattr(jinja_engine, "LIMIT_S", LIMIT_S)
    tracemalloc.start()
    begun = time.perf_counter()
    try:
        with pytest.raises(FormatError, match="chat template"):
            Template(text).render(TALK)
        assert time.perf_counter() - begun < TIME_S
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


USEFUL = [
    "{{ messages }}|{{ none }}|{{ 1.5 }}|{{ x }}|{{ messages[0] ~ 1 ~ x ~ [1, ('a', 2)] }}",
    "{{ 'abc'[::-1] }}{{ [1, 2, 3][1:] }}{{ 'ab'[5] }}{{ 'a-b'.replace('-', '+', 1) }}{{ 'ab'.replace('', '.') }}",
    "{{ 'aaa' | replace('a', 'b', 2) }}{{ 'aaa' | replace('a', 'b', count=1) }}{{ 12 | replace(1, 3) }}",
    "{{ ', '.join(['a', 'b']) }}{{ [1, 2] | join(', ') }}{{ messages | map(attribute='content') | join('|') }}",
    "{{ messages | join('|', attribute='role') }}{{ messages | join('|', 'role') }}{{ [] | join(',') }}",
    "{{ '%s %05.1f%%' % ('a', 2) }}{{ '%(a)s' % {'a': 1} }}{{ '%s-%s' | format(1, 2) }}{{ 7 % 4 }}",
    "{{ '{} {:>5} {a[0]}'.format(1, 'x', a='yz') }}{{ '{:,}'.format(12345) }}", "{{ 'a\nb\n\nc' | indent(2, true) }}",
    "{{ 'a\n\nb' | indent(2, true, true) }}",
    "{{ 'a\nb' | indent('>', blank=true) }}{{ [3, 1] | sort | list }}{{ {'b': 1, 'a': 2} | dictsort }}",
    "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{{ loop.index }}{% else %}no{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ m.content.split(' ')[-1].strip() }}{% break %}{% endfor %}",
    "{% for a in [[1], [2, [3]]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}",
    "{% macro m(a, b=[1]) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}{{ m(1) }}{% call m(2) %}x{% endcall %}"
    "{% set x %}a{{ 1 }}{% endset %}{{ x }}{% set x | upper %}b{% endset %}{{ x }}",
    "{% filter upper | trim %} c {% endfilter %}{% for a in [1, 2] %}{% if a == 1 %}{% continue %}{% endif %}{{ a }}"
    "{% endfor %}",
    "{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a * 2 }}{{ 'ab' * 2 }}{{ 2 * [1] }}{{ [1] + [2] }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ [1, 2] | select('odd') | first }}",
    "{{ messages[0].get('content', '') | trim | upper }}{{ messages[0] | items | list }}{{ (1, 2) }}{{ 'b' | string }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{{ dict(a=1) }}{{ range(3) | list }}{{ ('x' | attr('upper'))() }}{{ 2.0 * 3 }}",
    "{{ 'x' if messages is defined and messages[0]['role'] in ['user', 'tool'] else 'y' }}{{ '<' | escape | safe }}",
    "{{ cycler('a', 'b').next() }}{{ joiner(',')() }}{{ [1, 1] | unique | list }}{{ 'ABC'.startswith(('a', 'b')) }}",
]  # fmt: skip


WITHHELD = [
    "batch", "center", "filesizeformat", "forceescape", "groupby", "pprint", "random", "round", "slice", "striptags",
    "sum", "truncate", "urlencode", "urlize", "wordwrap", "xmlattr",
]  # fmt: skip


@pytest.mark.parametrize("name", WITHHELD)
def test_a_filter_that_is_withheld_is_refused_where_it_is_used_and_nowhere_else(name: str):
    text = "{% macro m(x) %}{{ x | " + name + " }}{% endmacro %}"
    assert Template(text + "a").render(TALK) == "a"
    for used in ("m(1)", f"[1] | map('{name}') | list"):
        with pytest.raises(FormatError, match=f"filter.*'{name}'"):
            Template(text + "{{ " + used + " }}").render(TALK)


@pytest.mark.parametrize("text", USEFUL)
def test_what_is_bounded_says_what_it_says_in_jinjas_sandbox(text: str):
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    assert Template(text).render(TALK) == plain.from_string(text).render(TALK) != ""


def test_a_conversation_as_long_as_a_models_context_is_rendered():
    """Of a million tokens: bounds are for templates, not for talks."""
    talk = [{"role": "user", "content": "so what? " * 1000} for _ in range(450)]
    text = (
        "{% set all = messages %}{% for m in all %}{% set c = m.content | trim %}{% if '</x>' in c %}{% set c ="
        " c.split('</x>')[-1].lstrip() %}{% endif %}{{ '<' ~ m.role ~ '>' + c.strip() + '<end>' }}{% endfor %}"
    )
    assert Template(text).render({"messages": talk}).count("<end>") == 450


@pytest.mark.parametrize(
    "options", [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": True, "sort_keys": True}]
)
def test_json_is_that_of_python(options: dict[str, Any]):
    value = {"é": [1, None, True, 1.5, "<'\n\u2028", {}, [], {"b": {"a": [[]]}}], "a": ""}
    text = "{{ value | tojson(**options) }}"
    assert Template(text).render({"value": value, "options": options}) == json.dumps(
        value, **{"ensure_ascii": False} | options
    )


def test_the_names_that_a_template_reads_are_those_that_jinja_finds():
    for name in sorted(path.stem for path in templates().glob("*.jinja")):
        tree = jinja2.Environment(extensions=[GenerationBlock, loopcontrols]).parse(official_text(name))
        known = {"raise_exception", "strftime_now"}
        assert Template(official_text(name)).variables == find_undeclared_variables(tree) - known, name
