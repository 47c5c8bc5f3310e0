"""What goes wrong around the page and must not cost a user anything; in a real browser, skipped where there is none."""

import pytest

from bench.browser.stage import ARGUMENTS, PHONE, Page, Stage, chromium
from tests.serve.page.scripted import Script, Scripted, running

pytestmark = pytest.mark.slow
FOREIGN = "--host-resolver-rules=MAP octavo.test 127.0.0.1"


def writes(stage: Stage, p: Page, script: Script) -> None:
    """An answer has begun."""
    p.say(stage.script(f"write: {script.text[:9]}".strip(), script))
    p.page.wait_for_selector(".message.live .prose:not(:empty)")


def test_it_works_over_plain_http_from_another_machine(stage: Stage):
    """There a browser has no secure context: neither `crypto.randomUUID` nor `navigator.clipboard`."""
    shown = stage.browser.browser_type.launch(executable_path=chromium(), args=[*ARGUMENTS, FOREIGN])
    url = stage.scripted.url.replace("127.0.0.1", "octavo.test")
    try:
        with Stage(shown, stage.scripted).page(url) as p:
            assert not p.page.evaluate("isSecureContext")
            assert p.ask("from afar").strip() == "You said: from afar"
            p.tool("Copy")
            p.page.keyboard.press("/")
            p.page.keyboard.press("Control+V")
            assert p.page.input_value("#say") == "You said: from afar"
    finally:
        shown.close()


def test_a_conversation_deleted_while_it_is_answered_stays_deleted(stage: Stage):
    with stage.page() as p:
        p.page.on("dialog", lambda dialog: dialog.accept())
        writes(stage, p, Script("deleted " * 200, piece_s=0.05))
        p.page.locator("li").first.hover()
        p.page.locator(".remove").first.click()
        p.page.wait_for_timeout(500)
        assert p.page.locator(".talk").count() == 0 and "deleted" not in p.storage()


def test_the_end_of_an_answer_moves_nobody_who_reads_above(stage: Stage):
    with stage.page() as p:
        p.ask(stage.script("long before", "line\n\n" * 60))
        writes(stage, p, Script("word " * 60, piece_s=0.02))
        p.page.evaluate("document.querySelector('#scroller').scrollTop = 10")
        p.answered(2)
        p.page.wait_for_timeout(100)
        assert p.page.evaluate("document.querySelector('#scroller').scrollTop") == 10


def test_the_end_stays_in_view_while_rendering_makes_it_higher(stage: Stage):
    asked = stage.script("tables", "".join(f"\n## {i}\n\n| a |\n|---|\n| {i} |\n\n```\n{i}\n```\n" for i in range(20)))
    with stage.page() as p:
        for _ in range(2):
            p.ask(asked)
            p.page.wait_for_timeout(100)
            left = "(s => s.scrollHeight - s.scrollTop - s.clientHeight)(document.querySelector('#scroller'))"
            assert p.page.evaluate(left) < 80
            assert p.page.locator("#to-end").is_hidden()


def test_an_answer_cut_by_a_reload_says_so(stage: Stage):
    with stage.page() as p:
        writes(stage, p, Script("half " * 400, piece_s=0.05))
        p.page.wait_for_timeout(1500)
        p.page.reload()
        p.page.locator(".talk").first.click()
        assert "half" in p.answered()
        assert p.page.locator(".message .note").inner_text() == "Interrupted."


def test_another_tab_follows_an_answer_without_starting_over(stage: Stage):
    with stage.page() as p:
        p.ask("before")
        other = p.beside("before")
        other.page.evaluate("document.querySelector('.message').marked = true")
        writes(stage, p, Script("in both " * 40, piece_s=0.03))
        other.page.wait_for_selector(".message.assistant >> nth=1")
        assert other.page.locator(".message .note:not([hidden])").count() == 0, "the answer goes on"
        p.answered(2)
        other.page.wait_for_function("() => document.querySelectorAll('.figures:not([hidden])').length == 2")
        assert other.page.evaluate("document.querySelector('.message').marked") is True
        assert other.answers() == p.answers()


def test_two_tabs_that_write_at_once_lose_nothing(stage: Stage):
    with stage.page() as p:
        p.ask("root")
        other = p.beside("root")
        writes(stage, p, Script("first tab " * 30, piece_s=0.06))
        writes(stage, other, Script("second tab " * 30, piece_s=0.06))
        p.page.wait_for_function("() => !document.querySelector('.answer[aria-busy=true]')")
        other.page.wait_for_function("() => !document.querySelector('.answer[aria-busy=true]')")
        p.page.wait_for_timeout(300)
        kept = p.storage()
        assert "first tab " * 29 in kept and "second tab " * 29 in kept


