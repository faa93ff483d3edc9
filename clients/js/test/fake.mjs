// A gateway of the tests' own, without a network: each socket that the client makes, and what it does is up to the test.
import { mock } from "node:test";
import { connect as connectTo } from "../../../rsws/web/rsws.js";

/** Some turns of the event loop: all that is to be handed over has been. */
export async function turns() {
  for (let n = 0; n < 5; n++) await new Promise((resolve) => setImmediate(resolve));
}

export class Socket {
  static all = [];
  sent = [];
  closed = false;

  static get last() {
    return this.all.at(-1);
  }

  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
    Socket.all.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.closed = true;
  }

  /** What was sent since the last call. */
  take() {
    return this.sent.splice(0);
  }

  get(...replies) {
    for (const reply of replies) this.onmessage({ data: JSON.stringify(reply) });
  }

  welcome() {
    this.get({ status: "connected", message: "Welcome!" });
    return this;
  }

  subscribed(channel, lastMessageId = "0-0") {
    this.get({ status: "subscribed", channel, lastMessageId, latestId: "9-0" });
  }

  messages(channel, ...ids) {
    for (const id of ids) this.get({ event: "message", channel, streamId: id, data: id });
  }

  lost(code = 1006, reason = "") {
    this.onclose({ code, reason });
  }
}

/** A client that writes its events down. Waits are the longest that they can be. */
export function connect(options = {}) {
  const events = [];
  const client = connectTo("ws://gateway", { WebSocket: Socket, onEvent: (event) => events.push(event), ...options });
  return Object.assign(client, { events });
}

export function setUp() {
  Socket.all = [];
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1e12 });
  mock.method(Math, "random", () => 1);
}

export function tearDown() {
  mock.timers.reset();
  mock.restoreAll();
}

export async function pass(ms) {
  mock.timers.tick(ms);
  await turns();
}
