/** What stays in this browser: conversations in IndexedDB, settings in localStorage. Never a key. */

import { merge } from "./talk.js";

const NAME = "octavo";
const TABLE = "conversations";

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {IDBTransaction} transaction @returns {Promise<void>} */
function written(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new DOMException("aborted", "AbortError"));
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
    this.full = false; // nothing can be written
    /** Called once when that begins. @type {(cause: DOMException) => void} */
    this.failed = () => {};
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

  /**
   * Call `changed` for each conversation that another tab has changed, with the message that it is still writing.
   * @param {(id: string, writing: string) => void} changed
   * @param {(id: string) => boolean} leads whether this tab goes on with that conversation itself
   */
  watch(changed, leads) {
    this.channel.onmessage = async ({ data: { id, writing } }) => {
      const talk = await settled(this.#table("readonly").get(id));
      const held = this.all.get(id);
      if (talk && held) merge(held, talk, leads(id));
      else if (talk) this.all.set(id, talk);
      else this.all.delete(id);
      changed(id, writing);
    };
  }

  /** Newest first. */
  list() {
    return [...this.all.values()].sort((a, b) => b.updated - a.updated);
  }

  /**
   * Write a conversation, with what other tabs have added to it. What cannot be written is told, and stays in memory.
   * @param {import("./talk.js").Talk} talk @param {string} writing id of the message that is not whole yet
   */
  async put(talk, writing = "") {
    this.all.set(talk.id, talk);
    const table = this.#table("readwrite");
    try {
      const stored = await settled(table.get(talk.id));
      if (stored) merge(talk, stored, true);
      table.put(talk);
      await written(table.transaction);
    } catch (cause) {
      if (!(cause instanceof DOMException)) throw cause;
      if (!this.full) this.failed(cause);
      this.full = true;
      return;
    }
    this.full = false;
    this.channel.postMessage({ id: talk.id, writing });
  }

  /** @param {string} id */
  async remove(id) {
    this.all.delete(id);
    await settled(this.#table("readwrite").delete(id));
    this.channel.postMessage({ id, writing: "" });
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
