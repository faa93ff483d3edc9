import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { connect, pass, setUp, Socket, tearDown, turns } from "./fake.mjs";

let client;
let socket;
let seen; // what was handed over, and the events between
beforeEach(async () => {
  setUp();
  seen = [];
  client = connect();
  await turns();
  socket = Socket.last.welcome();
});
afterEach(() => {
  client.close();
  tearDown();
});

const onMessages = (messages) => void seen.push(messages.map(({ id }) => id));
const onEvent = ({ event, error }) => void seen.push(error?.code ?? event);
const subscribe = (options) => client.subscribe("news", { onMessages, onEvent, ...options });
const request = (more) => ({ action: "subscribe", channel: "news", marker: true, ...more });
const unsubscribe = { action: "unsubscribe", channel: "news" };
const unsubscribed = { status: "unsubscribed", channel: "news" };
const gap = { event: "gap", channel: "news", lastMessageId: "1-0", resumesAt: "5-0", reason: "trimmed" };

/** The next socket, after the last one was lost. */
async function next() {
  socket.lost();
  await pass(20_000);
  return (socket = Socket.last.welcome());
}

test("where to start", () => {
  const starts = [{}, { after: "0" }, { after: "5-0" }, { last: 3 }, { last: 0, end: true }];
  starts.forEach((start, at) => client.subscribe(`c${at}`, start));
  const sent = socket.take().map(({ lastMessageId, last, end, marker }) => [lastMessageId ?? last, end, marker]);
  assert.deepEqual(sent, [["$", undefined, true], ["0", undefined, true], ["5-0", undefined, true], [3, undefined, true], [0, true, true]]);
});

test("the messages of one turn come together, with events in their places", async () => {
  subscribe();
  socket.subscribed("news");
  socket.messages("news", "1-0", "2-0");
  socket.get({ event: "caught_up", channel: "news", lastMessageId: "2-0" });
  socket.messages("news", "3-0");
  socket.get(gap);
  socket.messages("news", "5-0", "6-0");
  await turns();
  assert.deepEqual(seen, [["1-0", "2-0"], "caught_up", ["3-0"], "gap", ["5-0", "6-0"]]);
  assert.deepEqual(client.events.map(({ event }) => event), ["status"]); // the client's handler hears of no channel
});

test("without a handler of its own its events go to the client's", async () => {
  subscribe({ onEvent: undefined });
  socket.subscribed("news");
  socket.get(gap);
  await turns();
  assert.deepEqual(client.events.at(-1), gap);
});

test("the next array waits for the promise of the one before", async () => {
  let finish;
  subscribe({ onMessages: (messages) => (onMessages(messages), new Promise((resolve) => (finish = resolve))) });
  socket.subscribed("news");
  socket.messages("news", "1-0");
  await turns();
  socket.messages("news", "2-0");
  await turns();
  socket.messages("news", "3-0");
  await turns();
  assert.deepEqual(seen, [["1-0"]]);
  finish();
  await turns();
  assert.deepEqual(seen, [["1-0"], ["2-0", "3-0"]]);
});

test("it goes on after the last message, or where it began before there was one", async () => {
  subscribe({ last: 3 });
  socket.take();
  assert.deepEqual((await next()).take(), [request({ last: 3 })]); // it was not confirmed
  socket.subscribed("news", "4-0");
  assert.deepEqual((await next()).take(), [request({ lastMessageId: "4-0" })]);
  socket.subscribed("news", "4-0");
  socket.messages("news", "5-0", "6-0");
  assert.deepEqual((await next()).take(), [request({ lastMessageId: "6-0" })]);
  socket.subscribed("news", "6-0");
  socket.get({ ...gap, reason: "reset" });
  assert.deepEqual((await next()).take(), [request({ lastMessageId: "0-0" })]);
});

