import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { connect, pass, setUp, Socket, tearDown, turns } from "./fake.mjs";

let client;
beforeEach(setUp);
afterEach(() => {
  client.close();
  tearDown();
});

async function opened(options) {
  client = connect(options);
  await turns();
  return Socket.last.welcome();
}

/** The next socket, after the last one was lost. */
async function next() {
  await pass(20_000);
  return Socket.last.welcome();
}

/** What becomes of a promise, without waiting for it. */
function outcome(promise) {
  const seen = {};
  promise.then(
    (id) => (seen.id = id),
    ({ message, code, outcome }) => Object.assign(seen, { message, code, outcome }),
  );
  return seen;
}

const ack = ({ messageId }, streamId = "1-0") => ({ status: "ack", messageId, streamId });
const refusal = ({ messageId }, code, outcome = "not_stored") => ({
  status: "error_ack", messageId, error: "text", code, outcome,
});

test("a publish gives its id once it is acked", async () => {
  const socket = await opened();
  const seen = outcome(client.publish("news", { text: "hi" }));
  const [request] = socket.take();
  const { messageId, producer } = request;
  assert.deepEqual(request, { action: "publish", channel: "news", data: { text: "hi" }, messageId, producer });
  await turns();
  assert.deepEqual(seen, {});
  socket.get(ack(request, "9007199254740993-0"));
  await turns();
  assert.deepEqual(seen, { id: "9007199254740993-0" });
  await pass(30_000); // its timeout
});

test("each client is another producer, and each message has another name", async () => {
  await opened();
  client.publish("news", 1).catch(() => {});
  client.publish("news", 1).catch(() => {});
  const [a, b] = Socket.last.take();
  assert.equal(a.producer, b.producer);
  assert.notEqual(a.messageId, b.messageId);
  client.close();
  await pass(1);
  const socket = await opened();
  client.publish("news", 1).catch(() => {});
  assert.notEqual(socket.take()[0].producer, a.producer);
});

test("what was published without a connection is sent in order once there is one", async () => {
  client = connect();
  for (const data of [1, 2, 3]) client.publish("news", data).catch(() => {});
  await turns();
  assert.deepEqual(Socket.last.welcome().take().map(({ data }) => data), [1, 2, 3]);
});

test("publishes under way are sent again under the same names, and acked ones are not", async () => {
  const socket = await opened();
  const seen = [1, 2, 3].map((data) => outcome(client.publish("news", data)));
  const sent = socket.take();
  socket.get(ack(sent[1]));
  socket.lost();
  const again = await next();
  assert.deepEqual(again.take(), [sent[0], sent[2]]);
  again.get(ack(sent[0], "5-0"), ack(sent[2], "6-0"));
  await turns();
  assert.deepEqual(seen.map(({ id }) => id), ["5-0", "1-0", "6-0"]);
});

test("a refusal rejects, and says whether it may be stored", async () => {
  const socket = await opened();
  const seen = outcome(client.publish("news", 1));
  socket.get(refusal(socket.take()[0], "redis_refused"));
  await turns();
  assert.deepEqual(seen, { message: "text", code: "redis_refused", outcome: "not_stored" });
});

test("retryAfter is handed on", async () => {
  const socket = await opened();
  const publish = client.publish("news", 1);
  socket.get({ ...refusal(socket.take()[0], "rate_limited"), retryAfter: 2.5 });
  await assert.rejects(publish, { code: "rate_limited", retryAfter: 2.5 });
});

test("an unknown outcome is found out by sending it again", async () => {
  const socket = await opened();
  const seen = outcome(client.publish("news", 1));
  const [request] = socket.take();
  socket.get(refusal(request, "redis_unavailable", "unknown"));
  await pass(99);
  assert.deepEqual(socket.take(), []);
  await pass(1);
  assert.deepEqual(socket.take(), [request]);
  socket.get(refusal(request, "redis_unavailable")); // not this time, but maybe before
  await pass(200);
  assert.deepEqual(socket.take(), [request]);
  socket.get({ ...ack(request, "7-0"), duplicate: true });
  await turns();
  assert.deepEqual(seen, { id: "7-0" });
  client.publish("news", 1).catch(() => {});
  socket.get(refusal(socket.take()[0], "redis_unavailable", "unknown"));
  await pass(100); // the waits begin anew
  assert.equal(socket.take().length, 1);
});

