"""Flows before the real `octavo serve` with a real, tiny model that talks nonsense in the right format."""

import re

import httpx

from bench.browser.stage import Flow, Page, Stage, folder
from octavo.serve.page.routes import POLICY
from tests.serve.gateway.desk import Desk
from tests.serve.mini import mini_random
from tests.serve.serving import serving

THINKER = "thinker"  # a model that always thinks, as its name lets its format begin


def settings(p: Page, values: dict[str, float]) -> None:
    """Fill the panel of sampling."""
    p.page.click("#settings")
    for name, value in values.items():
        p.page.fill(f"#sampling-{name}", str(value))
    p.page.locator("#panel [data-close]").click()


def answers(stage: Stage) -> str:
    with stage.page(stage.real) as p:
        settings(p, {"max_tokens": 40, "seed": 1})
        p.page.locator(".switch label", has_text="Off").click()
        p.ask("Hello")
        line = p.page.locator(".figures").inner_text()
        assert re.fullmatch(r"mini · [\d.,]+ tokens/s · first after [\d.]+ s · \d+ tokens", line), line
        assert "of 4,096 tokens" in p.page.inner_text("#gauge-text")
        assert p.page.locator("details.thought:not([hidden])").count() == 0
    return line


def thinks_within_its_budget(stage: Stage) -> str:
    with stage.page(stage.real) as p:
        p.page.select_option("#model", THINKER)
        settings(p, {"max_tokens": 80, "seed": 2})
        p.page.locator(".switch label", has_text="On").click()
        p.page.fill("#budget", "24")
        p.ask("Think!")
        line = p.page.locator(".figures").inner_text()
        found = re.search(r"(\d+) of them thinking", line)
        assert found and 0 < int(found[1]) <= 24, line
        assert p.page.locator("details.thought summary").inner_text().startswith("Thought for")
        assert p.page.locator(".thought-text").text_content()
    return f"{found[1]} tokens of thinking, 24 allowed"


def stops_and_goes_on(stage: Stage) -> None:
    with stage.page(stage.real) as p:
        settings(p, {"seed": 3})
        p.say("Go on and on")
        p.page.wait_for_selector(".message.live")
        p.page.wait_for_timeout(100)
        p.page.click("#stop")
        p.page.wait_for_selector(".note:has-text('Stopped.')")
        settings(p, {"max_tokens": 10})
        p.regenerate()
        assert p.page.locator(".figures").inner_text()


def says_the_same_with_the_same_seed(stage: Stage) -> None:
    with stage.page(stage.real) as p:
        settings(p, {"max_tokens": 30, "seed": 4, "temperature": 1})
        p.page.locator(".switch label", has_text="Off").click()
        first = p.ask("Say something")
        assert p.regenerate() == first


def compares(stage: Stage) -> str:
    with stage.page(stage.real) as p:
        p.page.click("#compare-open")
        p.page.select_option("#compare-two", "second")
        for side in ("one", "two"):
            p.page.select_option(f"#compare-{side}-mode", "off")
        p.page.fill("#compare-say", "Hi")
        p.page.press("#compare-say", "Enter")
        p.page.wait_for_selector("#votes:not([hidden])", timeout=90_000)
        p.page.click("#vote-tie")
        names = sorted(p.page.locator("#board h2").all_inner_texts())
        assert {name[3:].split(" ")[0] for name in names} == {"mini", "second"}, names
    return " / ".join(names)


# Press the button as soon as it is there; some seeds have the model stop thinking before that.
PRESS = """() => {
  const finish = document.querySelector("#finish");
  if (finish.hidden) return document.querySelector(".message:last-child [data-phase=over]") && "over";
  finish.click();
  return "pressed";
}"""


def ends_thinking_live(stage: Stage) -> str:
    with stage.page(stage.real) as p:
        p.page.select_option("#model", THINKER)
        settings(p, {"temperature": 2})
        p.page.locator(".switch label", has_text="On").click()
        for seed in range(1, 20):
            settings(p, {"seed": seed})
            p.say("Think for ever")
            if p.page.wait_for_function(PRESS).json_value() == "pressed":
                break
            p.page.keyboard.press("Alt+n")
        p.page.wait_for_selector("[data-phase=answering], [data-phase=over]")
        assert p.page.locator(".notice").count() == 0, p.page.locator(".notice").all_inner_texts()
        p.page.keyboard.press("Escape")
        shown = p.page.locator("details.thought summary").inner_text()
        assert shown.startswith("Thought for"), shown
        return shown


def logs_in_with_a_key(stage: Stage) -> str:
    """A server with a key of its own; the page's session is a cookie that scripts cannot read."""
    with folder() as place:
        key = Desk(place).key("page")["authorization"].removeprefix("Bearer ")
        with serving([f"mini={mini_random()}"], folder=place, wait=False) as served:
            with stage.page(served.url, ready=False) as p:
                p.page.wait_for_selector("#log-in[open]")
                p.page.fill("#key", key)
                p.page.press("#key", "Enter")
                p.page.wait_for_selector("#log-in", state="hidden")
                settings(p, {"max_tokens": 8, "seed": 1})
                p.ask("Hello")
                assert p.page.locator(".figures").inner_text()
                assert key not in p.storage() and p.page.evaluate("document.cookie") == ""
                p.page.click("#log-out")
                p.page.wait_for_selector("#log-in[open]")
            with httpx.Client(base_url=served.url) as client:
                return f"without a key: {client.post('/page/render', json={'text': 'a'}).status_code}"


def comes_under_the_policy(stage: Stage) -> str:
    with httpx.Client(base_url=stage.real) as client:
        for path in ("/", "/static/main.js", "/static/style.css", "/static/icon.svg"):
            assert client.get(path).headers["content-security-policy"] == POLICY
        assert client.post("/page/render", json={"text": "<b>"}).json()["html"] == "<p>&lt;b&gt;</p>\n"
    return POLICY


FLOWS: dict[str, Flow] = {
    "octavo serve: answers, with figures and gauge": answers,
    "octavo serve: thinks within the budget": thinks_within_its_budget,
    "octavo serve: stops, and answers again": stops_and_goes_on,
    "octavo serve: the same seed says the same": says_the_same_with_the_same_seed,
    "octavo serve: compares two models": compares,
    "octavo serve: finishes thinking at once": ends_thinking_live,
    "octavo serve: with keys, the page logs in and out": logs_in_with_a_key,
    "octavo serve: the page comes under its policy": comes_under_the_policy,
}
