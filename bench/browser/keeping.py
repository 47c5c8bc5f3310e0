"""Flows of what is kept: branches, forks, settings, files, languages, and comparing."""

import json
from pathlib import Path

from bench.browser.stage import Flow, Page, Stage, folder
from tests.serve.page.scripted import Script


def regenerates(stage: Stage) -> None:
    with stage.page() as p:
        p.ask("again?")
        for versions in (2, 3):
            p.regenerate(versions=versions)
        p.tool("Previous version")
        p.page.wait_for_selector(".place:has-text('2/3')")
        p.page.reload()
        p.page.locator(".talk").first.click()
        assert p.page.locator(".place").inner_text() == "2/3"


def edits_what_was_asked(stage: Stage) -> None:
    with stage.page() as p:
        p.ask("one")
        p.ask("two")
        p.tool("Edit", role="user", nth=0)
        p.page.fill(".editor", "uno")
        p.page.get_by_role("button", name="Save and send").click()
        p.page.wait_for_function("() => document.querySelectorAll('.message').length == 2")
        p.answered()
        assert (p.said(), p.answers()[0].strip()) == (["uno"], "You said: uno")
        p.tool("Previous version", role="user", nth=0)
        p.page.wait_for_function("() => document.querySelectorAll('.message').length == 4")
        assert p.said() == ["one", "two"]


def edits_what_was_answered(stage: Stage) -> None:
    with stage.page() as p:
        p.ask("your name?")
        p.tool("Edit")
        p.page.fill(".editor", "My name is **Leaf**.")
        p.page.get_by_role("button", name="Save", exact=True).click()
        p.page.wait_for_selector(".prose strong:has-text('Leaf')")
        assert p.page.locator(".message.assistant .place").inner_text() == "2/2"
        p.ask("sure?")
        assert stage.scripted.seen[-1]["messages"][1] == {"role": "assistant", "content": "My name is **Leaf**."}


def forks(stage: Stage) -> None:
    with stage.page() as p:
        p.ask("alpha")
        p.ask("beta")
        p.tool("Fork from here", nth=0)
        p.page.wait_for_function("() => document.querySelectorAll('.talk').length == 2")
        p.ask("gamma")
        assert p.said() == ["alpha", "gamma"]
        p.page.locator(".talk").nth(1).click()
        assert p.said() == ["alpha", "beta"]


def sends_instructions_and_sampling(stage: Stage) -> None:
    with stage.page() as p:
        p.page.click("#settings")
        p.page.fill("#system", "Speak like a librarian.")
        p.page.select_option("#preset", "own:presetBalanced")
        p.page.fill("#sampling-seed", "7")
        p.page.fill("#preset-name", "Library")
        p.page.click("#preset-save")
        p.page.locator("#panel [data-close]").click()
        p.ask("hello")
        sent = stage.scripted.seen[-1]
        assert sent["messages"][0] == {"role": "system", "content": "Speak like a librarian."}
        assert {k: sent[k] for k in ("temperature", "top_p", "top_k", "seed")} == {
            "temperature": 0.7, "top_p": 0.8, "top_k": 20, "seed": 7}  # fmt: skip
        p.page.reload()
        p.page.click("#settings")
        p.page.select_option("#preset", "saved:Library")
        assert (
            p.page.input_value("#system") == "Speak like a librarian." and p.page.input_value("#sampling-seed") == "7"
        )


def exported(p: Page, place: Path) -> Path:
    with p.page.expect_download() as waiting:
        p.page.click("#export-all")
    waiting.value.save_as(place)
    return place


def exports_and_imports(stage: Stage) -> str:
    with folder() as place:
        with stage.page() as p:
            p.ask("keep me")
            p.regenerate()
            file = exported(p, place / "talks.json")
        with stage.page() as p:
            p.page.set_input_files("#file", file)
            p.page.wait_for_selector(".talk:has-text('keep me')")
            assert p.said() == ["keep me"] and p.page.locator(".place").inner_text() == "2/2"
            again = json.loads(exported(p, place / "again.json").read_text())
        first = json.loads(file.read_text())
        words = [[m["content"] for m in f["conversations"][0]["messages"].values()] for f in (first, again)]
        assert words[0] == words[1]
        return f"{len(words[0])} messages"


