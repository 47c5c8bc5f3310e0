"""Flows of one conversation: asked, answered, thought about, stopped, measured."""

import re
import time

from bench.browser.stage import Flow, Stage
from tests.serve.page.scripted import Script

THOUGHT = "First I look at both sides of it. " * 12


def streams(stage: Stage) -> str:
    asked = stage.script("streams", Script("One. " * 60, piece_s=0.02))
    with stage.page() as p:
        p.page.fill("#say", "first line")
        p.page.press("#say", "Shift+Enter")
        assert p.page.input_value("#say") == "first line\n"
        p.say(asked)
        p.page.wait_for_selector(".message.live .prose:not(:empty)")
        early = len(p.answers()[0])
        whole = p.answered()
        assert early < len(whole) and whole.strip() == ("One. " * 60).strip()
    return f"{early} of {len(whole)} characters were there early"


def renders_what_models_write(stage: Stage) -> None:
    text = ("## Head\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n```python\ndef f(): return 1\n```\n\nIt is $x^2$, and\n\n"
            "$$\\frac{a}{b}$$\n\nbut $\\frac{$ is none.\n\n"
            "- [link](https://a.example) ![cat](https://b.example/c.png)\n")  # fmt: skip
    with stage.page() as p:
        p.ask(stage.script("renders", text))
        prose = p.page.locator(".prose").last
        assert prose.locator("h2").inner_text() == "Head" and prose.locator("td").count() == 2
        assert prose.locator(".code .k").first.inner_text() == "def"
        assert prose.locator("math msup").count() == 1 and prose.locator('math[display="block"] mfrac').count() == 1
        assert prose.locator("code", has_text="frac{").count() == 1
        assert prose.locator("img").count() == 0 and prose.locator("a.image").inner_text() == "cat"
        link = prose.locator("a").first
        assert link.get_attribute("rel") == "noopener noreferrer nofollow" and link.get_attribute("target") == "_blank"
        prose.get_by_role("button", name="Copy").click()
        assert p.page.evaluate("navigator.clipboard.readText()") == "def f(): return 1\n"


def thinks_in_a_fold(stage: Stage) -> str:
    asked = stage.script("folds", Script("So it is.", thinking=THOUGHT, piece_s=0.02))
    with stage.page() as p:
        p.say(asked)
        p.page.wait_for_selector("details.thought[open]")
        p.page.wait_for_function("() => /Thinking… [1-9]/.test(document.querySelector('.thought-for').textContent)")
        assert p.page.locator("#finish").is_visible()
        p.answered()
        details = p.page.locator("details.thought")
        assert details.get_attribute("open") is None, "it stays open after the answer has begun"
        shown = details.locator("summary").inner_text()
        assert re.fullmatch(r"Thought for [1-9]\d* s", shown), shown
        details.locator("summary").click()
        details.get_by_role("button", name="Copy the thinking").click()
        assert p.page.evaluate("navigator.clipboard.readText()") == THOUGHT
        assert not p.page.locator("#finish").is_visible()
    return shown


def sends_switch_and_budget(stage: Stage) -> None:
    with stage.page() as p:
        for mode, budget in (("On", "512"), ("Off", None), ("Auto", "64"), ("Auto", "")):
            p.page.locator(".switch label", has_text=mode).click()
            if budget is not None:
                p.page.fill("#budget", budget)
            p.ask(f"with {mode} and {budget}")
        bodies = stage.scripted.seen[-4:]
        found = [(b.get("enable_thinking"), b.get("thinking_budget")) for b in bodies]
        assert found == [(True, 512), (False, None), (None, 64), (None, None)], found


def finishes_thinking(stage: Stage) -> None:
    asked = stage.script("for ever", Script("Enough.", thinking=THOUGHT, until_ended=True))
    with stage.page() as p:
        p.say(asked)
        p.page.click("#finish")
        assert p.answered().strip() == "Enough."
        assert stage.scripted.ended[-1] == f"r{len(stage.scripted.seen)}"


def stops(stage: Stage) -> None:
    asked = stage.script("endless", Script("word " * 2000, piece_s=0.05))
    with stage.page() as p:
        gone = stage.scripted.gone
        p.say(asked)
        p.page.wait_for_selector(".message.live .prose:not(:empty)")
        p.page.keyboard.press("Escape")
        p.page.wait_for_selector(".note:has-text('Stopped.')")
        kept = p.answered()
        assert kept.strip() and p.page.locator("#send").is_visible()
        deadline = time.monotonic() + 5
        while stage.scripted.gone == gone or f"r{len(stage.scripted.seen)}" not in stage.scripted.cancelled:
            assert time.monotonic() < deadline, "the server was not told"
            p.page.wait_for_timeout(20)
        p.page.reload()
        p.page.locator(".talk").first.click()
        assert p.answers()[0].strip() == kept.strip()


