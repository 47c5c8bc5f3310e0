/** Where messages are written, with the switch and the budget of thinking beside it. */

import { byId } from "./dom.js";
import { setSetting, setting } from "./store.js";

const TALLEST_PX = 280;
const MODES = ["auto", "on", "off"];

export class Composer {
  /** @param {{send: (text: string) => void, stop: () => void, finish: () => void}} acts */
  constructor(acts) {
    this.acts = acts;
    this.form = byId("composer");
    this.box = byId("say");
    this.sendButton = byId("send");
    this.stopButton = byId("stop");
    this.finishButton = byId("finish");
    this.budget = byId("budget");
    this.busy = false;
    this.#restore();
    this.form.addEventListener("submit", (/** @type {Event} */ event) => this.#submit(event));
    this.box.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event));
    this.box.addEventListener("input", () => this.#fit());
    this.stopButton.addEventListener("click", () => acts.stop());
    this.finishButton.addEventListener("click", () => acts.finish());
    byId("thinking").addEventListener("change", () => this.#keep());
  }

  /** How the next answer is to be thought about. */
  get thinking() {
    const budget = this.budget.value === "" ? null : Math.max(0, Math.floor(Number(this.budget.value)));
    return { mode: this.form.elements.thinking.value, budget };
  }

  /** Go to the next mode of thinking. */
  cycle() {
    const next = MODES[(MODES.indexOf(this.thinking.mode) + 1) % MODES.length];
    this.form.elements.thinking.value = next;
    this.#keep();
  }

  focus() {
    this.box.focus();
  }

  /** @param {import("./reply.js").Reply | null} reply the one that is being written here */
  follow(reply) {
    const busy = Boolean(reply) && reply?.phase !== "over";
    this.finishButton.hidden = !busy || reply?.phase !== "thinking";
    if (busy === this.busy) return;
    const focused = [this.sendButton, this.stopButton].includes(document.activeElement);
    this.busy = busy;
    this.sendButton.hidden = busy;
    this.stopButton.hidden = !busy;
    if (focused) (busy ? this.stopButton : this.box).focus();
  }

  #restore() {
    const { mode, budget } = setting("thinking", { mode: "auto", budget: null });
    this.form.elements.thinking.value = MODES.includes(mode) ? mode : "auto";
    this.budget.value = budget ?? "";
    this.#keep();
  }

  #keep() {
    const { mode, budget } = this.thinking;
    this.budget.disabled = mode === "off";
    setSetting("thinking", { mode, budget });
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    // While an input method composes, Enter chooses a word.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    this.#submit(event);
  }

  /** @param {Event} event */
  #submit(event) {
    event.preventDefault();
    const text = this.box.value.replace(/^\s*\n/, "").trimEnd(); // the first line keeps its indentation
    if (!text.trim() || this.busy) return;
    this.box.value = "";
    this.#fit();
    this.acts.send(text);
  }

  #fit() {
    this.box.style.height = "auto";
    this.box.style.height = `${Math.min(this.box.scrollHeight, TALLEST_PX)}px`;
  }
}