test("a gateway without ids in its answers is gone on with, too", async () => {
  subscribe();
  socket.get({ status: "subscribed", channel: "news" });
  socket.messages("news", "5-0");
  await turns();
  socket.take();
  assert.deepEqual((await next()).take(), [request({ lastMessageId: "5-0" })]);
  assert.deepEqual(seen, [["5-0"]]);
});

test("what belongs to an earlier subscription of the channel is dropped", async () => {
  const first = subscribe({ after: "0" });
  assert.throws(() => subscribe(), /news is subscribed already/);
  socket.subscribed("news");
  first.close();
  first.close();
  subscribe({ after: "7-0" });
  assert.deepEqual(socket.take(), [request({ lastMessageId: "0" }), unsubscribe]);
  socket.messages("news", "1-0");
  socket.get({ status: "error", error: "text", code: "channel_unreadable", channel: "news" });
  socket.get(unsubscribed);
  assert.deepEqual(socket.take(), [request({ lastMessageId: "7-0" })]);
  socket.messages("news", "2-0"); // not before it is confirmed
  socket.subscribed("news", "7-0");
  socket.messages("news", "8-0");
  await turns();
  assert.deepEqual(seen, [["8-0"]]);
});

test("what was not answered is over with the connection", async () => {
  subscribe().close();
  subscribe({ after: "7-0" });
  socket.take();
  assert.deepEqual((await next()).take(), [request({ lastMessageId: "7-0" })]);
});

test("a subscription hands over nothing after its close, even of what was received", async () => {
  const subscription = subscribe();
  socket.subscribed("news");
  socket.messages("news", "1-0");
  subscription.close();
  await turns();
  assert.deepEqual(seen, []);
});

test("nothing comes after close, neither what was received nor what is handed over just now", async () => {
  const handlers = ["a", "b"].map((channel) => ({
    onMessages: ([{ channel, id }]) => (seen.push(`${channel} ${id}`), client.close()),
    channel,
  }));
  for (const { channel, onMessages } of handlers) {
    client.subscribe(channel, { onMessages });
    socket.subscribed(channel);
    socket.messages(channel, "1-0", "2-0");
  }
  await turns();
  socket.messages("a", "3-0");
  await turns();
  assert.deepEqual(seen, ["a 1-0"]);
});

test("a channel that has ended and was not read to its end is silent after close, too", async () => {
  let finish;
  subscribe({ end: true, onMessages: (messages) => (onMessages(messages), new Promise((resolve) => (finish = resolve))) });
  socket.subscribed("news");
  socket.messages("news", "1-0");
  await turns();
  socket.messages("news", "2-0");
  socket.get({ event: "end", channel: "news", streamId: "2-0" });
  client.close();
  finish();
  await turns();
  assert.deepEqual(seen, [["1-0"]]);
});

// --- reading in a loop ---

test("a loop gets one message after the other, and leaving it closes the subscription", async () => {
  const subscription = client.subscribe("news", { onEvent });
  socket.take();
  socket.subscribed("news");
  socket.messages("news", "1-0");
  socket.get(gap);
  socket.messages("news", "5-0", "6-0");
  for await (const { channel, id, data } of subscription) {
    seen.push([channel, id, data]);
    if (id === "5-0") break;
  }
  assert.deepEqual(seen, [["news", "1-0", "1-0"], "gap", ["news", "5-0", "5-0"]]);
  assert.deepEqual(socket.take(), [unsubscribe]);
});

test("a loop ends with the channel, and with close", async () => {
  const ended = client.subscribe("news", { end: true, onEvent });
  socket.subscribed("news");
  socket.messages("news", "1-0");
  socket.get({ event: "end", channel: "news", streamId: "1-0" });
  for await (const { id } of ended) seen.push(id);
  assert.deepEqual(seen, ["1-0", "end"]);
  const closed = client.subscribe("news");
  const loop = (async () => {
    for await (const { id } of closed) seen.push(id);
  })();
  await turns();
  client.close();
  await loop;
});

