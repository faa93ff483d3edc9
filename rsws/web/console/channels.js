// The list of channels: read page by page, again and again, sorted and searched.

import { Rows, paced, put } from "./rows.js";
import { age, explain, number, rate, t } from "./texts.js";

const MAX_CHANNELS = 100_000;
const EVERY_MS = 5000; // at least: a look may take a twentieth of the time, as it costs Redis a question for each channel
const SHARE = 20;
const LOOK_MS = 2000;
const PLAUSIBLE_MS = 1e12; // an id below is no time

const $ = (id) => document.getElementById(id);
const pattern = (text) => new RegExp(`^${text.split("*").map((part) => part.replace(/[\\^$.|?+()[\]{}]/g, "\\$&")).join("[^]*")}$`, "i");
const milliseconds = (id) => Number(id?.split("-")[0] ?? 0);

// Entries a second between two looks; where some were trimmed meanwhile, of all that are there.
function rateBetween(before, now) {
  if (before.lastId === now.lastId) return 0;
  if (before.firstId === now.firstId && before.entries <= now.entries)
    return (now.entries - before.entries) / ((now.seen - before.seen) / 1000);
  const span = (milliseconds(now.lastId) - milliseconds(now.firstId)) / 1000;
  return span > 0 ? now.entries / span : undefined;
}

const ORDERS = {
  name: (a, b) => (a.name < b.name ? -1 : 1),
  entries: (a, b) => b.entries - a.entries,
  rate: (a, b) => (b.rate ?? -1) - (a.rate ?? -1),
  age: (a, b) => b.at - a.at,
  subscribers: (a, b) => b.subscribers - a.subscribers,
};

