/** Markdown on the page: rendered and cleaned by the server, never by us. */

import { copy, h, iconButton } from "./dom.js";
import { Refused, rendered } from "./wire.js";

const SHORTEST_MS = 250;
const BUSY = 4; // the server spends at most one part in so many on one growing text

/** HTML that the server gave. Nothing else passes the page's only policy. @type {Set<string>} */
const given = new Set();

const { trustedTypes } = /** @type {any} */ (window); // not in every browser yet; the check is the same without
const policy = trustedTypes?.createPolicy("octavo", { createHTML: only }) ?? { createHTML: only };

/** @param {string} html */
function only(html) {
  if (!given.has(html)) throw new TypeError("this HTML does not come from the server's renderer");
  return html;
}

/** A piece of the page that shows a text which may still grow. Never goes back to an older one. */
export class Rendered {
  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
    this.text = "";
    this.shown = "";
    this.busy = false;
    this.soonest = 0;
    /** @type {string[]} */
    this.blocks = [];
  }

  /**
   * Show a text: now the first time and where it is whole, otherwise soon.
   * @param {string} text @param {boolean} whole
   */
  show(text, whole = false) {
    this.text = text;
    this.whole = whole;
    if (!text) this.#plain((this.shown = ""));
    else if (!this.shown) this.#plain(text);
    this.element.toggleAttribute("data-settled", text === this.shown);
    if (!this.busy && text !== this.shown) this.#next();
  }

  async #next() {
    this.busy = true;
    while (this.text && this.text !== this.shown) {
      const wait = this.soonest - performance.now();
      if (wait > 0 && !this.whole) await new Promise((resolve) => setTimeout(resolve, Math.min(wait, 50)));
      else await this.#render(this.text);
    }
    this.busy = false;
    this.element.toggleAttribute("data-settled", this.text === this.shown);
  }

  /** @param {string} text */
  async #render(text) {
    const begin = performance.now();
    try {
      this.#place(await rendered(text));
    } catch (cause) {
      if (!(cause instanceof Refused || cause instanceof TypeError)) throw cause;
      this.#plain(text); // too long, or the server is gone: the words are there all the same
    }
    this.shown = text;
    this.soonest = performance.now() + Math.max(SHORTEST_MS, BUSY * (performance.now() - begin));
  }

  /** @param {string} text */
  #plain(text) {
    this.blocks = [];
    this.element.classList.add("plain");
    this.element.textContent = text;
  }

  /** Replace what has changed, so that a selection in the rest stays. @param {string} html */
  #place(html) {
    const template = document.createElement("template");
    given.add(html);
    template.innerHTML = policy.createHTML(html);
    given.delete(html);
    if (this.element.classList.contains("plain")) this.element.replaceChildren();
    this.element.classList.remove("plain");
    const fresh = [...template.content.children];
    const blocks = fresh.map((block) => block.outerHTML);
    fresh.forEach((block, i) => {
      if (blocks[i] === this.blocks[i]) return;
      const old = this.element.children[i];
      if (old) old.replaceWith(dressed(block));
      else this.element.append(dressed(block));
    });
    while (this.element.children.length > fresh.length) this.element.lastElementChild?.remove();
    this.blocks = blocks;
    this.element.dispatchEvent(new Event("placed", { bubbles: true }));
  }
}

/** Code gets its language and a button; what scrolls can be reached by keyboard. @param {Element} block */
function dressed(block) {
  const codes = block.matches("div.code") ? [block] : [...block.querySelectorAll("div.code")];
  for (const code of codes) {
    const pre = code.querySelector("pre");
    pre?.setAttribute("tabindex", "0");
    const button = iconButton("copy", "copy", () => copy(pre?.textContent ?? "", button));
    code.prepend(h("div.code-head", {}, h("span", {}, code.getAttribute("data-language") ?? ""), button));
  }
  if (!block.matches("table")) return block;
  return h("div.scrolls", { tabindex: "0" }, block);
}
