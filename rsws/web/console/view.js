// One channel: history, then live. What is shown is what the subscription has handed over, the newest of it.

import { Detail } from "./detail.js";
import { Rows, paced, put } from "./rows.js";
import { clock, explain, number, t } from "./texts.js";

const MAX_MESSAGES = 5000, MAX_CHARS = 32 << 20; // kept; what is older is dropped
const MAX_HISTORY = 4000; // read in one go, so that its beginning is still there
const TIME_OF_DAY = { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 };
const PREVIEW_CHARS = 1000, CHAR_PX = 6; // of a row; those alone are put there that have room

const $ = (id) => document.getElementById(id);
const isTyped = (value) => value === "other";

const STARTS = [
  ["-100", () => t("fromLast", { n: 100 })],
  ["-1000", () => t("fromLast", { n: number(1000) })],
  ["0", () => t("fromAll")],
  ["$", () => t("fromNew")],
  ["10m", () => t("fromMinutes", { n: 10 })],
  ["1h", () => t("fromHours", { n: 1 })],
  ["24h", () => t("fromHours", { n: 24 })],
  ["other", () => `${t("fromOther")} …`],
];

export class View {
  constructor() {
    this.drawSoon = paced(() => this.drawNow(), 100); // nobody reads faster
    this.detail = new Detail(() => this.rows.schedule());
    this.rows = new Rows($("message-list"), { height: 26, make, fill: (row, item) => this.fill(row, item), open: (item) => this.detail.show(item) });
    this.rows.follows = true;
    this.rows.onDraw = () => ($("to-latest").hidden = this.rows.isFollowing || !this.shown.length);
    this.rows.onMove = (item) => this.detail.isOpen && this.detail.show(item);
    $("to-latest").addEventListener("click", () => this.rows.toEnd());
    $("pause").addEventListener("click", () => (this.subscription ? this.pause("rulePaused", { time: clock(Date.now()) }) : this.goOn()));
    $("filter").addEventListener("input", () => this.refilter());
    $("from").addEventListener("change", () => this.choseStart());
    $("from-other").addEventListener("change", () => this.start());
    this.clear();
  }

  attach(session) {
    this.session = session;
    if (this.channel !== undefined && !this.isPaused) this.goOn();
    else this.draw();
  }

  detach() {
    if (this.session) this.isPaused = !this.subscription && !this.starting; // else nothing has begun yet
    this.unsubscribe();
    this.session = null;
  }

  open(channel) {
    if (channel === this.channel) return;
    Object.assign(this, { channel, isPaused: false, position: null });
    this.unsubscribe();
    this.detail.close();
    const isOpen = channel !== undefined;
    $("view-open").hidden = !isOpen;
    $("view-empty").hidden = isOpen;
    $("filter").value = "";
    put($("view-title"), channel ?? "");
    $("view-title").title = channel ?? "";
    if (isOpen && this.session) this.start();
  }

  // --- the subscription ---

  choseStart() {
    const other = $("from-other");
    other.hidden = !isTyped($("from").value);
    if (other.hidden) this.start();
    else other.focus();
  }

  get from() {
    const value = $("from").value;
    return isTyped(value) ? $("from-other").value.trim() : value;
  }

  // Begin anew where the reader says.
  async start() {
    const { channel, from, session } = this;
    if (!from) return;
    this.unsubscribe();
    this.clear();
    const starting = (this.starting = {});
    if (from === "$" || from === "0") return this.subscribe({ after: from });
    if (/^-\d+$/.test(from)) return this.subscribe({ last: Number(from.slice(1)) });
    try {
      const after = await session.position(channel, from);
      if (starting !== this.starting) return;
      this.madeUp = /^\d+(-\d+)?$/.test(from) ? null : after;
      this.subscribe({ after });
    } catch (error) {
      if (starting === this.starting && session === this.session) this.fail(error);
    }
  }

  subscribe(start) {
    this.fail(null);
    this.isLive = false;
    this.read = 0;
    const subscription = (this.subscription = this.session.client.subscribe(this.channel, {
      ...start,
      onMessages: (messages) => subscription === this.subscription && this.add(messages),
      onEvent: (event) => subscription === this.subscription && this.happened(event),
    }));
    this.draw();
  }

  unsubscribe() {
    this.starting = null;
    this.subscription?.close();
    this.subscription = null;
    this.isLive = false;
  }

  // The stream keeps what comes meanwhile.
  pause(key, values) {
    this.unsubscribe();
    this.note("rule", key, values);
    this.draw();
  }

  goOn() {
    if (!this.position) return this.start();
    this.rows.toEnd();
    this.subscribe({ after: this.position });
  }

  // --- what comes ---

  add(messages) {
    if (this.error) this.fail(null);
    for (const { id, data } of messages) this.keep({ id, data, ms: Number(id.split("-")[0]) });
    this.count += messages.length;
    this.position = messages.at(-1).id;
    this.read += messages.length;
    if (!this.wasLive && (this.read >= MAX_HISTORY || this.chars > MAX_CHARS / 2)) this.pause("ruleRead", { n: () => number(this.count) });
    this.draw();
  }

