/** What stays in this browser: conversations in IndexedDB, settings in localStorage. Never a key. */

const NAME = "octavo";
const TABLE = "conversations";

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Conversations, all in memory and each written when it changes. Other tabs are told. */
export class Store {
  /** @param {IDBDatabase} database */
  constructor(database) {
    this.database = database;
    this.channel = new BroadcastChannel(NAME);
    /** @type {Map<string, import("./talk.js").Talk>} */
    this.all = new Map();
  }

  static async open() {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
    const store = new Store(await settled(request));
    for (const talk of await settled(store.#table("readonly").getAll())) store.all.set(talk.id, talk);
    return store;
  }

  /** @param {IDBTransactionMode} mode */
  #table(mode) {
    return this.database.transaction(TABLE, mode).objectStore(TABLE);
  }

  /** Call `changed` for each conversation that another tab has changed. @param {(id: string) => void} changed */
  watch(changed) {
    this.channel.onmessage = async ({ data: id }) => {
      const talk = await settled(this.#table("readonly").get(id));
      if (talk) this.all.set(id, talk);
      else this.all.delete(id);
      changed(id);
    };
  }

  /** Newest first. */
  list() {
    return [...this.all.values()].sort((a, b) => b.updated - a.updated);
  }

  /** @param {import("./talk.js").Talk} talk */
  async put(talk) {
    this.all.set(talk.id, talk);
    await settled(this.#table("readwrite").put(talk));
    this.channel.postMessage(talk.id);
  }

  /** @param {string} id */
  async remove(id) {
    this.all.delete(id);
    await settled(this.#table("readwrite").delete(id));
    this.channel.postMessage(id);
  }
}

/**
 * A setting, or `fallback` where there is none or it cannot be read.
 * @template T @param {string} name @param {T} fallback @returns {T}
 */
export function setting(name, fallback) {
  const text = localStorage.getItem(`octavo.${name}`);
  if (text === null) return fallback;
  try {
    return JSON.parse(text);
  } catch {
    return fallback;
  }
}

/** @param {string} name @param {unknown} value */
export function setSetting(name, value) {
  localStorage.setItem(`octavo.${name}`, JSON.stringify(value));
}
