"""The page's routes: strict headers, files that are all there, rendering only for those who may ask."""

import re
from importlib.resources import files

import httpx
import pytest

from octavo.serve.page.markdown import LONGEST
from octavo.serve.page.routes import LONGEST_BODY, static
from tests.serve.page.scripted import Scripted, running
from tests.serve.page.words import words_of

# Ways to write HTML or run text that go round the page's policy.
WRITES = re.compile(r"\.innerHTML\s*=(?! policy\.createHTML)|insertAdjacentHTML|outerHTML\s*=|document\.write|\beval\("
                    r"|new Function|\son\w+=\"")  # fmt: skip


@pytest.fixture(scope="module")
def client():
    with running(Scripted()) as server, httpx.Client(base_url=server.url) as client:
        yield client


def test_the_page_comes_under_a_strict_policy(client: httpx.Client):
    for path in ("/", "/static/main.js", "/static/style.css"):
        headers = client.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert (
            policy["default-src"] == "'none'"
            and policy["frame-ancestors"] == "'none'"
            and policy["base-uri"] == "'none'"
        )
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'" and policy["trusted-types"] == "octavo"
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


def test_every_file_that_the_page_names_is_there(client: httpx.Client):
    named = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', client.get("/").text))
    for name, (_, data) in static().items():
        if name.endswith(".js"):
            named |= {f"/static/{other}" for other in re.findall(r'from "\./([^"]+)"', data.decode())}
    assert len(named) > 10
    for path in named:
        assert client.get(path).status_code == 200, path
    for path in ("/static/nothing.js", "/static/..%2froutes.py", "/static/%2e%2e/routes.py"):
        assert client.get(path).status_code == 404


def test_a_file_that_did_not_change_is_not_sent_again(client: httpx.Client):
    first = client.get("/static/main.js")
    again = client.get("/static/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_rendering_is_bounded_and_names_what_is_wrong(client: httpx.Client):
    assert client.post("/page/render", json={"text": "*a*"}).json() == {"html": "<p><em>a</em></p>\n"}
    assert client.post("/page/render", json={"text": "x" * (LONGEST + 1)}).status_code == 413
    assert client.post("/page/render", content=b" " * (LONGEST_BODY + 1)).status_code == 413
    for wrong in (b"", b"[]", b"{}", b'{"text": 1}', b'{"text": "\\ud800"}'):
        assert client.post("/page/render", content=wrong).status_code == 400


def test_who_is_not_known_reads_files_but_has_nothing_rendered():
    with running(Scripted(key="sk-x")) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/").status_code == 200
        assert client.post("/page/render", json={"text": "a"}).status_code == 401


def test_files_are_small_and_name_no_other_place():
    for file in files("octavo.serve.page").joinpath("static").iterdir():
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, file.name
        outside = set(re.findall(r"https?://[\w./-]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not outside, f"{file.name}: {outside}"
        assert not WRITES.search(text), file.name


def test_every_word_is_there_in_three_languages_and_every_key_is_used():
    table = words_of(static()["words.js"][1].decode())
    everything = "\n".join(data.decode() for name, (_, data) in static().items() if name != "words.js")
    for key, (english, chinese, japanese) in table.items():
        filled = re.findall(r"\{\w+\}", english)
        assert english and sorted(re.findall(r"\{\w+\}", chinese)) == sorted(
            re.findall(r"\{\w+\}", japanese)
        ) == sorted(filled)
        assert re.search(rf'["\']{key}["\']|\b{key}:', everything), f"nothing says {key!r}"
    for asked in re.findall(r'data-t(?:-label|-placeholder)?="(\w+)"', everything):
        assert asked in table, asked
