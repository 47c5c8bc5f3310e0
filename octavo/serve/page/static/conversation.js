/** The messages of one conversation, with what can be done to each. */

import { Answer } from "./answer.js";
import { copy, h, iconButton } from "./dom.js";
import { path, siblings } from "./talk.js";
import { words } from "./words.js";

/**
 * @typedef {import("./talk.js").Message} Message
 * @typedef {{edit: (message: Message, text: string) => void, again: (message: Message) => void,
 *   fork: (message: Message) => void, turn: (message: Message, step: number) => void}} Acts
 */

export class Conversation {
  /** @param {HTMLElement} list @param {HTMLElement} scroller @param {HTMLElement} toEnd @param {Acts} acts */
  constructor(list, scroller, toEnd, acts) {
    this.list = list;
    this.scroller = scroller;
    this.toEnd = toEnd;
    this.acts = acts;
    /** @type {Map<string, View>} */
    this.views = new Map();
    this.sticky = true; // the end stays in view, until somebody scrolls up
    this.top = 0;
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    list.addEventListener("placed", () => this.#follow());
    toEnd.addEventListener("click", () => this.scroll());
  }

  get atEnd() {
    return this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < 80;
  }

  scroll() {
    this.sticky = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.top = this.scroller.scrollTop;
  }

  #scrolled() {
    const { scrollTop } = this.scroller;
    this.sticky = this.atEnd || (this.sticky && scrollTop >= this.top); // growth alone scrolls nothing up
    this.top = scrollTop;
    this.toEnd.hidden = this.atEnd;
  }

  /** What is shown has grown. */
  #follow() {
    if (this.sticky) this.scroll();
    this.toEnd.hidden = this.atEnd;
  }

  /** Forget how messages looked: another conversation, or another language. */
  clear() {
    this.sticky = true;
    this.views.clear();
    this.list.replaceChildren();
  }

  /**
   * Stays where it was scrolled to, unless that was the end.
   * @param {import("./talk.js").Talk} talk
   * @param {import("./reply.js").Reply | null} reply that is being written
   * @param {string} elsewhere id of the message that another tab is writing
   */
  show(talk, reply, elsewhere) {
    const shown = path(talk).map((message) => {
      const view = this.views.get(message.id) ?? new View(message, this.acts);
      this.views.set(message.id, view);
      view.versions(siblings(talk, message.id));
      view.update(reply?.message === message ? reply : null, message.id === elsewhere);
      return view.element;
    });
    shown.forEach((element, i) => { // what stays is not touched: the focus and a selection may be in it
      const there = this.list.children[i];
      if (there !== element) this.list.insertBefore(element, there ?? null);
    });
    while (this.list.children.length > shown.length) this.list.lastElementChild?.remove();
    this.#follow();
  }

  /** Another version is shown: the keyboard goes on from its arrows. @param {string} id @param {number} step */
  turned(id, step) {
    const [before, , after] = /** @type {any} */ (this.views.get(id)?.turning.children ?? []);
    const [wanted, other] = step < 0 ? [before, after] : [after, before];
    (wanted?.disabled ? other : wanted)?.focus();
  }

  /** A piece has come. @param {import("./reply.js").Reply} reply */
  grow(reply) {
    this.views.get(reply.message.id)?.update(reply);
    this.#follow();
  }
}

class View {
  /** @param {Message} message @param {Acts} acts */
  constructor(message, acts) {
    this.message = message;
    this.acts = acts;
    this.answer = message.role === "assistant" ? new Answer() : null;
    this.body = this.answer?.element ?? h("div.said", {}, message.content);
    this.turning = h("span.versions", { hidden: true });
    this.tools = h("div.tools", {}, this.turning, ...this.#buttons());
    const name = message.role === "user" ? words("you") : (message.model ?? words("model"));
    this.element = h(`article.message.${message.role}`, { "aria-label": name }, this.body, this.tools);
  }

  #buttons() {
    const { message, acts } = this;
    const copying = iconButton("copy", "copy", () => copy(message.content, copying));
    const editing = iconButton("edit", "edit", () => this.#edit());
    const forking = iconButton("fork", "fork", () => acts.fork(message));
    if (message.role === "user") return [copying, editing, forking];
    return [copying, editing, iconButton("again", "again", () => acts.again(message)), forking];
  }

  /** @param {Message[]} all of which this is one */
  versions(all) {
    const at = all.findIndex((one) => one.id === this.message.id);
    this.turning.hidden = all.length < 2;
    if (this.turning.hidden) return;
    const place = `${at + 1}/${all.length}`;
    if (this.turning.textContent === place) return;
    const before = iconButton("left", "before", () => this.acts.turn(this.message, -1));
    const after = iconButton("right", "after", () => this.acts.turn(this.message, 1));
    before.disabled = at === 0;
    after.disabled = at === all.length - 1;
    const label = words("version", { at: at + 1, all: all.length });
    this.turning.replaceChildren(before, h("span.place", { role: "img", "aria-label": label }, place), after);
  }

  /** @param {import("./reply.js").Reply | null} reply @param {boolean} elsewhere */
  update(reply, elsewhere = false) {
    this.answer?.update(this.message, reply, elsewhere);
    this.element.classList.toggle("live", Boolean(reply) && reply?.phase !== "over");
  }

  #edit() {
    const box = h("textarea.editor", { "data-t-label": "edit", rows: "4" });
    box.value = this.message.content;
    const close = () => {
      form.replaceWith(this.body);
      this.tools.hidden = false;
    };
    const save = () => {
      close();
      if (box.value.trim() && box.value !== this.message.content) this.acts.edit(this.message, box.value);
    };
    const key = (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") close();
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
      else return;
      event.stopPropagation();
    };
    box.addEventListener("keydown", key);
    const saving = h("button.primary", { type: "button", "data-t": this.answer ? "save" : "saveSend", onclick: save });
    const form = h("div.editing", {}, box, h("div.row", {}, saving,
                   h("button.quiet", { type: "button", "data-t": "cancel", onclick: close })));
    this.body.replaceWith(form);
    this.tools.hidden = true;
    box.focus();
  }
}

/** What stands where nothing has been said yet. */
export function welcome() {
  return h("div.welcome", {}, h("h1", { "data-t": "welcome" }));
}

