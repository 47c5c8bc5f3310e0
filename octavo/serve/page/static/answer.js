/** How an answer looks: its thinking, folded; its text; its figures. */

import { copy, h, iconButton } from "./dom.js";
import { Rendered } from "./markdown.js";
import { figure, words } from "./words.js";

const TICK_MS = 100;
const BLOCK = 4000; // characters of thinking that are laid out anew for each piece

export class Answer {
  /** @param {{figures?: boolean, thought?: boolean}} options what to show from the beginning */
  constructor({ figures = true, thought = true } = {}) {
    this.open = { figures, thought };
    this.summary = h("span.thought-for");
    this.thought = h("div.thought-text", { tabindex: "0", role: "group", "data-t-label": "thinking" });
    const button = iconButton("copy", "copyThought", () => copy(this.message?.reasoning ?? "", button));
    this.details = h("details.thought", { hidden: true }, h("summary", {}, this.summary),
                     h("div.thought-body", {}, button, this.thought));
    this.waiting = h("p.waiting", { hidden: true }, h("span.dot"), h("span", { "data-t": "waiting" }));
    this.text = h("div.prose");
    this.note = h("p.note", { hidden: true });
    this.figures = h("p.figures", { hidden: true });
    this.element = h("div.answer", {}, this.details, this.waiting, this.text, this.note, this.figures);
    this.rendered = new Rendered(this.text);
    this.grown = 0; // characters of the thinking that are shown
    this.folded = false;
    this.live = false;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.timer = undefined;
  }

  /**
   * @param {import("./talk.js").Message} message
   * @param {import("./reply.js").Reply | null} reply while it is written
   * @param {boolean} elsewhere whether another tab is writing it
   */
  update(message, reply = null, elsewhere = false) {
    const begun = message.content || message.reasoning;
    const phase = reply?.phase ?? (elsewhere ? (begun ? "answering" : "waiting") : "over");
    this.message = message;
    this.waiting.hidden = phase !== "waiting" && !(phase === "thinking" && !this.open.thought);
    this.#thinking(message, reply);
    this.rendered.show(message.content, phase === "over");
    this.element.setAttribute("aria-busy", String(phase !== "over"));
    this.element.dataset.phase = phase;
    this.#notes(message, phase);
  }

  /** Show what was kept back. */
  reveal() {
    this.open = { figures: true, thought: true };
    if (this.message) this.update(this.message);
  }

  /** @param {import("./talk.js").Message} message @param {import("./reply.js").Reply | null} reply */
  #thinking(message, reply) {
    const now = reply?.phase === "thinking";
    const had = !this.details.hidden;
    this.details.hidden = !message.reasoning || !this.open.thought;
    if (this.details.hidden) return;
    this.#grow(message.reasoning ?? "");
    if (!now) {
      if (had && !this.folded && this.live) this.details.open = false; // once, at the first token of the answer
      this.folded = true;
      this.live = false;
      this.summary.textContent = words("thoughtFor", { s: figure(Math.round(message.thoughtS ?? 0)) });
      return;
    }
    if (!had) this.details.open = true;
    this.live = true;
    this.summary.textContent = words("thinkingNow", { s: figure(Math.floor(reply.thoughtS)) });
    this.timer ??= setInterval(() => this.#tick(reply), TICK_MS);
  }

  /** Put what is new behind what is shown, in blocks of whole lines. @param {string} text */
  #grow(text) {
    if (text.length === this.grown) return;
    const atEnd = this.thought.scrollHeight - this.thought.scrollTop - this.thought.clientHeight < 30;
    for (const line of text.slice(this.grown).split(/(?<=\n)/)) {
      const last = /** @type {Text | undefined} */ (this.thought.lastElementChild?.firstChild);
      if (!last || (last.length > BLOCK && last.data.endsWith("\n"))) this.thought.append(h("div", {}, line));
      else last.appendData(line);
    }
    this.grown = text.length;
    if (atEnd) this.thought.scrollTop = this.thought.scrollHeight;
  }

  /** @param {import("./reply.js").Reply} reply */
  #tick(reply) {
    if (reply.phase === "thinking") {
      this.summary.textContent = words("thinkingNow", { s: figure(Math.floor(reply.thoughtS)) });
      return;
    }
    clearInterval(this.timer);
    this.timer = undefined;
  }

  /** @param {import("./talk.js").Message} message @param {string} phase */
  #notes(message, phase) {
    const note = phase === "over" ? noteOf(message) : "";
    this.note.hidden = !note;
    this.note.textContent = note;
    this.note.classList.toggle("bad", Boolean(message.error));
    const line = this.open.figures && phase === "over" ? figuresOf(message) : "";
    this.figures.hidden = !line;
    this.figures.textContent = line;
  }
}

/** Why an answer is not whole; "" where it is. @param {import("./talk.js").Message} message */
export function noteOf({ finish, error }) {
  if (error) return words("failed", { why: error });
  if (finish === "stopped") return words("stopped");
  if (finish === "length") return words("cut");
  return finish === "lost" || !finish ? words("lost") : "";
}

/** @param {import("./talk.js").Message} message */
function figuresOf({ stats, model }) {
  if (!stats) return model ?? "";
  const parts = [
    model ?? "", words("perSecond", { n: figure(stats.perSecond, 1) }), words("first", { s: figure(stats.firstS, 2) }),
    words("tokens", { n: figure(stats.tokens) }),
    stats.reasoning ? words("thoughtTokens", { n: figure(stats.reasoning) }) : "",
  ];
  return parts.filter(Boolean).join(" · ");
}
