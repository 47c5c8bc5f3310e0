"""Every class of attack that servers of this kind fell to, as a law.   Rows: pickle, code of models, templates, media
addresses, amplified parameters, grammars, files, no key and rebinding, the page, other tenants, supply chain.
"""

import ast
import asyncio
import json
import re
import socket
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from octavo.chat import load
from octavo.core.errors import OctavoError
from tests.serve.gateway.desk import Desk
from tests.serve.knocking import BODY, CHAT, OPTIONS, Headers, ask, raw
from tests.serve.mini import mini_qwen3
from tests.serve.serving import Served, serving

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving([f"mini={mini_qwen3()}"], folder=tmp_path_factory.mktemp("served"), options=OPTIONS) as one:
        yield one


def engines_of(served: Served) -> list[int]:
    """Process ids of the server's engines."""
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
    return sorted(map(int, children))


# Pickle, and code that comes with models


def test_nothing_in_the_package_can_run_what_it_reads():
    """No import of a module that turns bytes into objects with code, no call that runs text; law of the whole tree."""
    modules = {"pickle", "marshal", "dill", "shelve", "cloudpickle", "yaml", "joblib", "jsonpickle"}
    calls = re.compile(r"torch\.load|yaml\.load|.*read_pickle|eval|exec|numpy\.load|np\.load")
    for path in (ROOT / "octavo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {a.name.split(".")[0] for a in node.names} | {(getattr(node, "module", "") or "").split(".")[0]}
                assert not names & modules, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert not calls.fullmatch(called), f"{path}: {called}"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_checkpoints_that_are_pickles_are_refused(name: str, tmp_path: Path):
    for file in mini_qwen3().iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n(S'exit 3'\ntR.")
    with pytest.raises(OctavoError):
        load(str(tmp_path), offline=True)


def test_a_config_that_names_code_is_data(tmp_path: Path):
    """auto_map names a module of the folder: it is never imported, and the model is what Octavo knows."""
    for file in mini_qwen3().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    try:
        load(str(tmp_path), offline=True)
    except OctavoError as refusal:
        assert "auto_map" in str(refusal)
    assert not (tmp_path / "ran").exists()


# Templates, and addresses of media


@pytest.mark.parametrize("fields", [
    {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
    {"chat_template_kwargs": {"chat_template": "{% for i in range(10**9) %}{% endfor %}"}},
    {"chat_template_kwargs": {"tools_in_user_message": True}},
])  # fmt: skip
def test_requests_bring_no_templates(served: Served, fields: dict[str, object]):
    """Neither as a field, which is ignored and said so, nor among the template's words, of which few are known."""
    answer = ask(served, **fields)
    if "chat_template" in fields:
        assert answer.status_code == 200 and "chat_template" in answer.headers["x-ignored-fields"]
    else:
        assert answer.status_code == 400 and "chat_template_kwargs" in answer.json()["error"]["param"]


def test_template_language_in_messages_stays_text(served: Served):
    text = "{{ 7 * 191 }} {% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}"
    answer = ask(served, messages=[{"role": "user", "content": text}], max_tokens=1)
    longest = ask(served, messages=[{"role": "user", "content": "x" * 20}], max_tokens=1).json()["usage"]
    assert 20 < answer.json()["usage"]["prompt_tokens"] - longest["prompt_tokens"] + 20 < 200


@pytest.mark.parametrize("part", ["image_url", "video_url", "audio_url", "input_image", "file"])
def test_no_address_in_a_message_is_fetched(served: Served, part: str):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.3)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/secret"
        answer = ask(served, messages=[{"role": "user", "content": [{"type": part, part: {"url": url}}]}])
        assert answer.status_code == 400 and "text only" in answer.json()["error"]["message"]
        with pytest.raises(TimeoutError):
            trap.accept()


def test_schemas_fetch_no_references(served: Served):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.3)
        schema = {"$ref": f"http://127.0.0.1:{trap.getsockname()[1]}/schema.json"}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        assert ask(served, response_format=form).status_code == 400
        with pytest.raises(TimeoutError):
            trap.accept()


# Parameters that ask for more than a request should


def schema(value: object) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}}


def nested(depth: int) -> object:
    found: object = {"type": "integer"}
    for _ in range(depth):
        found = {"type": "array", "items": found}
    return found


