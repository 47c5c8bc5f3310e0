/** The page: which conversation is open, what is asked, and who shows it. */

import { Compare } from "./compare.js";
import { Composer } from "./composer.js";
import { Conversation, welcome } from "./conversation.js";
import { byId, h } from "./dom.js";
import { LogIn, languages, shortcuts, themes } from "./chrome.js";
import { Panel } from "./panel.js";
import { Reply } from "./reply.js";
import { Side } from "./side.js";
import { announce, notice, Reader } from "./speak.js";
import { setSetting, setting, Store } from "./store.js";
import { add, forked, newTalk, path, spoken, turn } from "./talk.js";
import { Refused, models } from "./wire.js";
import { figure, show, words } from "./words.js";

const SAVE_MS = 1000;

class App {
  /** @param {Store} store */
  constructor(store) {
    this.store = store;
    this.talk = newTalk();
    /** @type {Map<string, Reply>} */
    this.replies = new Map();
    /** By conversation, the message that another tab is writing. @type {Map<string, string>} */
    this.elsewhere = new Map();
    /** @type {{id: string, max_model_len: number | null}[]} */
    this.models = [];
    this.view = new Conversation(byId("messages"), byId("scroller"), byId("to-end"), {
      edit: (message, text) => this.edit(message, text),
      again: (message) => this.answer(this.talk, message.parent),
      fork: (message) => this.fork(message),
      turn: (message, step) => this.turn(message, step),
    });
    this.composer = new Composer({
      send: (text) => this.send(text), stop: () => this.stop(), finish: () => this.finish(),
    });
    this.panel = new Panel((changed) => this.keep(changed));
    this.side = new Side(store, {
      open: (id) => this.open(store.all.get(id) ?? newTalk()), fresh: () => this.fresh(),
      remove: (id) => this.remove(id), current: () => this.talk.id,
    });
    this.compare = new Compare(({ model, mode }, prompt) =>
      body({ model, thinking: { mode, budget: null }, messages: [{ role: "user", content: prompt }], sampling: {} }));
  }

  /** The answer that is being written in the open conversation. */
  get reply() {
    return this.replies.get(this.talk.id) ?? null;
  }

  get model() {
    const known = this.models.some(({ id }) => id === this.talk.model);
    return known ? this.talk.model : (setting("model", "") || (this.models[0]?.id ?? ""));
  }

  async loadModels() {
    try {
      this.models = await models();
      if (!this.models.some(({ id }) => id === setting("model", ""))) setSetting("model", this.models[0]?.id ?? "");
    } catch (cause) {
      if (!(cause instanceof Refused || cause instanceof TypeError)) throw cause;
      const asked = cause instanceof Refused && cause.status === 401; // for a key, by the dialog
      if (!asked) notice(words("failed", { why: cause.message }));
    }
    this.compare.offer(this.models);
    this.showModels();
  }

  showModels() {
    const options = this.models.map(({ id }) => h("option", { value: id, selected: id === this.model }, id));
    const none = h("option", { value: "", "data-t": "noModels" });
    byId("model").replaceChildren(...(options.length ? options : [none]));
    this.gauge();
  }

  /** @param {string} name */
  chooseModel(name) {
    this.talk.model = name;
    setSetting("model", name);
    this.keep({});
    this.gauge();
  }

  /** @param {import("./talk.js").Talk} talk */
  open(talk) {
    if (talk !== this.talk) this.view.clear();
    this.talk = talk;
    document.body.classList.remove("side-open", "comparing");
    byId("menu").setAttribute("aria-expanded", "false");
    this.refresh();
    this.showModels();
    this.composer.focus();
  }

  fresh() {
    const { system, sampling, model } = this.talk;
    this.open(newTalk({ system, sampling: { ...sampling }, model }));
  }

  refresh() {
    this.view.show(this.talk, this.reply, this.elsewhere.get(this.talk.id) ?? "");
    if (!this.talk.chosen[""]) byId("messages").replaceChildren(welcome());
    this.composer.follow(this.reply);
    this.side.show();
    this.gauge();
    document.title = this.talk.title ? `${this.talk.title} – Octavo` : "Octavo";
  }

  /** Tokens of the last answer's prompt and of itself, beside what the model can hold. */
  gauge() {
    const used = path(this.talk).reduce((last, message) => message.stats?.total || last, 0);
    const all = this.models.find(({ id }) => id === this.model)?.max_model_len ?? 0;
    byId("gauge").hidden = !used || !all;
    const bar = byId("gauge-bar");
    const line = words("contextOf", { used: figure(used), all: figure(all) });
    bar.ariaValueMax = String(all);
    bar.ariaValueNow = String(used);
    bar.ariaValueText = line;
    bar.firstElementChild.style.width = `${Math.min(100, (100 * used) / all)}%`;
    byId("gauge-text").textContent = line;
  }

  /** @param {Partial<import("./talk.js").Talk>} changed */
  keep(changed) {
    Object.assign(this.talk, changed);
    if (this.talk.chosen[""]) this.store.put(this.talk);
  }

  /** @param {string} text */
  send(text) {
    const last = path(this.talk).at(-1);
    const said = add(this.talk, last?.id ?? "", { role: "user", content: text });
    return this.answer(this.talk, said.id);
  }