test("the end that the last connection has lost is asked for", async () => {
  subscribe({ end: true });
  socket.subscribed("news", "4-0");
  socket.take();
  await next();
  assert.equal(socket.take()[0].resume, undefined); // nothing was received
  socket.subscribed("news", "4-0");
  socket.messages("news", "5-0");
  await next();
  assert.deepEqual(socket.take(), [request({ lastMessageId: "5-0", end: true, resume: true })]);
  socket.get({ event: "end", channel: "news", streamId: "5-0" });
  await turns();
  assert.deepEqual(seen, [["5-0"], "end"]);
  subscribe({ after: "5-0" }); // it is free
  assert.deepEqual(socket.take(), [request({ lastMessageId: "5-0" })]);
});

test("a loop throws what ends the subscription, after what came before", async () => {
  const subscription = client.subscribe("news", { onEvent() {} });
  socket.subscribed("news");
  socket.messages("news", "1-0");
  socket.lost(1008, "Unauthorized");
  const loop = async () => {
    for await (const { id } of subscription) seen.push(id);
  };
  await assert.rejects(loop(), { code: 1008 });
  assert.deepEqual(seen, ["1-0"]);
});

test("whoever reads slowly leaves the rest in the stream, in messages and in size", async () => {
  const subscription = client.subscribe("news");
  for (const [data, count] of [["", 1000], ["x".repeat(1 << 20), 4]]) {
    socket.subscribed("news");
    socket.take();
    for (let n = 1; n <= count; n++) socket.get({ event: "message", channel: "news", streamId: `${count}-${n}`, data });
    assert.deepEqual(socket.take(), []);
    socket.get({ event: "message", channel: "news", streamId: `${count}-${count + 1}`, data });
    assert.deepEqual(socket.take(), [unsubscribe]);
    socket.messages("news", "99999-0");
    socket.get(unsubscribed);
    assert.deepEqual(socket.take(), []);
    const iterator = subscription[Symbol.asyncIterator]();
    for (let n = 1; n <= count; n++) assert.equal((await iterator.next()).value.id, `${count}-${n}`);
    iterator.next();
    await turns();
    assert.deepEqual(socket.take(), [request({ lastMessageId: `${count}-${count}` })]);
  }
});

// --- refusals ---

test("a refused subscription is over, and another may take its place", async () => {
  subscribe();
  socket.get({ status: "error", error: "text", code: "not_allowed", channel: "news" });
  await turns();
  assert.deepEqual(seen, ["not_allowed"]);
  socket.take();
  subscribe();
  assert.equal(socket.take().length, 1);
});

test("while Redis is away it is tried again, with growing waits", async () => {
  subscribe();
  for (const wait of [100, 200]) {
    socket.take();
    socket.get({ status: "error", error: "text", code: "redis_unavailable", channel: "news" });
    await pass(wait - 1);
    assert.deepEqual(socket.take(), []);
    await pass(1);
    assert.equal(socket.take().length, 1);
  }
  socket.subscribed("news", "3-0");
  await next();
  socket.get({ status: "error", error: "text", code: "redis_refused", channel: "news" });
  socket.take();
  await pass(100);
  assert.deepEqual(socket.take(), [request({ lastMessageId: "3-0" })]);
  assert.deepEqual(seen, ["redis_unavailable", "redis_unavailable", "redis_refused"]);
});

test("what Redis refuses from the beginning is over", async () => {
  subscribe();
  socket.get({ status: "error", error: "text", code: "redis_refused", channel: "news" });
  socket.take();
  await pass(10_000);
  assert.deepEqual(socket.take(), []);
});

test("trouble of a subscription that is on is told, and it goes on; without the right it is over", async () => {
  subscribe();
  socket.subscribed("news");
  socket.get({ status: "error", error: "text", code: "channel_unreadable", channel: "news" });
  socket.messages("news", "1-0");
  await turns();
  socket.get({ status: "error", error: "text", code: "not_allowed", channel: "news" });
  socket.messages("news", "2-0");
  await turns();
  assert.deepEqual(seen, ["channel_unreadable", ["1-0"], "not_allowed"]);
});

