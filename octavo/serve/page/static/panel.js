/** Instructions and sampling of a conversation, and presets of them. */

import { byId, h } from "./dom.js";
import { setSetting, setting } from "./store.js";
import { SAMPLING } from "./talk.js";

const OWN = {
  presetOwn: {}, presetExact: { temperature: 0 }, presetBalanced: { temperature: 0.7, top_p: 0.8, top_k: 20 },
  presetFree: { temperature: 1.1, top_p: 0.95 },
};
const STEPS = { temperature: "0.1", top_p: "0.05", top_k: "1", max_tokens: "1", seed: "1" };

export class Panel {
  /** @param {(changed: {system: string, sampling: Record<string, number>}) => void} changed */
  constructor(changed) {
    this.changed = changed;
    this.dialog = byId("panel");
    this.system = byId("system");
    this.preset = byId("preset");
    this.name = byId("preset-name");
    /** @type {Record<string, HTMLInputElement>} */
    this.fields = Object.fromEntries(Object.entries(SAMPLING).map(([name, bounds]) => [name, field(name, bounds)]));
    byId("sampling").append(...Object.values(this.fields).map((input) => input.parentElement));
    this.dialog.addEventListener("input", (/** @type {Event} */ event) => this.#input(event));
    byId("preset-save").addEventListener("click", () => this.#save());
    this.removing = byId("preset-remove");
    this.removing.addEventListener("click", () => this.#remove());
  }

  /** @param {import("./talk.js").Talk} talk */
  open(talk) {
    this.#fill(talk);
    this.#presets();
    this.dialog.showModal();
  }

  /** @param {{system: string, sampling: Record<string, number>}} values */
  #fill({ system, sampling }) {
    this.system.value = system;
    for (const [name, input] of Object.entries(this.fields)) input.value = String(sampling[name] ?? "");
  }

  get values() {
    const given = Object.entries(this.fields).filter(([, input]) => input.value !== "" && input.checkValidity());
    const sampling = Object.fromEntries(given.map(([name, input]) => [name, Number(input.value)]));
    return { system: this.system.value, sampling };
  }

  /** @returns {Record<string, {system: string, sampling: Record<string, number>}>} */
  get saved() {
    return setting("presets", {});
  }

  #presets() {
    const own = Object.keys(OWN).map((key) => h("option", { value: `own:${key}`, "data-t": key }));
    const saved = Object.keys(this.saved).map((name) => h("option", { value: `saved:${name}` }, name));
    this.preset.replaceChildren(h("option", { value: "" }, "—"), ...own, ...saved);
    this.removing.hidden = true;
  }

  /** @param {Event} event */
  #input(event) {
    if (event.target === this.name) return;
    if (event.target === this.preset) {
      const [kind, name] = this.preset.value.split(/:(.*)/);
      if (kind === "own") this.#fill({ system: this.system.value, sampling: OWN[/** @type {keyof OWN} */ (name)] });
      if (kind === "saved") this.#fill(this.saved[name]);
    } else this.preset.value = "";
    this.removing.hidden = !this.preset.value.startsWith("saved:");
    this.changed(this.values);
  }

  #save() {
    const name = this.name.value.trim();
    if (!name) return this.name.focus();
    setSetting("presets", { ...this.saved, [name]: this.values });
    this.#presets();
    this.preset.value = `saved:${name}`;
    this.removing.hidden = false;
    this.name.value = "";
  }

  #remove() {
    const { [this.preset.value.slice("saved:".length)]: _, ...others } = this.saved;
    setSetting("presets", others);
    this.#presets();
    this.preset.focus();
  }
}

/** @param {string} name @param {readonly [number, number]} bounds @returns {HTMLInputElement} */
function field(name, [min, max]) {
  const step = STEPS[/** @type {keyof STEPS} */ (name)];
  const input = h("input", { type: "number", id: `sampling-${name}`, min, max, step, "data-t-placeholder": "unset" });
  h("div.field", {}, h("label", { for: input.id, "data-t": name }), input);
  return input;
}