test("what is refused after an unknown outcome may be stored, unless others have its name", async () => {
  const socket = await opened();
  const seen = [1, 2].map((data) => outcome(client.publish("news", data)));
  const [first, second] = socket.take();
  socket.lost();
  (await next()).get(refusal(first, "not_allowed"), refusal(second, "conflict"));
  await turns();
  assert.deepEqual(seen.map(({ outcome }) => outcome), ["unknown", "not_stored"]);
});

test("without an ack it is rejected after its timeout", async () => {
  const socket = await opened();
  const sent = outcome(client.publish("news", 1));
  socket.lost();
  await turns();
  const waiting = outcome(client.publish("news", 2, { timeout: 5_000 }));
  await pass(5_000);
  assert.deepEqual(waiting, { message: "no ack in time", code: "timeout", outcome: "not_stored" });
  await pass(25_000);
  assert.deepEqual(sent, { message: "no ack in time", code: "timeout", outcome: "unknown" });
});

test("it is not sent again when the gateway might no longer know it", async () => {
  const socket = await opened({ maxDelay: 1e9, minDelay: 100_001 });
  const seen = outcome(client.publish("news", 1, { timeout: 1e9 }));
  socket.take();
  socket.lost();
  await pass(100_001);
  assert.deepEqual(Socket.last.welcome().take(), []);
  await turns();
  assert.deepEqual([seen.code, seen.outcome], ["timeout", "unknown"]);
});

test("the outbox has a bound, in messages and in size", async () => {
  const socket = await opened();
  for (let n = 0; n < 1000; n++) client.publish("news", n).catch(() => {});
  await assert.rejects(client.publish("news", 1), { code: "outbox_full", outcome: "not_stored" });
  const [first] = socket.take();
  socket.get(ack(first));
  client.publish("news", 1).catch(() => {});
  assert.equal(socket.take().length, 1);
  client.close();
  await pass(1);
  await opened();
  client.publish("news", "x".repeat(4 << 20)).catch(() => {});
  await assert.rejects(client.publish("news", 1), { code: "outbox_full" });
  Socket.last.get(ack(Socket.last.take()[0]));
  client.publish("news", 1).catch(() => {});
  assert.equal(Socket.last.take().length, 1);
});

test("two publishes can't have the same name at the same time", async () => {
  const socket = await opened();
  const first = client.publish("news", 1, { messageId: "m" });
  await assert.rejects(client.publish("news", 2, { messageId: "m" }), /m is under way/);
  socket.get(ack({ messageId: "m" }));
  assert.equal(await first, "1-0");
});

test("what JSON can't express is rejected", async () => {
  await opened();
  await assert.rejects(client.publish("news", 1n), TypeError);
});

test("too big rejects the biggest alone, counted in bytes", async () => {
  const socket = await opened();
  const seen = ["x".repeat(900), "ä".repeat(600), "x"].map((data) => outcome(client.publish("news", data)));
  const sent = socket.take();
  socket.lost(1009, "too big");
  await turns();
  assert.match(seen[1].message, /too big for the gateway: 1\d\d\d bytes/);
  assert.deepEqual([seen[1].code, seen[1].outcome], ["too_big", "not_stored"]);
  const again = await next();
  assert.deepEqual(again.take(), [sent[0], sent[2]]);
  again.get(ack(sent[0]), ack(sent[2]));
  await turns();
  assert.deepEqual([seen[0].id, seen[2].id], ["1-0", "1-0"]);
});

test("close rejects what is under way", async () => {
  const socket = await opened();
  const sent = outcome(client.publish("news", 1));
  socket.lost();
  const again = await next();
  again.lost();
  await turns();
  const waiting = outcome(client.publish("news", 2));
  client.close();
  await turns();
  assert.deepEqual([sent.code, sent.outcome], ["closed", "unknown"]);
  assert.deepEqual([waiting.code, waiting.outcome], ["closed", "not_stored"]);
});
