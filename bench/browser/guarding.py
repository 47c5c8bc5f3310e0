"""Flows of an attacker, of a stranger, and of those who see or hold the page otherwise."""

from functools import cache
from typing import Any

from bench.browser.stage import PHONE, ROOT, Flow, Options, Page, Stage
from tests.serve.page.payloads import all_payloads
from tests.serve.page.scripted import Script, Scripted, running

BATCH = 40  # payloads in one answer


def executes_nothing(stage: Stage) -> str:
    """Every payload as an answer, shown and touched: `trip` is never called, no dialog opens, nothing is asked for."""
    payloads, dialogs = all_payloads(), list[str]()
    with stage.page() as p:
        p.page.on("dialog", lambda dialog: dialogs.append(dialog.message) or dialog.dismiss())
        p.page.evaluate("() => { window.tripped = 0; window.trip = () => { window.tripped += 1; }; }")
        for start in range(0, len(payloads), BATCH):
            asked = f"payloads {start}"
            stage.script(asked, Script("\n\n---\n\n".join(payloads[start : start + BATCH]), piece_s=0))
            p.ask(asked)
            touched(p)
        each = p.page.evaluate(RENDER_EACH, payloads)
        assert p.page.evaluate("tripped") == 0 and not dialogs
        assert each == {"rendered": len(payloads), "wrong": []}, each["wrong"][:5]
    return f"{len(payloads)} payloads, 0 executions"


# Each payload for itself, through the page's own renderer; then everything that waits for an event gets one.
RENDER_EACH = """async (payloads) => {
  const { Rendered } = await import("/static/markdown.js");
  const found = { rendered: 0, wrong: [] };
  for (const payload of payloads) {
    const place = document.body.appendChild(document.createElement("div"));
    new Rendered(place).show(payload, true);
    while (!place.hasAttribute("data-settled")) await new Promise((resolve) => setTimeout(resolve, 1));
    for (const element of place.querySelectorAll("*")) {
      const active = [...element.attributes].filter((a) => /^on|^style$|^src|^action|^formaction|^xlink/.test(a.name));
      const link = element.getAttribute("href");
      const kind = /^(script|img|iframe|object|embed|svg|form|base|meta|link|style|template)$/.test(element.localName);
      const foreign = link && !/^(https?:|mailto:)/.test(link);
      if (active.length || (kind && !element.closest(".code-head")) || foreign) found.wrong.push(payload);
      for (const type of ["click", "mouseover", "focus", "error", "load", "toggle", "pointerenter", "animationstart"]) {
        element.dispatchEvent(new Event(type, { cancelable: true }));
      }
    }
    found.rendered += 1;
    place.remove();
  }
  return found;
}"""


def touched(p: Page) -> None:
    """Events for everything in the last answer."""
    p.page.evaluate("""() => document.querySelectorAll(".message:last-child .prose *").forEach((element) => {
      if (element.closest(".code-head")) return;
      for (const type of ["click", "mouseover", "focus", "error", "load", "toggle"])
        element.dispatchEvent(new Event(type, { cancelable: true, bubbles: false }));
    })""")


def attacks_from_a_file(stage: Stage) -> None:
    """An imported conversation is as foreign as an answer."""
    import json

    bad = "<img src=x onerror=trip()>"
    message = {
        "id": bad,
        "parent": "",
        "role": "assistant",
        "content": bad,
        "reasoning": bad,
        "model": bad,
        "finish": "length",
    }
    talk = {"id": bad, "title": bad, "updated": 1, "model": bad, "system": bad, "sampling": {},
            "messages": {bad: message}, "chosen": {"": bad}}  # fmt: skip
    text = json.dumps({"format": "octavo-conversations", "version": 1, "conversations": [talk]})
    with stage.page() as p:
        p.page.evaluate("() => { window.tripped = 0; window.trip = () => { window.tripped += 1; }; }")
        p.page.set_input_files("#file", {"name": "x.json", "mimeType": "application/json", "buffer": text.encode()})
        p.page.wait_for_selector(".talk")
        p.page.wait_for_timeout(200)
        assert p.page.locator("[onerror]").count() == 0 and p.page.evaluate("tripped") == 0


def trusts_only_the_server(stage: Stage) -> str:
    """Trusted Types: no string becomes HTML, no second policy, and the one policy takes only what was rendered."""
    with stage.page(errors=True) as p:
        tried = p.page.evaluate("""async () => {
          const attempts = {
            html: () => (document.body.innerHTML = "<b>x</b>"),
            insert: () => document.body.insertAdjacentHTML("beforeend", "<b>x</b>"),
            script: () => (document.createElement("script").text = "1"),
            frame: () => (document.createElement("iframe").srcdoc = "x"),
            evaluate: () => window.eval("1"),
            make: () => new Function("1"),
            timer: () => setTimeout("1"),
            again: () => trustedTypes.createPolicy("octavo", { createHTML: (x) => x }),
            other: () => trustedTypes.createPolicy("default", { createHTML: (x) => x }),
          };
          const passed = [];
          await new Promise((resolve) => setTimeout(resolve, 10)); // what a debugger evaluates may do more, at first
          for (const [name, attempt] of Object.entries(attempts)) {
            try { attempt(); passed.push(name); } catch (cause) { continue; }
          }
          const style = document.createElement("div");
          style.setAttribute("style", "color: red");
          if (style.style.color) passed.push("style");
          try { await fetch("https://evil.example/"); passed.push("fetch"); } catch (cause) { /* refused */ }
          return [passed, Object.keys(attempts).length + 2];
        }""")
    assert tried[0] == [], tried[0]
    return f"{tried[1]} attempts, all refused"


