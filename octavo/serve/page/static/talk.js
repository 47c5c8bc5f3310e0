/**
 * Conversations as trees: each message knows which one it answers, and of several answers one is chosen. Pure.
 *
 * @typedef {{firstS: number, perSecond: number, tokens: number, reasoning: number, total: number}} Stats
 * @typedef {{id: string, parent: string, role: "user" | "assistant", content: string, reasoning?: string,
 *   thoughtS?: number, model?: string, finish?: string, error?: string, stats?: Stats,
 *   thinking?: {mode: string, budget: number | null}}} Message
 * @typedef {{id: string, title: string, updated: number, model: string, system: string,
 *   sampling: Record<string, number>, messages: Record<string, Message>, chosen: Record<string, string>}} Talk
 */

export const SAMPLING = /** @type {const} */ ({
  temperature: [0, 100], top_p: [0, 1], top_k: [0, 1e6], max_tokens: [1, 1e6], seed: [0, 2 ** 53 - 1],
});
const TITLE = 60;
const LIMITS = { messages: 5_000, characters: 2_000_000 };

/** Never given before. Over plain HTTP from another machine a browser has no `crypto.randomUUID`. */
function freshId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {Partial<Talk>} given @returns {Talk} */
export function newTalk(given = {}) {
  return {
    id: freshId(), title: "", updated: Date.now(), model: "", system: "", sampling: {}, messages: {},
    chosen: {}, ...given,
  };
}

/**
 * Add a message as an answer to `parent` ("" for the first one), chosen.
 * @param {Talk} talk @param {string} parent @param {Omit<Message, "id" | "parent">} message @returns {Message}
 */
export function add(talk, parent, message) {
  const added = { ...message, id: freshId(), parent };
  talk.messages[added.id] = added;
  talk.chosen[parent] = added.id;
  talk.updated = Date.now();
  if (!talk.title && message.role === "user") talk.title = titled(message.content);
  return added;
}

/** @param {string} text */
export function titled(text) {
  const line = text.trim().split("\n")[0];
  const signs = [...line];
  return signs.length > TITLE ? `${signs.slice(0, TITLE - 1).join("")}…` : line;
}

/**
 * The chosen messages, first to last; up to and with `until` where it is given.
 * @param {Talk} talk @param {string} until
 */
export function path(talk, until = "") {
  /** @type {Message[]} */
  const found = [];
  for (let id = talk.chosen[""]; id; id = talk.chosen[id]) {
    found.push(talk.messages[id]);
    if (id === until) break;
  }
  return found;
}

/** All answers to the same message, oldest first. @param {Talk} talk @param {string} id */
export function siblings(talk, id) {
  const { parent } = talk.messages[id];
  return Object.values(talk.messages).filter((message) => message.parent === parent);
}

/** Go to the sibling `step` places on. @param {Talk} talk @param {string} id @param {number} step */
export function turn(talk, id, step) {
  const all = siblings(talk, id);
  const to = all[all.findIndex((message) => message.id === id) + step];
  if (to) talk.chosen[to.parent] = to.id;
}

/** A new conversation that has what leads to message `id`. @param {Talk} talk @param {string} id */
export function forked(talk, id) {
  const fork = newTalk({ title: talk.title, model: talk.model, system: talk.system, sampling: { ...talk.sampling } });
  let parent = "";
  for (const { id: _, parent: __, ...message } of path(talk, id)) parent = add(fork, parent, message).id;
  return fork;
}

/**
 * Take over what another tab has kept of the same conversation: its messages are never removed and only grow.
 * @param {Talk} talk @param {Talk} other
 * @param {boolean} leads whether this tab says what is chosen, and all else beside messages
 */
export function merge(talk, other, leads) {
  for (const [id, message] of Object.entries(other.messages)) {
    const mine = (talk.messages[id] ??= message);
    if (length(message) >= length(mine) && (message.finish || !mine.finish)) Object.assign(mine, message);
  }
  const { messages } = talk;
  const chosen = leads ? { ...other.chosen, ...talk.chosen } : { ...talk.chosen, ...other.chosen };
  Object.assign(talk, leads ? {} : other, { messages, chosen });
}

/** @param {Message} message */
const length = ({ content, reasoning = "" }) => content.length + reasoning.length;