def refuses_files_that_are_none(stage: Stage) -> str:
    good = {"id": "x", "title": "t", "updated": 1, "model": "", "system": "", "sampling": {}, "chosen": {"": "a"},
            "messages": {"a": {"id": "a", "parent": "", "role": "user", "content": "hi"}}}  # fmt: skip

    def file(changed: dict[str, object]) -> str:
        return json.dumps({"format": "octavo-conversations", "version": 1, "conversations": [{**good, **changed}]})

    message = good["messages"]["a"]  # type: ignore[index,call-overload]
    nested = {"role": "system"}, {"content": 5}, {"parent": "b"}, {"parent": "a"}
    changes: list[dict[str, object]] = [
        {"messages": []}, {"sampling": {"temperature": -1}}, {"chosen": {"": "b"}}, {"sampling": {"__proto__": 1}},
        {"title": "x" * 2000}, {"updated": "now"}, {"chosen": {"a": "a"}},
        *({"messages": {"a": {**message, **change}}} for change in nested),
    ]  # fmt: skip
    other = '{"format": "octavo-conversations", "version": 2, "conversations": []}'
    wrong = ["", "[]", "{}", "null", other, *map(file, changes)]
    with stage.page() as p:
        for text in wrong:
            p.page.set_input_files("#file", {"name": "x.json", "mimeType": "application/json", "buffer": text.encode()})
            p.page.wait_for_selector(".notice:has-text('holds no conversations')")
            p.page.evaluate("document.querySelector('#notices').replaceChildren()")
        assert p.page.locator(".talk").count() == 0
        p.page.set_input_files("#file", {"name": "x.json", "mimeType": "application/json", "buffer": file({}).encode()})
        p.page.wait_for_selector(".talk")
    return f"{len(wrong)} files"


def keeps_and_deletes(stage: Stage) -> None:
    with stage.page() as p:
        p.ask("first talk")
        p.page.keyboard.press("Alt+n")
        p.ask("second talk")
        p.page.reload()
        p.page.wait_for_selector(".talk")
        assert p.page.locator(".talk").all_inner_texts() == ["second talk", "first talk"]
        p.page.on("dialog", lambda dialog: dialog.accept())
        p.page.locator("li", has_text="second talk").hover()
        p.page.get_by_role("button", name="Delete conversation: second talk").click()
        p.page.wait_for_function("() => document.querySelectorAll('.talk').length == 1")
        assert "second talk" not in p.storage()


def tabs_agree(stage: Stage) -> None:
    with stage.page() as p:
        p.ask("from the first tab")
        other = p.beside("from the first tab")
        p.ask("and one more")
        other.page.wait_for_selector(".message.user:has-text('and one more')")
        other.page.keyboard.press("Alt+n")
        other.ask("from the second tab")
        p.page.wait_for_selector(".talk:has-text('from the second tab')")
        assert p.said() == ["from the first tab", "and one more"]


def speaks_three_languages(stage: Stage) -> None:
    for locale, word in (("ja-JP", "新しい会話"), ("zh-CN", "新对话"), ("fr-FR", "New conversation")):
        with stage.page(options={"locale": locale}) as p:
            assert p.page.inner_text("#new") == word
    with stage.page() as p:
        p.ask("hi")
        for language, word in (("zh", "重新生成"), ("ja", "再生成"), ("en", "Regenerate")):
            p.page.select_option("#language", language)
            assert p.page.get_attribute("html", "lang") == language
            assert p.page.get_by_role("button", name=word).count() == 1
        p.page.select_option("#language", "ja")
        p.page.reload()
        assert p.page.get_attribute("#say", "placeholder") == "メッセージを入力"


