// Publishing to the channel that is open, with what became of it.

import { put } from "./rows.js";
import { explain, number, t } from "./texts.js";

const $ = (id) => document.getElementById(id);

export class Publishing {
  constructor(view) {
    this.view = view;
    $("publish").addEventListener("submit", (event) => {
      event.preventDefault();
      this.publish();
    });
    $("data").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("publish").requestSubmit();
    });
    $("data").addEventListener("input", () => this.fit());
  }

  fit() {
    const area = $("data");
    area.ariaInvalid = null;
    area.rows = Math.min(8, area.value.split("\n").length);
  }

  async publish() {
    const { session, channel } = this.view;
    const json = $("data").value.trim();
    try {
      JSON.parse(json);
    } catch (error) {
      $("data").ariaInvalid = "true";
      return this.say("error", () => t("notJson", { error: error.message }));
    }
    // Of one whose outcome is unknown the same key is used again, so that it is stored once.
    const wanted = JSON.stringify([channel, json]);
    if (this.unsure?.wanted !== wanted) this.unsure = null;
    const key = this.unsure?.key ?? [...crypto.getRandomValues(new Uint32Array(4))].join("-");
    const started = performance.now();
    this.say("muted", () => t("publishing"));
    try {
      const { streamId: id, duplicate } = await session.publish(channel, json, key);
      const ms = Math.round(performance.now() - started);
      this.unsure = null;
      this.say("good", () => (duplicate ? t("publishedBefore", { id }) : t("published", { id, ms: number(ms) })));
      if ($("data").value.trim() === json) $("data").value = "";
      this.fit();
    } catch (problem) {
      const isUnknown = problem.outcome === "unknown";
      this.unsure = isUnknown ? { wanted, key } : null;
      this.say("error", () => t(isUnknown ? "outcomeUnknown" : "notStored", { error: explain(problem) }));
    }
  }

  say(kind, text) {
    this.text = text;
    $("publish-result").className = kind;
    this.speak();
  }

  speak() {
    put($("publish-result"), this.text?.() ?? "");
  }

  clear() {
    this.text = null;
    this.speak();
  }
}