/** What the API wants of the messages up to `until`. @param {Talk} talk @param {string} until */
export function spoken(talk, until) {
  const system = talk.system.trim() ? [{ role: "system", content: talk.system }] : [];
  const said = path(talk, until).filter((message) => message.role === "user" || message.content || message.reasoning);
  return [...system, ...said.map(({ role, content }) => ({ role, content }))];
}

/**
 * Conversations of a file, with fresh ids. Throws an Error that says what is wrong.
 * @param {unknown} value @returns {Talk[]}
 */
export function imported(value) {
  const file = /** @type {any} */ (value);
  need(isObject(file) && file.format === "octavo-conversations" && file.version === 1, "format");
  need(Array.isArray(file.conversations) && file.conversations.length <= 10_000, "conversations");
  return file.conversations.map(checkedTalk);
}

/** @param {Talk[]} talks */
export function exported(talks) {
  return { format: "octavo-conversations", version: 1, conversations: talks };
}

/** @param {any} talk @returns {Talk} */
function checkedTalk(talk) {
  need(isObject(talk) && isObject(talk.messages) && isObject(talk.chosen), "conversation");
  const all = Object.entries(talk.messages);
  need(all.length <= LIMITS.messages, "messages");
  /** @type {Map<string, string>} */
  const ids = new Map(all.map(([id]) => [id, freshId()]));
  ids.set("", "");
  const renamed = (/** @type {unknown} */ id) => need(ids.get(/** @type {string} */ (id)), "id");
  const messages = all.map(([id, message]) => checkedMessage(message, renamed(id), parentOf(message, ids)));
  const chosen = Object.entries(talk.chosen).map(([from, to]) => [from && renamed(from), renamed(to)]);
  const made = newTalk({
    title: text(talk.title, 1000), model: text(talk.model, 1000), system: text(talk.system),
    updated: number(talk.updated), sampling: checkedSampling(talk.sampling),
    messages: Object.fromEntries(messages.map((one) => [one.id, one])), chosen: Object.fromEntries(chosen),
  });
  for (const [parent, child] of chosen) need(made.messages[child].parent === parent, "chosen");
  messages.forEach((one) => acyclic(made, one));
  return made;
}

/** @param {any} message @param {Map<string, string>} ids */
function parentOf(message, ids) {
  need(isObject(message) && ids.has(message.parent), "parent");
  return /** @type {string} */ (ids.get(message.parent));
}

/** @param {any} message @param {string} id @param {string} parent @returns {Message} */
function checkedMessage(message, id, parent) {
  need(message.role === "user" || message.role === "assistant", "role");
  /** @type {Message} */
  const made = { id, parent, role: message.role, content: text(message.content) };
  for (const name of /** @type {const} */ (["reasoning", "model", "finish", "error"])) {
    if (message[name] !== undefined) made[name] = text(message[name]);
  }
  if (message.thoughtS !== undefined) made.thoughtS = number(message.thoughtS);
  if (message.stats !== undefined) {
    const { firstS, perSecond, tokens, reasoning, total } = need(isObject(message.stats) && message.stats, "stats");
    made.stats = { firstS: number(firstS), perSecond: number(perSecond), tokens: number(tokens),
                   reasoning: number(reasoning), total: number(total) };
  }
  return made;
}

/** @param {unknown} sampling */
export function checkedSampling(sampling) {
  /** @type {Record<string, number>} */
  const made = {};
  for (const [name, value] of Object.entries(/** @type {any} */ (need(isObject(sampling) && sampling, "sampling")))) {
    const bounds = SAMPLING[/** @type {keyof typeof SAMPLING} */ (name)];
    need(bounds && number(value) >= bounds[0] && number(value) <= bounds[1], name);
    made[name] = /** @type {number} */ (value);
  }
  return made;
}

/** @param {Talk} talk @param {Message} message */
function acyclic(talk, message) {
  let steps = 0;
  for (let at = message; at.parent; at = talk.messages[at.parent]) need(++steps <= LIMITS.messages, "parent");
}

/** @param {unknown} value @returns {boolean} */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** @template T @param {T} value @param {string} field @returns {NonNullable<T>} */
function need(value, field) {
  if (!value) throw new Error(field);
  return value;
}

/** @param {unknown} value @param {number} longest */
function text(value, longest = LIMITS.characters) {
  need(typeof value === "string" && value.length <= longest, "text");
  return /** @type {string} */ (value);
}

/** @param {unknown} value */
function number(value) {
  need(typeof value === "number" && Number.isFinite(value), "number");
  return /** @type {number} */ (value);
}
