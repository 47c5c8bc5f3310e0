/** What surrounds the conversation: language, appearance, keyboard, dialogs, log-in. */

import { byId, h } from "./dom.js";
import { setSetting, setting } from "./store.js";
import { loggedIn, logIn, logOut, onUnknown, Refused } from "./wire.js";
import { choose, LANGUAGES, language } from "./words.js";

/** @param {() => void} changed */
export function languages(changed) {
  const select = byId("language");
  select.append(...Object.entries(LANGUAGES).map(([id, name]) => h("option", { value: id, lang: id }, name)));
  select.value = language();
  select.addEventListener("change", () => {
    choose(select.value);
    changed();
  });
}

export function themes() {
  const select = byId("theme");
  const apply = (/** @type {string} */ theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  select.value = setting("theme", "auto");
  apply(select.value);
  select.addEventListener("change", () => {
    setSetting("theme", select.value);
    apply(select.value);
  });
}

/**
 * Keys, and the buttons that open and close things.
 * @param {{stop: () => void, fresh: () => void, composer: {focus: () => void, cycle: () => void}}} app
 */
export function shortcuts(app) {
  const body = document.body;
  const help = () => byId("keys").showModal();
  const toggle = (/** @type {boolean} */ on) => {
    body.classList.toggle("comparing", on);
    byId(on ? "compare-say" : "say").focus();
  };
  const side = () => byId("menu").setAttribute("aria-expanded", String(body.classList.toggle("side-open")));
  byId("help").addEventListener("click", help);
  byId("menu").addEventListener("click", side);
  byId("shade").addEventListener("click", side);
  byId("compare-open").addEventListener("click", () => toggle(!body.classList.contains("comparing")));
  byId("compare-close").addEventListener("click", () => toggle(false));
  for (const button of document.querySelectorAll("dialog [data-close]")) {
    button.addEventListener("click", () => button.closest("dialog")?.close());
  }
  addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.isComposing) return;
    const typing = /** @type {Element} */ (event.target).matches?.("input, textarea, select");
    const plain = !typing && !event.ctrlKey && !event.metaKey && !event.altKey;
    const act = event.key === "Escape" ? app.stop
      : event.altKey && event.code === "KeyN" ? app.fresh
      : event.altKey && event.code === "KeyT" ? app.composer.cycle
      : plain && event.key === "?" ? help
      : plain && event.key === "/" ? app.composer.focus : null;
    if (!act) return;
    event.preventDefault();
    act.call(act === app.composer.cycle || act === app.composer.focus ? app.composer : app);
  });
}

/** Asks for a key when the server wants to know who we are. The key goes to the server and nowhere else. */
export class LogIn {
  /** @param {() => void} done */
  constructor(done) {
    this.done = done;
    this.dialog = byId("log-in");
    this.key = byId("key");
    this.problem = byId("log-in-problem");
    this.out = byId("log-out");
    this.out.addEventListener("click", () => this.#leave());
    byId("log-in-form").addEventListener("submit", (/** @type {Event} */ event) => this.#submit(event));
  }

  watch() {
    onUnknown(() => this.dialog.open || this.dialog.showModal());
  }

  /** Offer to log out where there is something to log out of. */
  async offer() {
    try {
      this.out.hidden = !(await loggedIn());
    } catch (cause) {
      if (!(cause instanceof Refused || cause instanceof TypeError)) throw cause;
      this.out.hidden = true;
    }
  }

  async #leave() {
    await logOut();
    this.out.hidden = true;
    this.done();
  }

  /** @param {Event} event */
  async #submit(event) {
    event.preventDefault();
    const key = this.key.value.trim();
    this.key.value = "";
    this.problem.textContent = "";
    try {
      await logIn(key);
    } catch (cause) {
      if (!(cause instanceof Refused || cause instanceof TypeError)) throw cause;
      this.problem.textContent = cause.message;
      return;
    }
    this.dialog.close();
    this.done();
    await this.offer();
  }
}