TOO_MUCH: list[dict[str, object]] = [
    {"n": 129}, {"n": 0}, {"n": -1}, {"stop": ["x"] * 17}, {"stop": ["y" * 1025]}, {"stop": [""]},
    {"logit_bias": {str(i): 1 for i in range(1025)}}, {"logit_bias": {"99999999": 1}}, {"logit_bias": {"-1": 1}},
    {"logprobs": True, "top_logprobs": 21}, {"logprobs": True, "top_logprobs": -1}, {"max_tokens": 0},
    {"max_tokens": -5}, {"max_tokens": 1 << 40}, {"max_tokens": 10**30}, {"seed": 1 << 64}, {"seed": 10**40},
    {"temperature": -1}, {"temperature": 1e9}, {"top_p": 2}, {"top_k": -2}, {"presence_penalty": 3},
    {"repetition_penalty": 0}, {"thinking_budget": 10**30}, {"thinking_token_budget": -2},
    {"messages": [{"role": "user", "content": "x"}] * 10_001}, {"messages": []},
    {"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(257)]},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": 10**30}}}]},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": nested(65)}}]},
    {"metadata": {str(i): "x" for i in range(65)}}, {"metadata": {"x": "y" * 40_000}}, {"cache_salt": "x" * 1025},
    schema({"enum": ["x" * 70_000]}), schema(nested(65)), schema({"type": "nothing"}), schema({"multipleOf": 10**12}),
    schema({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}), schema({"multipleOf": 1e-300}),
    {"structured_outputs": {"regex": "(a|b){2,3}" * 500}}, {"structured_outputs": {"regex": "(?=x)y"}},
    {"structured_outputs": {"choice": [str(i) for i in range(1025)]}},
    {"structured_outputs": {"choice": ["x" * 40_000]}}, {"structured_outputs": {"choice": [1, None]}},
    {"structured_outputs": {"choice": [""]}}, {"structured_outputs": {"regex": 5}},
]  # fmt: skip


@pytest.mark.parametrize("fields", TOO_MUCH, ids=lambda fields: str(fields)[:40])
def test_what_asks_for_too_much_is_refused_by_name(served: Served, fields: dict[str, object]):
    answer = ask(served, **fields)
    assert answer.status_code == 400, answer.text[:300]
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and len(error["message"]) < 1000


@pytest.mark.parametrize("body", [
    b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"messages":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}",
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"messages": [{"role": "user", "content": "\xff"}]}',
    b'{"x": NaN, "messages": []}', b'{"seed": 1e999, "messages": [{"role":"user","content":"x"}]}', b"[]", b"", b"{",
    b'"x"', b"null", b'{"messages": [{"role": "user", "content": "x"}], "\\udc00": 1}',
])  # fmt: skip
def test_json_that_is_broken_or_bottomless_is_refused(served: Served, body: bytes):
    answer = served.client.post(CHAT, content=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_names_of_unknown_fields_write_no_headers(served: Served):
    answer = ask(served, **{"a\r\nset-cookie: x=1\r\n\r\nHTTP/1.1 200 OK": 1, "ü": 2})
    assert answer.status_code == 200 and "set-cookie" not in answer.headers
    assert "\n" not in answer.headers["x-ignored-fields"]


# Grammars


NASTY = [
    {"structured_outputs": {"regex": "(a|b)*a(a|b){20}"}}, {"structured_outputs": {"regex": "((a{0,99}){0,99}){0,99}"}},
    {"structured_outputs": {"regex": "(a*)*b(x*)*(.*a){30}"}}, {"structured_outputs": {"regex": "(a+)+$"}},
    schema({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1000)}}),
    schema({"anyOf": [{"type": "object", "properties": {f"p{i}": {"type": "string", "pattern": f"[a-z]{{{i}}}"}
                                                        for i in range(20)}} for _ in range(60)]}),
    schema({"$ref": "#"}), schema({"type": "integer", "multipleOf": 9973}),
    schema({"type": "array", "minItems": 10_000, "items": {"type": "integer"}}),
]  # fmt: skip


def test_no_grammar_holds_up_others_or_ends_the_engine(served: Served):
    """Each is done or refused; meanwhile a plain request is answered in time, by the same process."""
    engines, waits = engines_of(served), list[float]()

    async def all_at_once() -> list[int]:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
            thinking = {"enable_thinking": False, "max_tokens": 24}
            tasks = [asyncio.create_task(client.post(CHAT, json={**BODY, **thinking, **f})) for f in NASTY]
            while not all(task.done() for task in tasks):
                began_s = time.perf_counter()
                assert (await client.post(CHAT, json={**BODY, "max_tokens": 1})).status_code == 200
                waits.append(time.perf_counter() - began_s)
            return [task.result().status_code for task in tasks]

    assert set(asyncio.run(all_at_once())) <= {200, 400}
    assert engines_of(served) == engines
    assert max(waits) < 5


@pytest.mark.parametrize("path", [CHAT, "/tokenize", "/v1/messages/count_tokens"])
def test_megabytes_of_prompt_hold_up_nobody(served: Served, path: str):
    """Cut into tokens they took 30 s, in which nobody else was served."""
    text = "hello you there " * 500_000
    body = {"model": "mini", "prompt": text} if path == "/tokenize" else {**BODY, "messages": [
        {"role": "user", "content": text}]}  # fmt: skip
    began_s = time.perf_counter()
    answer = served.client.post(path, json=body)
    assert answer.status_code == 400 and "characters" in answer.text
    assert time.perf_counter() - began_s < 5


# Files


def test_files_of_models_are_fuzzed():
    """GGUF, safetensors, config and tokenizer: thousands of damaged ones; the figures are kept and may not be worse."""
    found = json.loads((ROOT / "bench/results/fuzz_files.json").read_text())
    assert found["files"] >= 2000 and not found["crash"] and not found["hang"] and not found["half_loaded"]
    assert any(kind.startswith("GGUF") for kind in found["targets"])


