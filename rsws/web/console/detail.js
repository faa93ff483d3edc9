// The message that was chosen: all of it, for reading or as it was published.

import { indent, showJson } from "./json.js";
import { put } from "./rows.js";
import { clock, number, t } from "./texts.js";

const $ = (id) => document.getElementById(id);
const MAX_CHARS = 1 << 20;

export class Detail {
  constructor(onClose) {
    this.item = null;
    this.isPretty = true;
    $("show-pretty").addEventListener("click", () => this.choose(true));
    $("show-raw").addEventListener("click", () => this.choose(false));
    $("close-detail").addEventListener("click", () => this.close());
    $("copy").addEventListener("click", () => this.copy());
    this.onClose = onClose;
  }

  get isOpen() {
    return this.item !== null;
  }

  show(item) {
    if (item.kind) return;
    this.item = item;
    this.draw();
    $("detail-data").scrollTop = 0;
  }

  close() {
    const hadFocus = $("detail").contains(document.activeElement);
    this.item = null;
    $("detail").hidden = true;
    if (hadFocus) $("message-list").focus();
    this.onClose();
  }

  choose(isPretty) {
    this.isPretty = isPretty;
    this.draw();
  }

  get text() {
    const { data } = this.item;
    return this.isPretty && data.length <= MAX_CHARS ? indent(data) : data;
  }

  draw() {
    const { item, isPretty } = this;
    if (!item) return;
    $("detail").hidden = false;
    $("show-pretty").ariaPressed = String(isPretty);
    $("show-raw").ariaPressed = String(!isPretty);
    const bytes = new TextEncoder().encode(item.data).length;
    const when = clock(item.ms, { dateStyle: "medium", timeStyle: "medium" });
    put($("detail-title"), [item.id, when, t("bytes", { n: number(bytes) })].join(" · "));
    put($("copy"), t("copy"));
    showJson($("detail-data"), this.text);
  }

  async copy() {
    await copyText(this.text);
    put($("copy"), t("copied"));
    setTimeout(() => put($("copy"), t("copy")), 1500);
  }
}

async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea"); // a page that came without TLS has no clipboard
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
