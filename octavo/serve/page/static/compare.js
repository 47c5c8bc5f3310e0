/** Two models on one prompt, side by side and unnamed until the vote. */

import { Answer } from "./answer.js";
import { byId, h } from "./dom.js";
import { Reply } from "./reply.js";
import { announce } from "./speak.js";
import { setSetting, setting } from "./store.js";
import { words } from "./words.js";

/** @typedef {{model: string, mode: string}} Contestant */
/** @typedef {Record<string, {wins: number, losses: number, ties: number}>} Tally */

/** @param {Contestant} one */
const named = ({ model, mode }) => (mode === "auto" ? model : `${model} · ${words("thinking")}: ${words(mode)}`);

/** @param {Contestant} one */
const keyed = ({ model, mode }) => `${model} ${mode}`;

export class Compare {
  /** @param {(contestant: Contestant, prompt: string) => Record<string, unknown>} bodyOf the request's body */
  constructor(bodyOf) {
    this.bodyOf = bodyOf;
    this.prompt = byId("compare-say");
    /** @type {Reply[]} */
    this.replies = [];
    /** @type {Contestant[]} */
    this.sides = [];
    /** @type {Answer[]} */
    this.answers = [];
    /** @type {HTMLElement[]} */
    this.names = [];
    byId("compare-form").addEventListener("submit", (/** @type {Event} */ event) => this.#begin(event));
    this.prompt.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) this.#begin(event);
    });
    for (const vote of ["a", "b", "tie"]) byId(`vote-${vote}`).addEventListener("click", () => this.#vote(vote));
    byId("compare-stop").addEventListener("click", () => this.stop());
    byId("tally-reset").addEventListener("click", () => this.#reset());
    this.#showTally();
  }

  /** @param {{id: string}[]} models */
  offer(models) {
    ["one", "two"].forEach((which, i) => {
      const select = byId(`compare-${which}`);
      const chosen = select.value || models[Math.min(i, models.length - 1)]?.id;
      select.replaceChildren(...models.map(({ id }) => h("option", { value: id, selected: id === chosen }, id)));
    });
  }

  /** Show figures and names in the language that is chosen now. */
  refresh() {
    this.#showTally();
  }

  stop() {
    for (const reply of this.replies) reply.stop();
  }

  /** @param {Event} event */
  async #begin(event) {
    event.preventDefault();
    const prompt = this.prompt.value.trim();
    if (!prompt || this.replies.some((reply) => reply.phase !== "over")) return;
    this.sides = ["one", "two"].map((which) => ({
      model: byId(`compare-${which}`).value, mode: byId(`compare-${which}-mode`).value,
    }));
    if (crypto.getRandomValues(new Uint8Array(1))[0] % 2) this.sides.reverse();
    this.prompt.value = "";
    this.#board(prompt);
    this.#busy(true);
    await Promise.all(this.replies.map((reply, i) => this.#run(reply, i, prompt)));
    this.#busy(false);
    if (this.replies.every((reply) => !reply.message.error)) byId("votes").hidden = false;
    announce(words("vote"));
  }

  /** @param {boolean} on */
  #busy(on) {
    const [from, to] = on ? ["compare-ask", "compare-stop"] : ["compare-stop", "compare-ask"];
    const focused = document.activeElement === byId(from);
    byId(to).hidden = false;
    byId(from).hidden = true;
    if (focused) byId(to).focus();
  }

  /** @param {string} prompt */
  #board(prompt) {
    byId("votes").hidden = true;
    byId("compare-prompt").textContent = prompt;
    this.answers = this.sides.map(() => new Answer({ figures: false, thought: false }));
    this.names = this.sides.map((_, i) => h("h2", {}, words("side", { name: "AB"[i] })));
    const columns = this.answers.map((answer, i) => h("section.column", {}, this.names[i], answer.element));
    byId("board").replaceChildren(...columns);
    this.replies = this.sides.map(() => new Reply({ id: "", parent: "", role: "assistant", content: "" }));
  }

  /** @param {Reply} reply @param {number} i @param {string} prompt */
  async #run(reply, i, prompt) {
    const answer = this.answers[i];
    answer.update(reply.message, reply);
    await reply.run(this.bodyOf(this.sides[i], prompt), () => answer.update(reply.message, reply));
  }

  /** @param {string} vote */
  #vote(vote) {
    byId("votes").hidden = true;
    const tally = this.tally;
    const [a, b] = this.sides.map((side) => (tally[keyed(side)] ??= { wins: 0, losses: 0, ties: 0 }));
    if (vote === "tie") [a, b].forEach((one) => (one.ties += 1));
    else {
      (vote === "a" ? a : b).wins += 1;
      (vote === "a" ? b : a).losses += 1;
    }
    setSetting("tally", tally);
    this.sides.forEach((side, i) => {
      this.names[i].textContent = `${"AB"[i]}: ${named(side)}`;
      this.answers[i].reveal();
    });
    this.#showTally();
    announce(words("revealed", { a: named(this.sides[0]), b: named(this.sides[1]) }));
  }

  /** @returns {Tally} */
  get tally() {
    return setting("tally", {});
  }

  #showTally() {
    const rows = Object.entries(this.tally).map(([key, { wins, losses, ties }]) => {
      const [, model, mode] = /** @type {RegExpMatchArray} */ (key.match(/^(.*) (\w+)$/));
      return h("tr", {}, h("th", { scope: "row" }, named({ model, mode })),
               ...[wins, losses, ties].map((count) => h("td", {}, String(count))));
    });
    byId("tally").hidden = !rows.length;
    byId("tally-rows").replaceChildren(...rows);
  }

  #reset() {
    setSetting("tally", {});
    this.#showTally();
  }
}