def test_no_path_of_a_request_reaches_a_file(served: Served):
    for path in ("/static/../../etc/passwd", "/static/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd",
                 "/v1/models/../../etc/passwd", "//etc/passwd", "/static//etc/passwd", "/static/%00"):  # fmt: skip
        sent = raw(served, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert sent.split()[1] in (b"404", b"400", b"307"), (path, sent[:200])
        assert b"root:" not in sent


# Who may come in


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", ""])
def test_names_that_are_not_the_servers_are_turned_away(served: Served, host: str):
    """A page whose name was rebound to the loopback sends its own name (CVE-2024-28224)."""
    answer = served.client.get("/v1/models", headers={"host": host})
    assert answer.status_code == 421 and "--allow-host" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1234", "127.0.0.1", "[::1]:80", "LOCALHOST", "models.example"]
)
def test_the_servers_own_names_are_let_in(served: Served, host: str):
    assert served.client.get("/v1/models", headers={"host": host}).status_code == 200


def test_a_host_has_to_be_named_once(served: Served):
    for hosts in ("", "Host: localhost\r\nHost: evil.example\r\n"):
        sent = raw(served, f"GET /v1/models HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
        assert sent.split()[1] == b"400"


ELSEWHERE = [{"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://localhost.evil.example"},
             {"sec-fetch-site": "cross-site"}]  # fmt: skip


@pytest.mark.parametrize("headers", ELSEWHERE)
def test_pages_of_other_sites_may_do_nothing(served: Served, headers: Headers):
    """Not even with the type of a form, for which browsers ask no leave first; nothing lets them read answers."""
    simple = {**headers, "content-type": "text/plain"}
    answers = [served.client.post(CHAT, content=json.dumps(BODY), headers=simple),
               served.client.options(CHAT, headers={**headers, "access-control-request-method": "POST"})]  # fmt: skip
    for answer in answers:
        assert answer.status_code in (403, 405)
        assert not any(name.startswith("access-control-") for name in answer.headers)
    assert answers[0].status_code == 403


def test_an_origin_that_was_named_may_ask_and_read(served: Served):
    origin = {"origin": "https://app.example"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    leave = served.client.options(CHAT, headers={**origin, **asked})
    assert leave.status_code == 204 and leave.headers["access-control-allow-origin"] == "https://app.example"
    assert leave.headers["access-control-allow-headers"] == "authorization"
    answer = ask(served, origin)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://app.example"
    assert ask(served, {"origin": served.url}).status_code == 200  # the server's own page


def test_without_a_key_nothing_is_open_but_the_page_and_the_sign_of_life(tmp_path: Path):
    """Deny by default (CVE-2025-63389): every route that there is, and others. `/session` asks for the key itself."""
    key = Desk(tmp_path).key("someone")
    with serving([f"mini={mini_qwen3()}"], folder=tmp_path, wait=False) as served:
        document = served.client.get("/openapi.json", headers=key).json()
        paths = [(method.upper(), re.sub(r"\{\w+\}", "x", path)) for path, methods in document["paths"].items()
                 for method in methods]  # fmt: skip
        paths += [("GET", "/nothing"), ("POST", "/admin"), ("POST", "/"), ("PUT", "/v1/models"), ("GET", "/static2/x"),
                  ("POST", "/static/x"), ("HEAD", "/metrics"), ("GET", "/static/../metrics")]  # fmt: skip
        wrong = {"authorization": key["authorization"][:-1] + "~"}
        for headers in ({}, wrong, {"x-api-key": "ok-nothing"}, {"cookie": "octavo_session=x"}):
            found = {one: served.client.request(*one, headers=headers).status_code for one in paths}
            free = {one for one, status in found.items() if status != 401}
            assert free <= {("GET", "/"), ("GET", "/health/live"), ("GET", "/static/x"), ("GET", "/session"),
                            ("POST", "/session"), ("DELETE", "/session")}, free  # fmt: skip
        assert found["GET", "/health/live"] == 200 and len(found) > 30
        assert served.client.post("/session", json={"key": "ok-wrong"}).status_code == 401
        assert served.client.get("/metrics", headers=key).status_code == 200


# Other tenants


def test_prompts_of_another_space_are_not_found_in_the_cache(served: Served):
    """Else times tell what others asked: each tenant and each cache_salt has a space of its own."""

    def cached(salt: str) -> int:
        messages = [{"role": "user", "content": "tell me a very particular secret " * 6}]
        used = ask(served, messages=messages, cache_salt=salt).json()["usage"]
        return used["prompt_tokens_details"]["cached_tokens"]

    assert cached("a") == 0 and cached("a") > 30 and cached("b") == 0 and cached("b") > 30


# Supply chain


def test_dependencies_are_few_ranged_and_have_no_import_hooks():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert all(re.search(r">=[\d.]+,<\d", wanted) for wanted in project["dependencies"])
    assert not list((ROOT / "octavo").rglob("*.pth"))
