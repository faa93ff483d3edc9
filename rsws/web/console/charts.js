// What the gateway is doing, from its metrics: the last two minutes of four numbers.

import { put } from "./rows.js";
import { number, rate, t } from "./texts.js";

const EVERY_MS = 2000, POINTS = 60;
const SVG = "http://www.w3.org/2000/svg";

const CHARTS = [
  { name: "delivered", of: (now, before, s) => (now.get("rsws_messages_delivered_total") - before.get("rsws_messages_delivered_total")) / s, say: rate },
  { name: "clients", of: (now) => now.get("rsws_clients"), say: number },
  { name: "behind", of: (now) => now.get("rsws_subscriptions_behind"), say: number },
  { name: "redis", of: (now) => now.get("rsws_redis_up"), say: (value) => t(value ? "up" : "down"), least: 1 },
];

export class Charts {
  constructor(element) {
    this.element = element;
    document.addEventListener("visibilitychange", () => this.look());
  }

  begin(session) {
    clearTimeout(this.timer);
    Object.assign(this, { session, before: null, at: 0, refusal: null });
    this.charts = CHARTS.map((each) => ({ ...each, values: [], ...tile(each.name) }));
    this.element.replaceChildren(...this.charts.map(({ tile }) => tile));
    this.look();
  }

  async look() {
    clearTimeout(this.timer);
    const { session } = this;
    if (document.hidden || !session || this.refusal) return;
    try {
      const now = await session.metrics();
      if (session !== this.session) return;
      this.add(now);
    } catch ({ status }) {
      if (session !== this.session) return;
      if ([401, 403, 404].includes(status)) return this.refuse(status === 404 ? "metricsElsewhere" : "metricsRefused");
      this.before = null;
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), EVERY_MS);
  }

  add(now) {
    const seconds = (performance.now() - this.at) / 1000;
    // Counts that are lower than before are those of another gateway.
    const isAnother = this.before?.get("process_start_time_seconds") !== now.get("process_start_time_seconds");
    for (const chart of this.charts) {
      const value = chart.of(now, isAnother ? now : this.before, seconds);
      chart.values = [...chart.values, Math.max(0, value)].slice(-POINTS);
    }
    Object.assign(this, { before: now, at: performance.now() });
    this.draw();
  }

  refuse(key) {
    this.refusal = key;
    const sentence = document.createElement("p");
    sentence.className = "muted";
    this.element.replaceChildren(sentence);
    this.draw();
  }

  // Again, in the language of now.
  draw() {
    if (this.refusal) return put(this.element.firstChild, t(this.refusal));
    for (const { name, values, say, label, value, line, least = 0, tile } of this.charts ?? []) {
      put(label, t(name));
      tile.title = name === "behind" ? t("behindHelp") : "";
      put(value, values.length ? say(values.at(-1)) : "–");
      tile.classList.toggle("bad", name === "redis" && values.at(-1) === 0);
      const most = Math.max(least, ...values) || 1;
      const points = values.map((each, index) => [100 - ((values.length - 1 - index) * 100) / (POINTS - 1), 23 - (22 * each) / most]);
      line.setAttribute("points", points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" "));
    }
  }
}

function tile(name) {
  const tile = document.createElement("div");
  const [label, value] = [document.createElement("span"), document.createElement("strong")];
  const svg = document.createElementNS(SVG, "svg");
  const line = svg.appendChild(document.createElementNS(SVG, "polyline"));
  svg.setAttribute("viewBox", "0 0 100 24");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.ariaHidden = "true";
  tile.className = `tile ${name}`;
  label.className = "muted";
  tile.append(label, value, svg);
  return { tile, label, value, line };
}
