"""A real chromium before real servers, which sees all that a page must not do."""

import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.serve.page.scripted import Script, Scripted

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}

Options = dict[str, Any]


class Missing(RuntimeError):
    """Something that the browser's flows need is not here."""


def chromium() -> str:
    """The browser's path. Raises Missing, also where its driver is missing."""
    clients = ROOT / ".clients" / "py" / "lib"
    sys.path += [str(path) for path in clients.glob("python3.*/site-packages") if str(path) not in sys.path]
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError as cause:
        raise Missing("playwright is not installed: the flows of the browser need it.") from cause
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise Missing("there is no chromium on this machine: the flows of the browser need it.")
    return found


@contextmanager
def browser() -> Iterator[Any]:
    """A browser with a profile of its own."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield made
        finally:
            made.close()


class Stage:
    """What a flow plays on.   scripted: a server of written answers;   real: the address of `octavo serve`, or \"\""""

    def __init__(self, browser: Any, scripted: Scripted, real: str = "") -> None:
        self.browser, self.scripted, self.real = browser, scripted, real
        self.requests = 0

    @contextmanager
    def page(
        self, url: str = "", *, ready: bool = True, errors: bool = False, options: Options | None = None
    ) -> Iterator["Page"]:
        """A page with empty storage. At its end: no script failed, nothing was refused, nobody else was asked.

        ready    wait until it has its models;   errors    scripts of this flow may fail on purpose
        options  how the browser is set up, in playwright's words
        """
        settings = {"viewport": WIDE, "locale": "en-US", **(options or {})}
        context = self.browser.new_context(**settings)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        wrong, base = list[str](), url or self.scripted.url

        def saw(request: Any) -> None:
            self.requests += 1
            if not request.url.startswith((base, "data:", "blob:")):
                wrong.append(f"asked {request.url}")

        def said(message: Any) -> None:
            if re.search("Content Security Policy|TrustedHTML|Trusted Type|Refused to", message.text):
                wrong.append(f"console: {message.text}")

        page = context.new_page()
        context.on("request", saw)
        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.set_default_timeout(10_000)
        try:
            page.goto(base + "/")
            if ready:
                page.wait_for_selector("#model option[value]:not([value=''])", state="attached")
            yield Page(page)
            assert errors or not wrong, wrong
        finally:
            context.close()

    def script(self, asked: str, how: str | Script) -> str:
        """Have the scripted server answer `asked` so. Returns `asked`."""
        self.scripted.scripts[asked] = Script(how) if isinstance(how, str) else how
        return asked


class Page:
    """What a user does, in the words of a user."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def say(self, text: str) -> None:
        self.page.fill("#say", text)
        self.page.press("#say", "Enter")

    def answered(self, count: int = 1) -> str:
        """Wait until `count` answers are whole. The last one's text."""
        done = "[data-phase=over] .prose[data-settled]"
        self.page.wait_for_function(
            "([count, done]) => document.querySelectorAll('.message.assistant').length >= count"
            " && document.querySelectorAll('.message.assistant ' + done).length >= count"
            " && !document.querySelector('.answer[aria-busy=true]')", arg=[count, done])  # fmt: skip
        return self.page.locator(".message.assistant .prose").last.inner_text()

    def ask(self, text: str) -> str:
        """Say it, and wait for one more answer."""
        before = self.page.locator(".message.assistant").count()
        self.say(text)
        return self.answered(before + 1)

    def said(self) -> list[str]:
        """What the user has said, on the page."""
        return self.page.locator(".message.user .said").all_inner_texts()

    def answers(self) -> list[str]:
        return self.page.locator(".message.assistant .prose").all_inner_texts()

    def tool(self, name: str, *, role: str = "assistant", nth: int = -1) -> None:
        """Press a button under a message."""
        message = self.page.locator(f".message.{role}")
        place = message.nth(nth) if nth >= 0 else message.last
        place.hover()
        place.get_by_role("button", name=name, exact=True).first.click()

    def regenerate(self, *, versions: int = 2) -> str:
        """Have the last answer made anew, which makes so many of it. The new one's text."""
        self.tool("Regenerate")
        self.page.wait_for_selector(f".place:has-text('{versions}/{versions}')")
        return self.answered()

    def beside(self, talk: str) -> "Page":
        """Another tab of this browser, with the conversation of that name."""
        other = Page(self.page.context.new_page())
        other.page.goto(self.page.url)
        other.page.locator(".talk", has_text=talk).click()
        other.answered()
        return other

    def storage(self) -> str:
        """Everything that is kept in this browser, as one text."""
        return self.page.evaluate(
            """async () => {
              const open = indexedDB.open("octavo", 1);
              const database = await new Promise((resolve) => (open.onsuccess = () => resolve(open.result)));
              const all = database.transaction("conversations").objectStore("conversations").getAll();
              const talks = await new Promise((resolve) => (all.onsuccess = () => resolve(all.result)));
              return JSON.stringify([talks, {...localStorage}, {...sessionStorage}]);
            }"""
        )


Flow = Callable[[Stage], str | None]


@contextmanager
def folder() -> Iterator[Path]:
    """For what a flow writes."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)
