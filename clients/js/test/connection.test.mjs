import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { connect, pass, setUp, Socket, tearDown, turns } from "./fake.mjs";

let client;
beforeEach(setUp);
afterEach(() => {
  client?.close();
  tearDown();
});

test("the token goes into a subprotocol", async () => {
  client = connect({ token: "kunci rahasia/+&=ä>??" });
  await turns();
  const [name, token] = Socket.last.protocols;
  assert.equal(name, "rsws");
  assert.match(token, /^rsws\.token\.[\w-]+$/);
  assert.equal(Buffer.from(token.slice(11), "base64url").toString(), "kunci rahasia/+&=ä>??");
});

test("a socket that stays connecting for 10 s is abandoned, and what comes of it later is ignored", async () => {
  client = connect();
  client.subscribe("news");
  await turns();
  const late = Socket.last;
  await pass(9_999);
  assert.equal(late.closed, false);
  await pass(1);
  assert.equal(late.closed, true);
  await pass(100);
  assert.equal(Socket.all.length, 2);
  late.welcome();
  late.lost(1008);
  assert.deepEqual([client.status, late.sent], ["connecting", []]);
  Socket.last.welcome();
  assert.equal(client.status, "open");
  late.lost(1006);
  late.messages("news", "1-0");
  assert.equal(client.status, "open");
});

test("a socket that opens and is not welcomed is abandoned, too", async () => {
  client = connect();
  await turns();
  Socket.last.onopen?.({});
  await pass(10_000);
  assert.equal(Socket.last.closed, true);
});

test("waits double up to the longest, and begin anew after 60 s of an open connection", async () => {
  client = connect({ minDelay: 100, maxDelay: 1000 });
  await turns();
  for (const wait of [100, 200, 400, 800, 1000, 1000]) {
    const before = Socket.all.length;
    Socket.last.lost();
    await pass(wait - 1);
    assert.equal(Socket.all.length, before);
    await pass(1);
    assert.equal(Socket.all.length, before + 1);
  }
  Socket.last.welcome();
  await pass(29_000); // less than 60 s
  Socket.last.lost();
  const open = Socket.all.length;
  await pass(999);
  assert.equal(Socket.all.length, open);
  await pass(1);
  Socket.last.welcome();
  await pass(29_000);
  Socket.last.get({ status: "pong" });
  await pass(29_000);
  Socket.last.get({ status: "pong" });
  await pass(2_000);
  Socket.last.lost();
  const before = Socket.all.length;
  await pass(100);
  assert.equal(Socket.all.length, before + 1);
});

test("chance makes a wait anything up to its length", async (context) => {
  context.mock.method(Math, "random", () => 0.25);
  client = connect({ minDelay: 400 });
  await turns();
  Socket.last.lost();
  await pass(99);
  assert.equal(Socket.all.length, 1);
  await pass(1);
  assert.equal(Socket.all.length, 2);
});

for (const code of [1000, 1002, 1003, 1007, 1008, 1009])
  test(`${code} is final`, async () => {
    client = connect({ token: "given" });
    const subscription = client.subscribe("news");
    await turns();
    Socket.last.welcome().lost(code, "why");
    await pass(60_000);
    assert.equal(Socket.all.length, 1);
    const { status, error } = client.events.at(-1);
    assert.deepEqual([status, error.code, error.message], ["closed", code, `closed with ${code} why`]);
    await assert.rejects(subscription[Symbol.asyncIterator]().next(), { code });
    await assert.rejects(client.publish("news", 1), { code });
    assert.throws(() => client.subscribe("other"), { code });
  });

for (const code of [1001, 1005, 1006, 1011, 1012, 1013, 4000])
  test(`${code} is not`, async () => {
    client = connect();
    await turns();
    Socket.last.welcome().lost(code);
    await pass(100);
    assert.equal(Socket.all.length, 2);
  });

test("what is no URL ends it with the reason", async () => {
  class Refusing {
    constructor() {
      throw new SyntaxError("no URL");
    }
  }
  client = connect({ WebSocket: Refusing });
  await turns();
  assert.deepEqual([client.status, client.events.at(-1).error.message], ["closed", "no URL"]);
});

// --- tokens ---

test("a function is asked for the token at each attempt, and what it throws is told and tried again", async () => {
  const given = [() => Promise.reject(new Error("no session")), async () => "one", () => "two"];
  client = connect({ token: () => given.shift()() });
  await turns();
  assert.deepEqual([Socket.all.length, client.events[0].error.message], [0, "no session"]);
  await pass(100);
  assert.deepEqual(Socket.last.protocols, ["rsws", "rsws.token.b25l"]);
  Socket.last.lost();
  await pass(200);
  assert.deepEqual(Socket.last.protocols, ["rsws", "rsws.token.dHdv"]);
});

test("a token that never comes counts as no answer, and is not used when it comes", async () => {
  let give;
  client = connect({ token: () => new Promise((resolve) => (give = resolve)) });
  await pass(10_000);
  const late = give;
  await pass(100);
  late("late");
  await turns();
  assert.equal(Socket.all.length, 0);
  give("now");
  await turns();
  assert.equal(Socket.all.length, 1);
});

