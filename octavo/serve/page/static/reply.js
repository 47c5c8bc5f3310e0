/** One answer while it is written: asked for, watched, stopped. Knows nothing of how it looks. */

import { cancel, chat, endThinking, Refused } from "./wire.js";

const FRAME_MS = 33; // a small model writes more than a thousand tokens a second

/**
 * @typedef {"waiting" | "thinking" | "answering" | "over"} Phase
 * @typedef {import("./talk.js").Message} Message
 */

export class Reply {
  /** @param {Message} message is filled as tokens come */
  constructor(message) {
    this.message = message;
    /** @type {Phase} */
    this.phase = "waiting";
    this.id = "";
    this.abort = new AbortController();
    this.begin = performance.now();
    this.firstMs = 0;
    this.thoughtMs = 0;
    this.lastMs = 0;
    this.pieces = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.soon = undefined;
  }

  /** Seconds of thinking until now, or in all. */
  get thoughtS() {
    return (this.phase === "thinking" ? performance.now() - this.begin - this.thoughtMs : 0) / 1000;
  }

  /**
   * Ask, and call `changed` as pieces come, at most once a frame. Ends when the answer does, however it does.
   * @param {Record<string, unknown>} body @param {() => void} changed
   */
  async run(body, changed) {
    try {
      for await (const chunk of chat(body, this.abort.signal)) {
        this.#take(chunk);
        this.soon ??= setTimeout(() => this.#tell(changed), FRAME_MS);
      }
      this.message.finish ??= "lost";
    } catch (cause) {
      if (this.abort.signal.aborted) this.message.finish = "stopped";
      else if (cause instanceof Refused || cause instanceof TypeError) this.#fail(cause);
      else throw cause;
    }
    this.#endThought();
    this.phase = "over";
    this.message.stats ??= this.#counted();
    this.#tell(changed);
  }

  /** @param {() => void} changed */
  #tell(changed) {
    clearTimeout(this.soon);
    this.soon = undefined;
    changed();
  }

  /** @param {Error} cause */
  #fail(cause) {
    this.message.finish = "error";
    this.message.error = cause.message;
  }

  /** @param {any} chunk */
  #take(chunk) {
    this.id ||= String(chunk.id ?? "").replace(/^chatcmpl-/, "");
    const choice = chunk.choices?.[0];
    const thought = choice?.delta?.reasoning ?? choice?.delta?.reasoning_content ?? "";
    if (thought) {
      this.#came("thinking");
      this.message.reasoning = (this.message.reasoning ?? "") + thought;
    }
    if (choice?.delta?.content) {
      this.#came("answering");
      this.message.content += choice.delta.content;
    }
    if (choice?.finish_reason) this.message.finish = choice.finish_reason;
    if (chunk.usage) this.message.stats = this.#stats(chunk.usage, chunk.timings);
  }

  /** @param {Phase} phase */
  #came(phase) {
    const now = performance.now() - this.begin;
    this.firstMs ||= now;
    this.lastMs = now;
    this.pieces += 1;
    if (phase === this.phase) return;
    if (phase === "thinking") this.thoughtMs = now;
    else this.#endThought();
    this.phase = phase;
  }

  #endThought() {
    if (this.phase === "thinking") this.message.thoughtS = this.thoughtS;
  }

  /** @param {any} usage @param {any} timings @returns {import("./talk.js").Stats} */
  #stats(usage, timings) {
    const tokens = usage.completion_tokens ?? 0;
    const ms = timings?.predicted_ms || this.lastMs - this.firstMs;
    return {
      firstS: this.firstMs / 1000, tokens, perSecond: timings?.predicted_per_second || (ms ? (tokens / ms) * 1000 : 0),
      reasoning: usage.completion_tokens_details?.reasoning_tokens ?? 0, total: usage.total_tokens ?? 0,
    };
  }

  /** What can be said of an answer that was cut short: pieces are tokens, or nearly. */
  #counted() {
    if (!this.pieces) return undefined;
    const ms = this.lastMs - this.firstMs;
    return { firstS: this.firstMs / 1000, tokens: this.pieces, perSecond: ms ? (this.pieces / ms) * 1000 : 0,
             reasoning: 0, total: 0 };
  }

  /** Stop writing: here at once, and on the server. */
  async stop() {
    if (this.phase === "over") return;
    this.abort.abort();
    if (this.id) await tolerant(cancel(this.id));
  }

  /** Have the model answer with what it has thought so far. */
  async endThinking() {
    if (this.id && this.phase === "thinking") await endThinking(this.id);
  }
}

/** A request that is over already cannot be cancelled, and need not be. @param {Promise<void>} work */
async function tolerant(work) {
  try {
    await work;
  } catch (cause) {
    if (!(cause instanceof Refused || cause instanceof TypeError)) throw cause;
  }
}
