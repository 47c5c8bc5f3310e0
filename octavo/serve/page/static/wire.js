/** The server's API, as far as the page uses it. Cookies carry who asks; the page itself knows no key. */

/** An answer that is no success. `kind` is the server's word for it. */
export class Refused extends Error {
  /** @param {string} message @param {number} status @param {string} kind */
  constructor(message, status, kind) {
    super(message);
    this.status = status;
    this.kind = kind;
  }
}

const listeners = new Set();

/** Call `listener` whenever the server asks who we are. @param {() => void} listener */
export function onUnknown(listener) {
  listeners.add(listener);
}

/** @param {string} path @param {RequestInit} options @returns {Promise<Response>} */
async function ask(path, options = {}) {
  const response = await fetch(path, { credentials: "same-origin", ...options });
  if (response.ok) return response;
  const { message, type } = await reason(response);
  if (response.status === 401 && path !== "/session") listeners.forEach((listener) => listener());
  throw new Refused(message, response.status, type);
}

/** @param {Response} response */
async function reason(response) {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text);
    return { message: String(error.message), type: String(error.type) };
  } catch {
    return { message: text || `${response.status} ${response.statusText}`, type: "server_error" };
  }
}

/** @param {string} path @param {unknown} value @param {RequestInit} options */
function post(path, value, options = {}) {
  const headers = { "content-type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(value), ...options });
}

/** @returns {Promise<{id: string, max_model_len: number | null, state: string}[]>} */
export async function models() {
  return (await (await ask("/v1/models")).json()).data;
}

/** The clean HTML of a text. @param {string} text @returns {Promise<string>} */
export async function rendered(text) {
  return (await (await post("/page/render", { text })).json()).html;
}

/** Exchange an API key for a cookie. @param {string} key */
export async function logIn(key) {
  await post("/session", { key });
}

/** Whether this browser is logged in. A server without keys knows no sessions. @returns {Promise<boolean>} */
export async function loggedIn() {
  return Boolean((await (await ask("/session")).json()).logged_in);
}

export async function logOut() {
  await ask("/session", { method: "DELETE" });
}

/** @param {string} id of the request, without the dialect's prefix */
export async function endThinking(id) {
  await post(`/v1/requests/${encodeURIComponent(id)}/end_thinking`, {});
}

/** @param {string} id */
export async function cancel(id) {
  await post(`/v1/requests/${encodeURIComponent(id)}/cancel`, {}, { keepalive: true });
}

/**
 * The chunks of a chat completion as they come.
 * @param {Record<string, unknown>} body
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<any>}
 */
export async function* chat(body, signal) {
  const wanted = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await post("/v1/chat/completions", wanted, { signal });
  for await (const data of events(response)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(chunk.error.message, 500, chunk.error.type);
    yield chunk;
  }
}

/** The data of server-sent events. @param {Response} response @returns {AsyncGenerator<string>} */
async function* events(response) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const lines = rest.split(/\r?\n/);
    rest = lines.pop() ?? "";
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trimStart();
    if (done) return;
  }
}
