// The console: who is signed in, which channel is open, and how it looks.

import { Channels } from "./channels.js";
import { Charts } from "./charts.js";
import { Publishing } from "./publishing.js";
import { put } from "./rows.js";
import { ROOT, Session } from "./session.js";
import { clock, LANGUAGES, speak, t } from "./texts.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const TOKEN = `rsws token ${ROOT.pathname}`; // of the tab alone

// Storage may be closed to the page: then nothing is kept.
function kept(storage, key, value) {
  try {
    if (value === null) globalThis[storage].removeItem(key);
    else if (value !== undefined) globalThis[storage].setItem(key, value);
    return globalThis[storage].getItem(key);
  } catch {
    return null;
  }
}

const view = new View();
const channels = new Channels((name) => (location.hash = `#${encodeURIComponent(name)}`));
const charts = new Charts($("charts"));
const publishing = new Publishing(view);
let session = null;
let said = () => ""; // about the connection
let wrong = () => ""; // about the token

// --- signing in ---

function signIn(token) {
  session?.close();
  let wasOpen = false;
  const mine = (session = new Session(token, (event) => mine === session && happened(event)));
  wrong = () => t("signingIn");
  draw();

  function happened({ event, status, error, code, expiresAt }) {
    if (event === "token_expiring") tell("warn", () => t("tokenEnding", { time: clock(Date.parse(expiresAt)) }));
    if (event !== "status") return;
    if (status === "open") {
      if (!wasOpen) entered(token);
      wasOpen = true;
      tell("good", () => t("connected"));
    } else if (status === "closed") {
      left(error, wasOpen);
    } else {
      view.connectionLost();
      tell("bad", () => t(wasOpen ? "reconnecting" : "connecting"));
      if (!wasOpen) askWhy(mine, code);
    }
  }
}

function entered(token) {
  kept("sessionStorage", TOKEN, token);
  wrong = () => "";
  $("token").value = "";
  $("sign-in").close();
  $("app").hidden = false;
  channels.begin(session);
  charts.begin(session);
  view.attach(session);
  draw();
}

// A connection was refused: a page is not told why, but may ask whether it is for where it comes from.
async function askWhy(mine) {
  wrong = () => t("unreachable");
  if ((await mine.isOriginRefused()) && mine === session) {
    wrong = () => t("originRefused", { origin: location.origin });
    mine.close();
  }
  draw();
}

function left(error, wasOpen) {
  const isToken = error?.code === 1008;
  if (isToken) kept("sessionStorage", TOKEN, null);
  if (error) wrong = () => (!isToken ? t("gatewayClosed", { reason: error.message }) : t(wasOpen ? "tokenEnded" : "tokenRefused"));
  out();
}

function out() {
  session?.close();
  session = null;
  channels.stop();
  view.detach();
  charts.session = null;
  draw();
  if (!$("sign-in").open) $("sign-in").showModal();
}

$("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn($("token").value.trim());
});
$("sign-in").addEventListener("cancel", (event) => event.preventDefault());
$("sign-out").addEventListener("click", () => {
  kept("sessionStorage", TOKEN, null);
  location.hash = "";
  location.reload(); // so that nothing of what was shown is left
});

// --- what is open ---

function route() {
  let name = "";
  try {
    name = decodeURIComponent(location.hash.slice(1));
  } catch {
    // not ours
  }
  document.body.classList.toggle("has-channel", Boolean(name));
  document.title = name ? `${name} · rsws` : "rsws";
  channels.mark(name || null);
  publishing.clear();
  view.open(name || undefined);
}

addEventListener("hashchange", route);
addEventListener("keydown", (event) => {
  if (event.defaultPrevented || $("sign-in").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches("input, textarea, select");
  if (event.key === "/" && !isTyping) {
    location.hash = matchMedia("(max-width: 760px)").matches ? "" : location.hash;
    $("search").focus();
    event.preventDefault();
  } else if (event.key === "Escape" && !document.querySelector(":popover-open")) {
    if (view.detail.isOpen) view.detail.close();
    else if (isTyping) event.target.blur();
    else if (location.hash.length > 1) location.hash = "";
  }
});

// --- how it looks ---

function tell(kind, text) {
  said = text;
  $("connection").className = `state ${kind}`;
  draw();
}

function draw() {
  put($("connection"), said());
  put($("sign-in-error"), wrong());
}

function setLanguage(wanted) {
  speak(wanted);
  for (const each of document.querySelectorAll(".pick-language")) each.value = document.documentElement.lang;
  put($("gateway"), ROOT.host + ROOT.pathname.replace(/\/$/, ""));
  for (const part of [channels, view, publishing]) (part.speak ?? part.refresh).call(part);
  charts.draw();
  draw();
}

function setTheme(theme) {
  document.documentElement.style.colorScheme = $("pick-theme").value = theme;
}

for (const each of document.querySelectorAll(".pick-language"))
  each.addEventListener("change", () => setLanguage(kept("localStorage", "rsws language", each.value) ?? each.value));
$("pick-theme").addEventListener("change", ({ target }) => setTheme(kept("localStorage", "rsws theme", target.value) ?? target.value));

// --- the start ---

const languages = navigator.languages.map((each) => each.split("-")[0]);
setLanguage(kept("localStorage", "rsws language") ?? languages.find((each) => LANGUAGES.includes(each)));
setTheme(kept("localStorage", "rsws theme") ?? "light dark");

const query = new URLSearchParams(location.search);
const given = query.get("token"); // in a link; not to be left in the address bar, nor where one goes back to
if (given !== null) {
  query.delete("token");
  history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`);
}
route();
const token = given ?? kept("sessionStorage", TOKEN);
$("sign-in").showModal();
if (token) signIn(token);
