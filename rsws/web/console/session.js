// What the console asks of the gateway: over a WebSocket by rsws.js, and over plain HTTP.

import { connect } from "./rsws.js";

export const ROOT = new URL("../", import.meta.url); // of the gateway, behind whatever prefix

const PATIENCE_MS = 20_000;
const MESSAGE = /^\{"event":"message","channel":"(?:[^"\\]|\\.)*","streamId":"[\d-]+","data":/;

// rsws.js hands over what JSON.parse makes of `data`. Made a string of its text it survives as it was published.
const quoteData = (text) => {
  const head = MESSAGE.exec(text)?.[0];
  return head ? `${head}${JSON.stringify(text.slice(head.length, -1))}}` : text;
};

class TextSocket extends WebSocket {
  set onmessage(listener) {
    super.onmessage = ({ data }) => listener({ data: quoteData(data) });
  }
}

export class Problem extends Error {
  constructor(message, { status, code, outcome } = {}) {
    super(message);
    Object.assign(this, { status, code, outcome });
  }
}

export class Session {
  constructor(token, onEvent) {
    const url = Object.assign(new URL(ROOT), { protocol: ROOT.protocol.replace("http", "ws") }).href;
    // As bytes of UTF-8, which is what the gateway takes a header for.
    this.authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(token))}`;
    this.ended = new AbortController();
    this.client = connect(url, { token, onEvent, WebSocket: TextSocket, maxDelay: 3000 });
  }

  close() {
    this.ended.abort();
    this.client.close();
  }

  async ask(path, { headers, signal = AbortSignal.timeout(PATIENCE_MS), ...options } = {}) {
    let answer;
    try {
      answer = await fetch(new URL(path, ROOT), {
        ...options,
        cache: "no-store",
        headers: { Authorization: this.authorization, ...headers },
        signal: AbortSignal.any([signal, this.ended.signal]),
      });
    } catch (error) {
      throw new Problem(error.message, { code: "unreachable", outcome: "unknown" });
    }
    if (answer.ok) return answer;
    const text = await answer.text();
    let told = {};
    try {
      told = JSON.parse(text);
    } catch {
      // A proxy's, or one for people.
    }
    throw new Problem(told.error ?? `${answer.status} ${text.slice(0, 200)}`, { status: answer.status, ...told });
  }

  // Pages of channels, about 100 each.
  async *channels(match) {
    let cursor = null;
    do {
      const query = new URLSearchParams({ match, ...(cursor && { cursor }) });
      const page = await (await this.ask(`channels?${query}`.replaceAll("+", "%20"))).json();
      yield page.channels;
      cursor = page.cursor;
    } while (cursor);
  }

  // The id after which a channel is to be read from, for all that `?from=` takes: the gateway says it first of all.
  async position(channel, from) {
    const done = new AbortController();
    const signal = AbortSignal.any([done.signal, AbortSignal.timeout(PATIENCE_MS)]);
    const path = `channels/${encodeURIComponent(channel)}?from=${encodeURIComponent(from)}`;
    const { body } = await this.ask(path, { headers: { Accept: "text/event-stream" }, signal });
    let text = "";
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    while (true) {
      const { value = "", done: isOver } = await reader.read();
      text += value;
      const id = /^id: ([\d-]+)\n/m.exec(text)?.[1];
      if (id) return done.abort(), id;
      if (isOver) throw new Problem("", { code: "unreachable" });
    }
  }

  // Store JSON as it is written. The same key with the same data is stored once, however often it is sent.
  async publish(channel, json, key) {
    const path = `channels/${encodeURIComponent(channel)}`;
    const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
    return (await this.ask(path, { method: "POST", headers, body: json })).json();
  }

  // The numbers of /metrics by name.
  async metrics() {
    const text = await (await this.ask("metrics")).text();
    return new Map([...text.matchAll(/^(\w+) ([\d.]+)$/gm)].map(([, name, value]) => [name, Number(value)]));
  }

  // Whether --origin leaves this page out: it is asked for POST and WebSockets, and not for what the page has read.
  async isOriginRefused() {
    const answer = await fetch(new URL("channels", ROOT), { method: "OPTIONS" }).catch(() => null);
    return answer?.status === 403;
  }
}