  /**
   * Another tab has changed a conversation: show it as it is now.
   * @param {string} id @param {string} writing the message that is not whole yet
   */
  follow(id, writing) {
    const there = this.store.all.has(id);
    this.elsewhere.set(id, writing);
    if (!there) this.replies.get(id)?.stop();
    if (id !== this.talk.id) this.side.show();
    else if (there) this.refresh();
    else this.fresh();
  }

  /** @param {import("./talk.js").Message} message @param {string} text */
  async edit(message, text) {
    await this.halt(this.talk);
    const { role, model, reasoning, thoughtS } = message;
    const kept = role === "user" ? {} : { model, reasoning, thoughtS, finish: "stop" };
    const edited = add(this.talk, message.parent, { role, content: text, ...kept });
    if (role === "user") return this.answer(this.talk, edited.id);
    await this.store.put(this.talk);
    this.refresh();
  }

  /** @param {import("./talk.js").Message} message */
  async fork(message) {
    const fork = forked(this.talk, message.id);
    await this.store.put(fork);
    this.open(fork);
  }

  /** @param {import("./talk.js").Message} message @param {number} step */
  turn(message, step) {
    turn(this.talk, message.id, step);
    this.store.put(this.talk);
    this.refresh();
    this.view.turned(this.talk.chosen[message.parent], step);
  }

  /** @param {string} id */
  async remove(id) {
    this.replies.get(id)?.stop();
    await this.store.remove(id);
    if (id === this.talk.id) this.fresh();
    else this.side.show();
  }

  /** Have the model answer message `parent`. @param {import("./talk.js").Talk} talk @param {string} parent */
  async answer(talk, parent) {
    await this.halt(talk);
    const { model, composer: { thinking } } = this;
    talk.model = model;
    const messages = spoken(talk, parent);
    const reply = new Reply(add(talk, parent, { role: "assistant", content: "", model, thinking }));
    this.replies.set(talk.id, reply);
    await this.store.put(talk, reply.message.id);
    this.refresh();
    if (talk === this.talk) this.view.scroll();
    const follow = this.#follower(talk, reply);
    await reply.run(body({ model, thinking, messages, sampling: talk.sampling }), follow);
    this.replies.delete(talk.id);
    if (this.store.all.has(talk.id)) await this.store.put(talk); // it may have been deleted meanwhile
    if (talk === this.talk) this.refresh();
    if (!this.models.find(({ id }) => id === model)?.max_model_len) await this.loadModels();
  }

  /** What to do at each piece. @param {import("./talk.js").Talk} talk @param {Reply} reply */
  #follower(talk, reply) {
    const reader = new Reader();
    let savedMs = performance.now();
    let phase = "";
    return () => {
      if (performance.now() - savedMs > SAVE_MS) {
        savedMs = performance.now();
        if (this.store.all.has(talk.id)) this.store.put(talk, reply.message.id);
      }
      if (talk !== this.talk) return;
      this.view.grow(reply);
      this.composer.follow(reply);
      if (phase !== reply.phase && reply.phase === "thinking") announce(words("thinking"));
      phase = reply.phase;
      reader.hear(reply.message.content, phase === "over");
      if (phase === "over") announce(words(reply.message.finish === "stopped" ? "stopped" : "answered"));
    };
  }

  /** Stop what is being written in a conversation, and wait until it is over. @param {import("./talk.js").Talk} talk */
  async halt(talk) {
    const reply = this.replies.get(talk.id);
    await reply?.stop();
    while (this.replies.get(talk.id) === reply && reply) await new Promise((resolve) => setTimeout(resolve, 10));
  }

  stop() {
    this.reply?.stop();
    this.compare.stop();
  }

  async finish() {
    try {
      await this.reply?.endThinking();
    } catch (cause) {
      if (!(cause instanceof Refused || cause instanceof TypeError)) throw cause;
      notice(words("failed", { why: cause.message }));
    }
  }
}

/**
 * @param {{model: string, thinking: {mode: string, budget: number | null}, messages: unknown[],
 *   sampling: Record<string, number>}} wanted
 */
function body({ model, thinking: { mode, budget }, messages, sampling }) {
  const switched = mode === "auto" ? {} : { enable_thinking: mode === "on" };
  const bounded = budget === null || mode === "off" ? {} : { thinking_budget: budget };
  return { model, messages, ...sampling, ...switched, ...bounded };
}

async function main() {
  const app = new App(await Store.open());
  const logIn = new LogIn(async () => {
    await app.loadModels();
    app.view.clear(); // what could not be rendered without a key can be now
    app.refresh();
  });
  const again = () => {
    show();
    app.view.clear();
    app.compare.refresh();
    app.refresh();
    app.showModels();
  };
  app.store.watch((id, writing) => app.follow(id, writing), (id) => app.replies.has(id));
  app.store.failed = ({ message }) => notice(words("notKept", { why: message }));
  languages(again);
  themes();
  shortcuts(app);
  show();
  logIn.watch();
  byId("model").addEventListener("change", () => app.chooseModel(byId("model").value));
  byId("settings").addEventListener("click", () => app.panel.open(app.talk));
  app.open(newTalk());
  await Promise.all([app.loadModels(), logIn.offer()]);
}

main();