export class Channels {
  constructor(open) {
    this.known = new Map();
    this.all = []; // the same, in the order of last time: sorted again in no time
    this.refresh = paced(() => this.show(), 250); // many pages come
    this.sort = { by: "name", sign: 1 };
    this.rows = new Rows($("channel-list"), { height: 30, headRows: 1, make, fill, open: ({ name }) => open(name), keyOf: ({ name }) => name });
    $("channel-list").addEventListener("click", ({ target }) => target.dataset.sort && this.sortBy(target));
    $("search").addEventListener("input", () => this.searched());
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") $("channel-list").focus();
      else if (event.key === "Enter" && this.text) open(this.rows.items.length === 1 ? this.rows.items[0].name : this.text);
      else return;
      event.preventDefault();
    });
    document.addEventListener("visibilitychange", () => this.look());
    setInterval(() => document.hidden || this.rows.schedule(), 1000); // ages
    $("channel-list").addEventListener("pointerover", ({ target }) => {
      const cell = target.closest(".body .name");
      if (cell) cell.title = cell.textContent; // it may be cut off
    });
    this.open = open;
  }

  begin(session) {
    this.stop();
    Object.assign(this, { session, error: null, isComplete: false });
    this.look();
  }

  stop() {
    clearTimeout(this.timer);
    this.looking = null;
    this.session = null;
  }

  get text() {
    return $("search").value.trim();
  }

  // Look at all channels that match. A look that is replaced by another stops at its next page.
  async look() {
    clearTimeout(this.timer);
    const { session, text } = this;
    if (!session || document.hidden) return;
    const looking = (this.looking = {});
    const started = performance.now();
    const match = !text || text.includes("*") ? text || "*" : `*${text}*`;
    const found = new Set();
    try {
      for await (const page of session.channels(match)) {
        if (looking !== this.looking) return;
        page.forEach((each) => found.add(each.channel) && this.add(each));
        this.refresh();
        if (this.known.size >= MAX_CHANNELS) break;
      }
      const isWanted = pattern(match);
      this.isCapped = this.known.size >= MAX_CHANNELS;
      if (!this.isCapped) this.forget((name) => !found.has(name) && isWanted.test(name));
      this.isComplete = true;
      this.error = null;
    } catch (error) {
      if (looking !== this.looking) return;
      this.error = error;
    }
    this.refresh();
    const taken = this.error ? 0 : performance.now() - started;
    this.timer = setTimeout(() => this.look(), Math.max(EVERY_MS, SHARE * taken));
  }

  add({ channel: name, entries, firstId, lastId, subscribers }) {
    const before = this.known.get(name);
    const look = { entries, firstId, lastId, seen: performance.now() };
    const channel = before ?? { name, look };
    if (!before) {
      this.known.set(name, channel);
      this.all.push(channel);
    } else if (look.seen - before.look.seen > LOOK_MS) {
      Object.assign(channel, { rate: rateBetween(before.look, look), look });
    }
    Object.assign(channel, { entries, subscribers, at: milliseconds(lastId) });
  }

  forget(isGone) {
    const before = this.known.size;
    for (const name of this.known.keys()) if (isGone(name)) this.known.delete(name);
    if (this.known.size < before) this.all = [...this.known.values()];
  }

  searched() {
    this.refresh();
    clearTimeout(this.timer);
    this.looking = null;
    this.timer = setTimeout(() => this.look(), 300);
  }

  sortBy(button) {
    const by = button.dataset.sort;
    this.sort = { by, sign: this.sort.by === by ? -this.sort.sign : 1 };
    for (const each of $("channel-list").querySelectorAll("[role=columnheader]")) each.ariaSort = null;
    const isAscending = (this.sort.sign > 0) === (by === "name" || by === "age");
    button.parentElement.ariaSort = isAscending ? "ascending" : "descending";
    this.refresh();
  }

  show() {
    const { all, text, sort } = this;
    const wanted = text && (text.includes("*") ? pattern(text) : null);
    const lower = text.toLowerCase();
    const order = ORDERS[sort.by];
    all.sort((a, b) => sort.sign * order(a, b) || ORDERS.name(a, b));
    const items = !text ? all : all.filter(({ name }) => (wanted ? wanted.test(name) : name.toLowerCase().includes(lower)));
    this.rows.show(items);
    const count = text ? t("channelsSome", { n: number(items.length), all: number(all.length) }) : number(all.length);
    put($("channel-count"), this.error ? t("channelsFailed", { error: explain(this.error) }) : this.isCapped ? t("channelsCapped", { n: number(MAX_CHANNELS) }) : count);
    $("channel-count").classList.toggle("error", Boolean(this.error));
    this.showEmpty(items.length === 0, text);
  }

  showEmpty(isEmpty, text) {
    const box = $("channels-empty");
    box.hidden = !isEmpty || Boolean(this.error && !text);
    if (box.hidden) return;
    const sentence = document.createElement("p");
    const more = document.createElement(text ? "button" : "code");
    if (text) {
      sentence.textContent = t("noMatch", { text });
      more.textContent = t("openChannel", { channel: text });
      more.addEventListener("click", () => this.open(text));
    } else {
      sentence.textContent = t(this.isComplete ? "noChannels" : "loading");
      more.textContent = this.isComplete ? `rsws xadd news '{"text":"hi"}'` : "";
    }
    box.replaceChildren(sentence, more);
  }

  mark(name) {
    this.rows.active = name;
    this.rows.schedule();
  }
}

function make() {
  const row = document.createElement("div");
  row.className = "row";
  row.role = "row";
  for (const name of ["name", "entries", "rate", "age", "subscribers"]) {
    const cell = row.appendChild(document.createElement("span"));
    cell.className = name;
    cell.role = "gridcell";
    if (name === "name") cell.appendChild(document.createElement("bdi"));
  }
  return row;
}

function fill(row, { name, entries, rate: perSecond, at, subscribers }) {
  const [first, ...others] = row.children;
  put(first.firstChild, name);
  const old = at > PLAUSIBLE_MS ? age((Date.now() - at) / 1000) : "–";
  const texts = [number(entries), perSecond === undefined ? "–" : perSecond ? rate(perSecond) : "0", old, number(subscribers)];
  others.forEach((cell, index) => put(cell, texts[index]));
  row.classList.toggle("quiet", !perSecond);
}