def shows_figures(stage: Stage) -> str:
    asked = stage.script("figures", Script("word " * 20, thinking="hm " * 8))
    with stage.page() as p:
        p.ask(asked)
        line = p.page.locator(".figures").inner_text()
        assert re.fullmatch(
            r"leaf · 50\.0 tokens/s · first after \d\.\d\d s · \d+ tokens · \d+ of them thinking", line
        ), line
        gauge = p.page.locator("#gauge-bar")
        assert (
            gauge.get_attribute("aria-valuemax") == "4096"
            and 1000 < int(gauge.get_attribute("aria-valuenow") or 0) < 1100
        )
        assert re.search("of 4,096 tokens", p.page.locator("#gauge-text").inner_text())
    return line


def tells_of_errors(stage: Stage) -> None:
    refused = stage.script("too much", Script(status=429, error="the limit of 3 requests a minute is reached."))
    broken = stage.script("breaks", Script("It begins", error="the engine stopped."))
    with stage.page() as p:
        p.say(refused)
        p.page.wait_for_selector(".note.bad:has-text('3 requests a minute')")
        p.say(broken)
        p.page.wait_for_selector(".note.bad:has-text('the engine stopped')")
        assert p.answered(2).strip() == "It begins"
        p.page.route("**/v1/chat/completions", lambda route: route.abort())
        p.say("are you there?")
        p.page.wait_for_function("() => document.querySelectorAll('.message .note.bad').length == 3")


def renders_in_order(stage: Stage) -> None:
    """Renderings that take long, some longer than others: the last one shown is the last one written."""
    asked = stage.script("in order", "".join(f"Sentence {i}. " for i in range(80)))
    delays = iter([0.9, 0.05, 0.6, 0.01, 0.4] * 20)

    def slow(route: object) -> None:
        time.sleep(next(delays))
        route.continue_()  # type: ignore[attr-defined]

    with stage.page() as p:
        p.page.route("**/page/render", slow)
        assert p.ask(asked).strip().endswith("Sentence 79.")


def goes_on_in_the_background(stage: Stage) -> None:
    asked = stage.script("background", Script("slow " * 60, piece_s=0.04))
    with stage.page() as p:
        p.say(asked)
        p.page.wait_for_selector(".message.live .prose:not(:empty)")
        p.page.click("#new")
        assert p.ask("meanwhile").strip() == "You said: meanwhile"
        p.page.locator(".talk", has_text="background").click()
        assert p.answered().strip() == ("slow " * 60).strip()


def picks_a_model(stage: Stage) -> None:
    with stage.page() as p:
        p.page.select_option("#model", "quire")
        p.ask("who?")
        assert stage.scripted.seen[-1]["model"] == "quire"
        p.page.reload()
        p.page.wait_for_function("() => document.querySelector('#model').value == 'quire'")


LISTEN = """() => {
  window.heard = [];
  const note = (one) => one.addedNodes.forEach((node) => heard.push(node.textContent));
  new MutationObserver((all) => all.forEach(note)).observe(document.querySelector("#spoken"), { childList: true });
}"""


def speaks_to_screen_readers(stage: Stage) -> str:
    asked = stage.script("aloud", Script("First paragraph.\n\nSecond paragraph.", thinking="hm " * 30, piece_s=0.02))
    with stage.page() as p:
        p.page.evaluate(LISTEN)
        p.ask(asked)
        heard = p.page.evaluate("heard")
        assert p.page.get_attribute("#spoken", "aria-live") == "polite"
        assert heard == ["Thinking", "First paragraph.", "Second paragraph.", "The answer is complete."], heard
    return " / ".join(heard)


FLOWS: dict[str, Flow] = {
    "an answer streams; Enter sends, Shift+Enter breaks the line": streams,
    "tables, code, formulas, links and images are rendered": renders_what_models_write,
    "thinking is folded, timed, closed by the answer, copied": thinks_in_a_fold,
    "switch and budget of thinking go with each message": sends_switch_and_budget,
    "finish thinking now": finishes_thinking,
    "Escape stops, the server is told, what was said stays": stops,
    "tokens per second, first token, context gauge": shows_figures,
    "errors before, during and instead of an answer are told": tells_of_errors,
    "renderings never overtake each other": renders_in_order,
    "an answer goes on while another conversation is open": goes_on_in_the_background,
    "the model is picked and remembered": picks_a_model,
    "a screen reader hears thinking, paragraphs and the end": speaks_to_screen_readers,
}