def logs_in(stage: Stage) -> None:
    with running(Scripted(key="sk-secret-123")) as closed, stage.page(closed.url, ready=False) as p:
        p.page.wait_for_selector("#log-in[open]")
        p.page.fill("#key", "sk-wrong")
        p.page.press("#key", "Enter")
        p.page.wait_for_selector("#log-in-problem:has-text('not known')")
        p.page.fill("#key", "sk-secret-123")
        p.page.press("#key", "Enter")
        p.page.wait_for_selector("#log-in", state="hidden")
        assert p.ask("hello").strip() == "You said: hello"
        assert "sk-secret" not in p.storage() and p.page.evaluate("document.cookie") == ""
        assert "sk-secret" not in p.page.content() and p.page.input_value("#key") == ""
        p.page.click("#log-out")
        p.page.wait_for_selector("#log-in[open]")


@cache
def axe() -> str:
    """The scanner's source, from where the test clients are."""
    place = ROOT / ".clients" / "node" / "node_modules" / "axe-core" / "axe.min.js"
    return place.read_text(encoding="utf-8")


def scanned(p: Page, what: str) -> int:
    """How many rules passed; the page must break none that is serious or critical."""
    found: Any = p.page.evaluate("async () => (await axe.run(document, { resultTypes: ['violations'] }))")
    bad = [(one["id"], one["impact"], [node["html"][:120] for node in one["nodes"]][:3]) for one in found["violations"]
           if one["impact"] in ("serious", "critical")]  # fmt: skip
    assert not bad, f"{what}: {bad}"
    return len(found["passes"])


def scan(stage: Stage, options: Options) -> str:
    rich = ("# Head\n\nText with [a link](https://a.example), `code` and $x^2$.\n\n"
            "```python\n# why\ndef f(x): return 'a', 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> quote")  # fmt: skip
    asked = stage.script("everything", Script(rich, thinking="Let me see. " * 20))
    with stage.page(options={"bypass_csp": True, **options}) as p:
        p.page.evaluate(f"{axe()}; 0")
        passed = [scanned(p, "empty")]
        p.ask(asked)
        p.regenerate()
        p.page.locator("details.thought summary").click()
        passed.append(scanned(p, "talk"))
        narrow = p.page.locator("#menu").is_visible()
        for opener, dialog in (("#settings", "panel"), ("#help", "keys")):
            if narrow and opener == "#help":
                p.page.click("#menu")
                passed.append(scanned(p, "list"))
            p.page.click(opener)
            passed.append(scanned(p, dialog))
            p.page.locator(f"#{dialog} [data-close]").click()
        if narrow:
            p.page.mouse.click(380, 400)
        p.page.click("#compare-open")
        p.page.fill("#compare-say", asked)
        p.page.press("#compare-say", "Enter")
        p.page.click("#vote-a")
        passed.append(scanned(p, "compare"))
        p.page.evaluate("document.querySelector('#log-in').showModal()")
        passed.append(scanned(p, "log-in"))
    return f"{len(passed)} states, {min(passed)} to {max(passed)} rules passed, 0 serious or critical"


def scans_light(stage: Stage) -> str:
    return scan(stage, {"color_scheme": "light"})


def scans_dark(stage: Stage) -> str:
    return scan(stage, {"color_scheme": "dark"})


def scans_phone(stage: Stage) -> str:
    return scan(stage, {"viewport": PHONE, "color_scheme": "light"})


def scans_phone_dark(stage: Stage) -> str:
    return scan(stage, {"viewport": PHONE, "color_scheme": "dark"})


def fits_a_phone(stage: Stage) -> None:
    wide = (
        "| "
        + " | ".join(f"column {i}" for i in range(12))
        + " |\n"
        + "|---" * 12
        + "|\n\n```\n"
        + "x" * 300
        + "\n```\n\n$$"
        + "a+" * 90
        + "b$$"
    )
    with stage.page(options={"viewport": PHONE, "has_touch": True}) as p:
        p.ask(stage.script("wide", wide))
        p.ask("w" * 300)
        for opened in ("", "#menu"):
            if opened:
                p.page.click(opened)
                p.page.wait_for_selector("#new", state="visible")
            over = p.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert over <= 0, f"{over} px wider than the screen"
        p.page.locator(".talk").first.click()
        p.page.wait_for_selector("#new", state="hidden")
        p.page.click("#settings")
        assert p.page.locator("#panel").bounding_box()["width"] <= PHONE["width"]


FLOWS: dict[str, Flow] = {
    "no payload of all runs, loads or navigates": executes_nothing,
    "an imported conversation runs nothing either": attacks_from_a_file,
    "Trusted Types and the policy refuse what is not the server's": trusts_only_the_server,
    "a stranger logs in with a key that is not kept, and out": logs_in,
    "accessibility, light": scans_light,
    "accessibility, dark": scans_dark,
    "accessibility, phone": scans_phone,
    "accessibility, phone, dark": scans_phone_dark,
    "a phone's width holds everything": fits_a_phone,
}