def enter(p: Page) -> None:
    p.page.wait_for_selector("#log-in[open]")
    p.page.fill("#key", "sk-secret-123")
    p.page.press("#key", "Enter")
    p.page.wait_for_selector("#log-in", state="hidden")
    p.page.wait_for_selector("#model option[value=quire]", state="attached")


def test_the_chosen_model_outlives_a_session(stage: Stage):
    with running(Scripted(key="sk-secret-123")) as closed, stage.page(closed.url, ready=False) as p:
        enter(p)
        p.page.select_option("#model", "quire")
        p.page.context.clear_cookies()
        p.page.reload()
        enter(p)
        assert p.page.input_value("#model") == "quire"


def test_what_was_opened_after_a_session_is_rendered_after_the_next_log_in(stage: Stage):
    with running(Scripted(key="sk-secret-123")) as closed, stage.page(closed.url, ready=False) as p:
        enter(p)
        p.ask("**bold**")
        p.page.keyboard.press("Alt+n")
        p.page.context.clear_cookies()
        p.page.locator(".talk").first.click()
        enter(p)
        p.page.wait_for_selector(".prose strong:has-text('bold')")


FULL = """() => {
  IDBObjectStore.prototype.put = () => { throw new DOMException("the disk is full", "QuotaExceededError"); };
}"""


def test_a_full_disk_is_told_and_the_answer_comes_all_the_same(stage: Stage):
    with stage.page() as p:
        p.page.evaluate(FULL)
        assert p.ask("room for me?").strip() == "You said: room for me?"
        assert p.ask("and now?").strip() == "You said: and now?"
        notices = p.page.locator(".notice").all_inner_texts()
        assert len(notices) == 1 and "the disk is full" in notices[0]


def test_the_menu_says_whether_it_is_open(stage: Stage):
    with stage.page(options={"viewport": PHONE}) as p:
        p.page.click("#menu")
        assert p.page.get_attribute("#menu", "aria-expanded") == "true"
        p.page.click("#new")
        assert p.page.get_attribute("#menu", "aria-expanded") == "false"


def test_the_keyboard_stays_where_versions_are_turned(stage: Stage):
    with stage.page() as p:
        p.ask("again?")
        for versions in (2, 3):
            p.regenerate(versions=versions)
        p.page.get_by_role("button", name="Previous version").focus()
        p.page.keyboard.press("Enter")
        p.page.wait_for_selector(".place:has-text('2/3')")
        assert p.page.evaluate("document.activeElement.ariaLabel") == "Previous version"


GROWN = """async () => {
  const { Answer } = await import("/static/answer.js");
  const message = { id: "x", parent: "", role: "assistant", content: "", reasoning: "" };
  const answer = new Answer();
  for (let i = 0; i < 20_000; i += 1) {
    message.reasoning += i % 7 ? "so it is, " : "then:\\n\\n";
    answer.update(message, { phase: "thinking", thoughtS: 1 });
  }
  clearInterval(answer.timer);
  const blocks = [...answer.thought.children].map((block) => block.textContent.length);
  return [answer.thought.textContent === message.reasoning, Math.max(...blocks)];
}"""


def test_of_a_long_thought_only_the_end_is_laid_out_anew(stage: Stage):
    with stage.page() as p:
        whole, longest = p.page.evaluate(GROWN)
        assert whole and 4000 < longest < 5000


def test_a_message_keeps_the_indentation_of_its_first_line(stage: Stage):
    with stage.page() as p:
        p.ask("\n    def f():\n        return 1\n")
        assert stage.scripted.seen[-1]["messages"][-1]["content"] == "    def f():\n        return 1"


def test_a_title_ends_with_a_whole_sign(stage: Stage):
    with stage.page() as p:
        p.ask("\N{LEAF FLUTTERING IN WIND}" * 80)
        assert p.page.locator(".talk").inner_text() == "\N{LEAF FLUTTERING IN WIND}" * 59 + "…"


@pytest.mark.parametrize("locale", ["en-US", "ja-JP", "zh-CN"])
def test_no_button_beside_the_conversations_is_cut_off(stage: Stage, locale: str):
    with stage.page(options={"locale": locale}) as p:
        assert p.page.evaluate("(side => side.scrollWidth - side.clientWidth)(document.querySelector('#side'))") == 0


def test_a_comparison_is_stopped_without_a_keyboard(stage: Stage):
    asked = stage.script("both for ever", Script("word " * 2000, piece_s=0.05))
    with stage.page(options={"viewport": PHONE}) as p:
        p.page.click("#compare-open")
        p.page.fill("#compare-say", asked)
        p.page.click("#compare-ask")
        p.page.wait_for_selector("#board .prose:not(:empty)")
        p.page.click("#compare-stop")
        p.page.wait_for_selector("#votes:not([hidden])")
        assert p.page.locator("#board .note").all_inner_texts() == ["Stopped.", "Stopped."]
        assert p.page.locator("#compare-ask").is_visible() and p.page.locator("#compare-stop").is_hidden()