test("a function is asked once more after a refusal, then that is final", async () => {
  client = connect({ token: async () => "any" });
  await turns();
  Socket.last.lost(1006);
  await pass(100);
  Socket.last.lost(1008, "Unauthorized");
  await pass(200);
  Socket.last.welcome().lost(1008, "token expired");
  await pass(400);
  assert.equal(Socket.all.length, 4);
  Socket.last.lost(1008, "Unauthorized");
  assert.equal(client.status, "closed");
});

test("a token that ends soon is changed on the open connection", async () => {
  let count = 0;
  client = connect({ token: async () => `t${++count}` });
  await turns();
  const expiring = { event: "token_expiring", expiresAt: "2026-11-27T10:08:15Z" };
  Socket.last.welcome().get(expiring);
  await turns();
  assert.deepEqual(Socket.last.sent, [{ action: "token", token: "t2" }]);
  assert.deepEqual(client.events.at(-1), expiring);
});

test("the same token is not sent again, and what the function throws is told", async () => {
  let token = () => "same";
  client = connect({ token: () => token() });
  await turns();
  Socket.last.welcome().get({ event: "token_expiring" });
  await turns();
  token = () => Promise.reject(new Error("logged out"));
  Socket.last.get({ event: "token_expiring" });
  await turns();
  assert.deepEqual([Socket.last.sent, client.events.at(-1).error.message], [[], "logged out"]);
});

test("a refused token is told, and nothing else happens", async () => {
  client = connect({ token: "given" });
  await turns();
  Socket.last.welcome().get({ event: "token_expiring" }, { status: "error", error: "expired", code: "bad_token" });
  assert.deepEqual([client.status, client.events.at(-1).error.code], ["open", "bad_token"]);
});

// --- waking ---

test("an open socket is asked, and abandoned without an answer within 5 s", async () => {
  client = connect();
  await turns();
  const silent = Socket.last.welcome();
  client.wake();
  assert.deepEqual(silent.take(), [{ action: "ping" }]);
  silent.get({ status: "pong" });
  await pass(5_000);
  assert.equal(silent.closed, false);
  client.wake();
  client.wake();
  silent.get({ status: "pong" }); // of the first alone
  await pass(4_999);
  assert.equal(silent.closed, false);
  await pass(1);
  assert.equal(silent.closed, true);
  await pass(100);
  assert.equal(Socket.all.length, 2);
});

test("a silent connection is asked after 30 s, one that is not is left alone", async () => {
  client = connect();
  await turns();
  Socket.last.welcome();
  await pass(29_000);
  Socket.last.get({ status: "unsubscribed", channel: "any" });
  await pass(1_000);
  assert.deepEqual(Socket.last.sent, []);
  await pass(30_000);
  assert.deepEqual(Socket.last.sent, [{ action: "ping" }]);
});

test("a wait for the next attempt ends when something wakes it", async () => {
  client = connect({ minDelay: 10_000 });
  await turns();
  Socket.last.lost();
  client.wake();
  await turns();
  assert.equal(Socket.all.length, 2);
  client.wake(); // an attempt is under way
  await turns();
  assert.equal(Socket.all.length, 2);
});

test("the page's events wake it until it is closed", async () => {
  const page = new EventTarget();
  const document = new EventTarget();
  const names = ["addEventListener", "removeEventListener"];
  const was = names.map((name) => globalThis[name]);
  for (const name of names) globalThis[name] = page[name].bind(page);
  globalThis.document = document;
  try {
    client = connect();
    await turns();
    const socket = Socket.last.welcome();
    page.dispatchEvent(new Event("online"));
    page.dispatchEvent(new Event("pageshow"));
    document.dispatchEvent(new Event("visibilitychange"));
    document.dispatchEvent(new Event("resume"));
    assert.equal(socket.take().length, 4);
    const removed = mock.method(document, "removeEventListener");
    client.close();
    assert.equal(removed.mock.callCount(), 4);
    for (const type of ["online", "pageshow"]) page.dispatchEvent(new Event(type));
    for (const type of ["visibilitychange", "resume"]) document.dispatchEvent(new Event(type));
    await turns();
    assert.deepEqual([socket.sent, Socket.all.length], [[], 1]);
  } finally {
    names.forEach((name, at) => (globalThis[name] = was[at]));
    delete globalThis.document;
  }
});

// --- the end ---

test("close is final", async () => {
  client = connect();
  await turns();
  const socket = Socket.last.welcome();
  client.close();
  client.close();
  client.wake();
  socket.lost(1006);
  await pass(60_000);
  assert.deepEqual([client.status, socket.closed, Socket.all.length], ["closed", true, 1]);
  assert.deepEqual(client.events.at(-1), { event: "status", status: "closed" });
  await assert.rejects(client.publish("news", 1), { code: "closed" });
});

test("close while a token is fetched, and between two attempts", async () => {
  let give;
  client = connect({ token: () => new Promise((resolve) => (give = resolve)) });
  client.close();
  give("late");
  await pass(60_000);
  assert.equal(Socket.all.length, 0);
  client = connect();
  await turns();
  Socket.last.lost();
  client.close();
  await pass(60_000);
  assert.equal(Socket.all.length, 1);
});

test("what a handler throws is the page's own, and nothing else stops", async () => {
  client = connect({
    onEvent() {
      throw new Error("a bug of the page");
    },
  });
  await turns();
  Socket.last.welcome();
  await turns();
  assert.throws(() => mock.timers.tick(1), /a bug of the page/); // as from a timer: a page's console shows it
  assert.equal(client.status, "open");
});