  happened({ event, lastMessageId, resumesAt, reason, error }) {
    if (event === "caught_up") {
      this.fail(null);
      this.position = lastMessageId;
      this.note("rule good", this.wasLive ? "ruleAgain" : "ruleLive", { time: clock(Date.now()) });
      this.isLive = this.wasLive = true;
    } else if (event === "gap") {
      if (reason === "trimmed" && lastMessageId === this.madeUp) return; // made of a time: the channel begins later
      if (reason === "reset") this.position = "0-0";
      this.note("gap", reason === "reset" ? "gapReset" : "gapTrimmed", { from: lastMessageId, to: () => resumesAt ?? t("theEnd") });
    } else if (event === "error") {
      this.fail(error);
    }
    this.draw();
  }

  connectionLost() {
    if (this.isLive) this.note("rule", "ruleLost", { time: clock(Date.now()) });
    this.isLive = false;
    this.draw();
  }

  fail(error) {
    this.error = error;
    $("view-error").hidden = !error;
    put($("view-error"), error ? explain(error) : "");
    // What passes rsws.js tries again; other errors end what has not come so far as to be live.
    const passes = error?.code === "redis_unavailable" || (error?.code === "redis_refused" && this.position);
    if (error && !passes && !(this.isLive && error.code !== "not_allowed")) this.unsubscribe();
    this.draw();
  }

  // --- what is kept ---

  clear() {
    Object.assign(this, { items: [], count: 0, chars: 0, position: null, madeUp: null, wasLive: false, error: null });
    this.dropped = 0;
    this.shown = this.items;
    this.rows.active = null;
    this.rows.isFollowing = true;
    this.refilter();
  }

  note(kind, key, values = {}) {
    // In the language of when it is shown; only what takes one is a function.
    const say = () => t(key, Object.fromEntries(Object.entries(values).map(([name, value]) => [name, typeof value === "function" ? value() : value])));
    this.keep({ kind, say });
  }

  keep(item) {
    this.items.push(item);
    this.chars += item.data?.length ?? 0;
    if (this.shown !== this.items && this.isWanted(item)) this.shown.push(item);
  }

  // What is too old; called when they are drawn, and not message by message.
  drop() {
    let count = Math.max(0, this.items.length - MAX_MESSAGES);
    for (let i = 0; i < count; i++) this.chars -= this.items[i].data?.length ?? 0;
    while (this.chars > MAX_CHARS && count < this.items.length - 1) this.chars -= this.items[count++].data?.length ?? 0;
    const gone = new Set(this.items.splice(0, count));
    if (this.shown === this.items) return count;
    const before = this.shown.length;
    this.shown = this.shown.filter((item) => !gone.has(item));
    return before - this.shown.length;
  }

  isWanted({ data, id }) {
    return data === undefined || id.includes(this.filter) || data.toLowerCase().includes(this.filter);
  }

  refilter() {
    this.filter = $("filter").value.trim().toLowerCase();
    this.shown = this.filter ? this.items.filter((item) => this.isWanted(item)) : this.items;
    this.draw();
  }

  // --- what is seen ---

  draw() {
    if (this.items.length > 2 * MAX_MESSAGES || this.chars > 2 * MAX_CHARS) this.dropped += this.drop(); // a hidden page
    this.drawSoon();
  }

  drawNow() {
    this.rows.show(this.shown, this.dropped + this.drop());
    this.dropped = 0;
    this.drawState();
  }

  drawState() {
    const { subscription, isLive, session, error } = this;
    const state = !subscription ? (error ? "ended" : "paused") : isLive ? "live" : session?.client.status === "open" && !error ? "history" : "waiting";
    put($("view-state"), t(state));
    $("view-state").className = `state ${state}`;
    put($("pause"), t(subscription ? "pause" : this.wasLive || !this.position ? "catchUp" : "readOn"));
    const kept = this.items.reduce((count, { data }) => count + (data !== undefined), 0);
    const texts = [t(kept < this.count ? "messagesKept" : "messageCount", { n: number(this.count), kept: number(kept) })];
    if (this.filter) texts.push(t("messagesShown", { shown: number(this.shown.reduce((count, { data }) => count + (data !== undefined), 0)) }));
    put($("view-count"), this.count || !isLive ? texts.join(" · ") : t("noMessages"));
  }

  fill(row, item) {
    const [time, id, data] = row.children;
    if (row.kind !== item.kind) row.className = `row ${(row.kind = item.kind) ?? ""}`;
    put(time, item.kind ? "" : (item.time ??= clock(item.ms, TIME_OF_DAY)));
    put(id, item.id ?? "");
    item.preview ??= item.data?.slice(0, PREVIEW_CHARS).replace(/\s+/g, " ");
    put(data, item.kind ? item.say() : item.preview.slice(0, this.rows.list.clientWidth / CHAR_PX));
  }

  // In the language of now.
  speak() {
    const chosen = $("from").value || STARTS[0][0];
    $("from").replaceChildren(...STARTS.map(([value, say]) => new Option(say(), value, false, value === chosen)));
    if (this.error) put($("view-error"), explain(this.error));
    this.detail.draw();
    this.draw();
  }
}

function make() {
  const row = document.createElement("div");
  row.className = "row";
  row.role = "row";
  for (const name of ["time", "id", "data"]) {
    const cell = row.appendChild(document.createElement("span"));
    cell.className = name;
    cell.role = "gridcell";
  }
  row.lastChild.dir = "auto";
  return row;
}