def goes_dark(stage: Stage) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with stage.page() as p:
        light = p.page.evaluate(ground)
        p.page.emulate_media(color_scheme="dark")
        dark = p.page.evaluate(ground)
        assert light != dark
        p.page.select_option("#theme", "light")
        assert p.page.evaluate(ground) == light
        p.page.select_option("#theme", "dark")
        p.page.emulate_media(color_scheme="light")
        p.page.reload()
        assert p.page.evaluate(ground) == dark


def compares_blindly(stage: Stage) -> str:
    stage.script("which?", Script("Some answer.", thinking="hm " * 4))
    sides = list[str]()
    with stage.page() as p:
        p.page.click("#compare-open")
        p.page.select_option("#compare-two", "quire")
        for vote in ("a", "b", "tie") * 4:
            p.page.fill("#compare-say", "which?")
            p.page.press("#compare-say", "Enter")
            p.page.wait_for_selector("#votes:not([hidden])")
            board = p.page.inner_text("#board") + p.page.inner_html("#board")
            assert "leaf" not in board and "quire" not in board, "a name is shown before the vote"
            assert p.page.locator("#board .figures:not([hidden]), #board details:not([hidden])").count() == 0
            p.page.click(f"#vote-{vote}")
            sides.append(p.page.locator("#board h2").first.inner_text())
            assert p.page.locator("#board .figures:not([hidden])").count() == 2
        assert set(sides) == {"A: leaf", "A: quire"}, "sides are not random"
        assert {body["model"] for body in stage.scripted.seen[-2:]} == {"leaf", "quire"}
        p.page.reload()
        p.page.click("#compare-open")
        rows = p.page.locator("#tally-rows tr").all_inner_texts()
        counts = [[int(n) for n in row.split("\t")[1:]] for row in rows]
        assert len(counts) == 2 and [sum(column) for column in zip(*counts, strict=True)] == [8, 8, 8], rows
    return f"A was leaf {sides.count('A: leaf')} times of {len(sides)}"


def reacts_to_keys(stage: Stage) -> None:
    with stage.page() as p:
        p.page.locator("#new").focus()
        p.page.keyboard.press("?")
        assert p.page.locator("#keys").is_visible()
        p.page.keyboard.press("Escape")
        assert not p.page.locator("#keys").is_visible()
        p.page.locator("#new").focus()
        p.page.keyboard.press("/")
        p.page.keyboard.type("why?")
        assert p.page.input_value("#say") == "why?"
        p.page.keyboard.press("Alt+t")
        assert p.page.locator("[name=thinking]:checked").get_attribute("value") == "on"
        composing = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true})"
        p.page.evaluate(f"document.querySelector('#say').dispatchEvent({composing})")
        assert p.page.locator(".message").count() == 0, "Enter sent what an input method was composing"
        p.page.keyboard.press("Enter")
        p.answered()
        reached = set[str]()
        for _ in range(60):
            p.page.keyboard.press("Tab")
            reached.add(p.page.evaluate("document.activeElement.id || document.activeElement.ariaLabel || ''"))
        assert {"new", "model", "settings", "say", "send", "budget", "Regenerate", "Edit"} <= reached, reached


FLOWS: dict[str, Flow] = {
    "regenerate makes versions with arrows": regenerates,
    "editing a question makes a branch and asks again": edits_what_was_asked,
    "editing an answer makes a branch that the model then sees": edits_what_was_answered,
    "a conversation is forked from a message": forks,
    "instructions, sampling and presets are sent and kept": sends_instructions_and_sampling,
    "export and import round trip": exports_and_imports,
    "files that are no conversations are refused": refuses_files_that_are_none,
    "conversations outlive a reload and are deleted for good": keeps_and_deletes,
    "what one tab says, the other shows": tabs_agree,
    "English, Chinese, Japanese, by the browser and by choice": speaks_three_languages,
    "light and dark, by the system and by choice": goes_dark,
    "two models side by side, blind until the vote, tally kept": compares_blindly,
    "the keyboard does everything; an input method's Enter sends nothing": reacts_to_keys,
}
