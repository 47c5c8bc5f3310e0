/** What is said aside: to screen readers, and in short notices. */

import { byId, h } from "./dom.js";

const KEPT = 6;

/** Have a screen reader say something when it has finished what it says now. @param {string} text */
export function announce(text) {
  const region = byId("spoken");
  region.append(h("p", {}, text));
  while (region.children.length > KEPT) region.firstElementChild?.remove();
}

/** Show a notice for some seconds. @param {string} text @param {{lastsMs?: number}} options */
export function notice(text, { lastsMs = 6000 } = {}) {
  const shown = h("p.notice", {}, text);
  byId("notices").append(shown);
  setTimeout(() => shown.remove(), lastsMs);
}

/** Speaks an answer as it grows, a paragraph at a time. */
export class Reader {
  constructor() {
    this.said = 0;
  }

  /** @param {string} text all that there is @param {boolean} done */
  hear(text, done) {
    const end = done ? text.length : text.lastIndexOf("\n\n");
    if (end <= this.said) return;
    announce(text.slice(this.said, end).trim());
    this.said = end;
  }
}
