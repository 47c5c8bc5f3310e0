/** The list of conversations, and their way in and out as files. */

import { byId, h, icon } from "./dom.js";
import { announce, notice } from "./speak.js";
import { exported, imported } from "./talk.js";
import { words } from "./words.js";

const LARGEST = 50_000_000; // bytes of a file

export class Side {
  /**
   * @param {import("./store.js").Store} store
   * @param {{open: (id: string) => void, fresh: () => void, remove: (id: string) => void, current: () => string}} acts
   */
  constructor(store, acts) {
    this.store = store;
    this.acts = acts;
    this.list = byId("talks");
    byId("new").addEventListener("click", () => acts.fresh());
    byId("import").addEventListener("click", () => byId("file").click());
    byId("file").addEventListener("change", () => this.#read());
    byId("export-one").addEventListener("click", () =>
      this.#write(store.list().filter(({ id }) => id === acts.current())));
    byId("export-all").addEventListener("click", () => this.#write(this.store.list()));
  }

  show() {
    const talks = this.store.list();
    byId("no-talks").hidden = talks.length > 0;
    this.list.replaceChildren(...talks.map((talk) => this.#row(talk)));
  }

  /** @param {import("./talk.js").Talk} talk */
  #row(talk) {
    const here = talk.id === this.acts.current();
    const title = talk.title || words("newTalk");
    const remove = () => confirm(words("removeSure", { title })) && this.acts.remove(talk.id);
    const open = () => this.acts.open(talk.id);
    return h("li", {},
      h("button.talk", { type: "button", "aria-current": here ? "true" : null, onclick: open }, title),
      h("button.icon-button.remove", { type: "button", "aria-label": `${words("remove")}: ${title}`, onclick: remove },
        icon("trash")));
  }

  async #read() {
    const input = byId("file");
    const file = input.files[0];
    input.value = "";
    if (!file) return;
    try {
      if (file.size > LARGEST) throw new Error("size");
      const talks = imported(JSON.parse(await file.text()));
      for (const talk of talks) await this.store.put(talk);
      announce(words("imported", { count: talks.length }));
      notice(words("imported", { count: talks.length }));
      if (talks.length) this.acts.open(talks[0].id);
    } catch (cause) {
      notice(words("importFailed", { field: cause instanceof Error ? cause.message : "" }));
    }
  }

  /** @param {import("./talk.js").Talk[]} talks */
  #write(talks) {
    const blob = new Blob([JSON.stringify(exported(talks), null, 1)], { type: "application/json" });
    const link = h("a", { href: URL.createObjectURL(blob), download: "octavo-conversations.json" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}