test("an error that is nobody's goes to the client", async () => {
  socket.get({ status: "error", error: "text", code: "bad_request" });
  await turns();
  assert.equal(client.events.at(-1).error.code, "bad_request");
});

test("errors that nobody listens to are logged", async (context) => {
  const logged = context.mock.method(console, "error", () => {});
  client.close();
  client = connect({ onEvent: undefined });
  await turns();
  socket = Socket.last.welcome();
  client.subscribe("news");
  socket.get({ status: "error", error: "text", code: "bad_cursor", channel: "news" });
  socket.lost(1008, "Unauthorized");
  await turns();
  assert.deepEqual(logged.mock.calls.map(({ arguments: [{ code }] }) => code), ["bad_cursor", 1008]);
});

// --- with a state ---

/** A loader whose calls the test answers. */
function loader() {
  const calls = [];
  const state = () => (seen.push("state"), new Promise((resolve, reject) => calls.push({ resolve, reject })));
  return { state, calls };
}

test("a state is loaded first, and gone on from", async () => {
  const { state, calls } = loader();
  subscribe({ state });
  assert.deepEqual(socket.take(), []);
  calls[0].resolve("4-0");
  await turns();
  assert.deepEqual(socket.take(), [request({ lastMessageId: "4-0" })]);
  socket.subscribed("news", "4-0");
  socket.messages("news", "5-0");
  await turns();
  assert.deepEqual((await next()).take(), [request({ lastMessageId: "5-0" })]); // an outage is no gap
  assert.deepEqual(seen, ["state", ["5-0"]]);
});

test("it is loaded again after a gap, once what came before that is handed over", async () => {
  const { state, calls } = loader();
  subscribe({ state });
  calls[0].resolve("1-0");
  await turns();
  socket.subscribed("news", "1-0");
  socket.messages("news", "2-0");
  socket.take();
  socket.get(gap);
  assert.deepEqual(socket.take(), [unsubscribe]);
  socket.messages("news", "5-0"); // the state will have it, or it comes again
  assert.equal(calls.length, 1);
  await turns();
  assert.deepEqual(seen, ["state", ["2-0"], "gap", "state"]);
  calls[1].resolve("6-0");
  await turns();
  assert.deepEqual(socket.take(), []);
  socket.get(unsubscribed);
  assert.deepEqual(socket.take(), [request({ lastMessageId: "6-0" })]);
  socket.subscribed("news", "6-0");
  socket.get(gap); // a database that lags behind: what there is has to do
  socket.messages("news", "7-0");
  socket.get(gap);
  await turns();
  assert.deepEqual(seen.slice(4), ["gap", ["7-0"], "gap", "state"]);
});

test("a state that can't be loaded is told and tried again, also over a lost connection", async () => {
  const { state, calls } = loader();
  subscribe({ state });
  calls[0].reject(Object.assign(new Error("no database"), { code: "down" }));
  await turns();
  await next();
  assert.deepEqual(seen, ["state", "down", "state"]);
  calls[1].resolve("1-0");
  await turns();
  assert.deepEqual(socket.take(), [request({ lastMessageId: "1-0" })]);
});

test("a state that fails after close is nobody's business", async () => {
  const { state, calls } = loader();
  subscribe({ state }).close();
  calls[0].reject(new Error("no database"));
  await turns();
  await pass(10_000);
  assert.deepEqual(seen, ["state"]);
});

test("a loop loads the state, too, and after close it is not loaded", async () => {
  const { state, calls } = loader();
  const subscription = client.subscribe("news", { state, onEvent: (event) => (onEvent(event), subscription.close()) });
  calls[0].resolve("1-0");
  await turns();
  socket.subscribed("news", "1-0");
  socket.get(gap);
  for await (const message of subscription) assert.fail(message);
  await turns();
  assert.deepEqual(seen, ["state", "gap"]);
});
