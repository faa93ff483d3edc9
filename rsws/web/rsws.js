// A client of the rsws gateway. MIT licence.

const MAX_ENTRIES = 1000, MAX_CHARS = 4 << 20; // of the outbox, and of what a subscription queues

const failure = (message, fields) => Object.assign(new Error(message), fields);
const utf8 = (text) => new TextEncoder().encode(text);

// Call in the next turn, in a hidden page too, where timers wait.
const soon = globalThis.setImmediate ?? ((f) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => (port1.close(), f());
  port2.postMessage(0);
});

const logErrors = ({ error }) => error && console.error(error);

export function connect(url, options = {}) {
  const { token, WebSocket = globalThis.WebSocket, minDelay = 100, maxDelay = 10_000, onEvent = logErrors } = options;
  const asksToken = typeof token === "function";
  const producer = [Date.now(), Math.random(), Math.random()].join("-");
  const subscriptions = new Map();
  const leaving = new Set(); // channels: what comes before `unsubscribed` is of the past
  const outbox = new Map(); // unanswered publishes by messageId
  let status = "connecting", attempt, socket, timer, opened, heard, pings, refused, held, closed, ended;
  let tries = 0, published = 0, chars = 0, resends = 0, resending;

  const delay = (tries) => Math.random() * Math.min(maxDelay, minDelay * 2 ** tries);

  async function tell(what, listener = onEvent) {
    try {
      await listener(what);
    } catch (error) {
      setTimeout(() => { throw error; }, 0); // the page's, and no reason to stop here
    }
  }

  function change(to, more) {
    status = to;
    tell({ event: "status", status, ...more });
  }

  function listen(how) {
    for (const type of ["online", "pageshow", "resume", "visibilitychange"])
      for (const target of [globalThis, globalThis.document]) target?.[how]?.(type, wake);
  }

  // The one timer of a connection: for the welcome, a pong, or the next attempt.
  function wait(ms, f) {
    clearTimeout(timer);
    timer = setTimeout(f, ms);
  }

  async function open() {
    const mine = (attempt = {});
    const ours = (f) => (event) => mine === attempt && f(event); // else too late
    wait(10_000, () => lost({ reason: "no answer" }));
    try {
      held = asksToken ? await token() : token;
    } catch (error) {
      tell({ event: "error", error });
      return ours(lost)({ reason: "no token" });
    }
    if (mine !== attempt) return;
    try {
      const base64 = held && btoa(String.fromCharCode(...utf8(held)));
      const base64url = base64?.replace(/[+/=]/g, (c) => ({ "+": "-", "/": "_" })[c] ?? "");
      socket = new WebSocket(url, held ? ["rsws", "rsws.token." + base64url] : []);
    } catch (error) {
      return end(error);
    }
    socket.onmessage = ours(({ data }) => receive(data));
    socket.onclose = ours(lost);
    socket.onerror = () => {};
  }

  function ask() {
    pings++;
    send({ action: "ping" });
    wait(5_000, () => lost({ reason: "no pong" }));
  }

  function rest() {
    heard = false;
    wait(30_000, () => (heard ? rest() : ask()));
  }

  function wake() {
    if (status === "open") ask();
    else if (!attempt && !ended) open();
  }

  function hangUp() {
    clearTimeout(timer);
    attempt = null;
    socket?.close();
  }

  function lost({ code, reason }) {
    hangUp();
    const again = code === 1009 ? blame() : code === 1008 && asksToken && !refused;
    const isFinal = [1000, 1002, 1003, 1007, 1008, 1009].includes(code);
    if (isFinal && !again) return end(failure(`closed with ${code} ${reason}`, { code, reason }));
    refused = code === 1008;
    if (status === "open" && Date.now() - opened >= 60_000) tries = 0;
    leaving.clear();
    subscriptions.forEach((each) => each.disconnected());
    for (const call of outbox.values()) {
      call.unsure ||= call.sent;
      call.sent = false;
    }
    wait(delay(tries++), open);
    change("connecting", { code, reason });
  }

  function end(error) {
    if (ended) return;
    ended = error;
    hangUp();
    clearTimeout(resending);
    listen("removeEventListener");
    subscriptions.forEach((each) => each.finish(error));
    for (const id of outbox.keys()) fail(id, error.message, { code: error.code });
    change("closed", closed ? {} : { error });
  }

  function close() {
    closed = true;
    subscriptions.forEach((each) => each.close());
    end(failure("the client is closed", { code: "closed" }));
  }

  function send(request) {
    if (status === "open") socket.send(JSON.stringify(request));
    return status === "open";
  }

  function receive(text) {
    const reply = JSON.parse(text);
    const { status, event, channel, code, error } = reply;
    const subscription = subscriptions.get(channel);
    heard = true;
    if (status === "connected") {
      opened = Date.now();
      pings = 0;
      refused = false;
      rest();
      change("open");
      subscriptions.forEach((each) => each.join());
      resend();
    } else if (status === "pong") --pings || rest();
    else if (/ack$/.test(status)) answered(reply);
    else if (status === "unsubscribed") {
      leaving.delete(channel);
      subscription?.join();
    } else if (event === "token_expiring") {
      tell(reply);
      if (asksToken) renew();
    } else if (leaving.has(channel)) return;
    else if (subscription) subscription.receive(reply, text.length);
    else if (status === "error") tell({ event: "error", error: failure(error, { code, channel }) });
  }

  async function renew() {
    const mine = attempt;
    try {
      const next = await token();
      if (mine === attempt && next !== held) send({ action: "token", token: (held = next) });
    } catch (error) {
      tell({ event: "error", error });
    }
  }

  async function publish(channel, data, { messageId, timeout = 30_000 } = {}) {
    messageId ??= `${producer}-${++published}`;
    const frame = JSON.stringify({ action: "publish", channel, data, messageId, producer });
    if (ended) throw ended;
    if (outbox.has(messageId)) throw failure(`${messageId} is under way`);
    if (outbox.size >= MAX_ENTRIES || chars >= MAX_CHARS)
      throw failure("the outbox is full", { code: "outbox_full", outcome: "not_stored" });
    return new Promise((resolve, reject) => {
      const timer = setTimeout(expire, timeout, messageId);
      outbox.set(messageId, { frame, resolve, reject, timer });
      chars += frame.length;
      post(messageId);
    });
  }

  const expire = (id) => fail(id, "no ack in time", { code: "timeout" });

  function post(id) {
    const call = outbox.get(id);
    if (status !== "open" || call.sent) return;
    if (Date.now() - (call.since ??= Date.now()) > 100_000) return expire(id); // no longer known to the gateway
    call.sent = true;
    socket.send(call.frame);
  }

  function resend() {
    resending = null;
    for (const id of outbox.keys()) post(id);
  }

  function answered({ status, messageId, streamId, error, code, outcome, retryAfter }) {
    const call = outbox.get(messageId);
    if (!call?.sent) return;
    call.sent = false;
    if (status === "ack") {
      resends = 0;
      settle(messageId).resolve(streamId);
    } else if (outcome === "unknown" || (call.unsure && code?.startsWith("redis_"))) {
      call.unsure = true;
      resending ??= setTimeout(resend, delay(resends++));
    } else {
      call.unsure &&= code !== "conflict"; // other data have its name
      fail(messageId, error, { code, retryAfter });
    }
  }

  function settle(id) {
    const call = outbox.get(id);
    outbox.delete(id);
    chars -= call.frame.length;
    clearTimeout(call.timer);
    return call;
  }

  function fail(id, message, more) {
    const { unsure, sent, reject } = settle(id);
    reject(failure(message, { ...more, outcome: unsure || sent ? "unknown" : "not_stored" }));
  }

  // The gateway found one too big: so the biggest is.
  function blame() {
    let most = 0, biggest;
    for (const [id, call] of outbox) {
      const size = call.sent && utf8(call.frame).length;
      if (size > most) [most, biggest] = [size, id];
    }
    if (!most) return;
    outbox.get(biggest).sent = false; // nor stored
    fail(biggest, `too big for the gateway: ${most} bytes`, { code: "too_big" });
    return true;
  }

  function subscribe(channel, { after = "$", last, end, state, onMessages, onEvent } = {}) {
    let queue = []; // messages, and the events between them
    let chars = 0, tries = 0, position, taken, asked, live, paused, loading, loaded, over, broken, stir, timer;
    if (ended) throw ended;
    if (subscriptions.has(channel)) throw failure(`${channel} is subscribed already`);

    const tellError = (error) => tell({ event: "error", channel, error }, onEvent);
    const hand = () => stir?.();
    const disconnected = () => (asked = live = false);

    async function load() {
      loading = true;
      if (over) return;
      try {
        position = `${await state()}`;
        loading = false;
        join();
      } catch (error) {
        if (over) return;
        tellError(error);
        timer = setTimeout(load, delay(tries++));
      }
    }

    function join() {
      if (asked || paused || loading || over || leaving.has(channel)) return;
      const start = position || last === undefined ? { lastMessageId: position ?? after } : { last };
      asked = send({ action: "subscribe", channel, ...start, marker: true, end, resume: (end && taken && taken === position) || undefined });
    }

    function leave() {
      if (asked && send({ action: "unsubscribe", channel })) leaving.add(channel);
      disconnected();
    }

    function finish(error) {
      over = true;
      broken = error;
      clearTimeout(timer);
      subscriptions.delete(channel);
      hand();
    }

    function close() {
      queue = [];
      if (!over) leave(), finish();
    }

    function push(item) {
      if (!queue.length) soon(hand);
      queue.push(item);
    }

    function receive(reply, length) {
      const { status, event, streamId: id, data, reason, error, code } = reply;
      if (error) refused(failure(error, { code, channel }));
      else if (status) {
        live = true;
        tries = 0;
        position = reply.lastMessageId ?? position;
      } else if (!live && event !== "end") return;
      else if (event !== "message") {
        if (reason === "reset") position = "0-0"; // ids begin anew
        loading = event === "gap" && state && !loaded; // once: a gap right after that is no reason to load again
        loaded ||= loading;
        if (loading) leave();
        push(reply);
        if (event === "end") finish();
      } else if (queue.length >= MAX_ENTRIES || chars >= MAX_CHARS) {
        paused = true; // the stream keeps the rest
        leave();
      } else {
        position = taken = id;
        loaded = false;
        chars += length;
        push({ channel, id, data });
      }
    }

    function refused(error) {
      if (!live || error.code === "not_allowed") {
        disconnected();
        if (error.code === "redis_unavailable" || (error.code === "redis_refused" && position))
          timer = setTimeout(join, delay(tries++));
        else finish(error);
      }
      tellError(error);
    }

    async function* deliver() {
      try {
        while (!closed && (queue.length || !over)) {
          const next = queue.findIndex((item) => item.event);
          if (!queue.length) {
            chars = 0;
            paused = false;
            join();
            await new Promise((resolve) => (stir = resolve));
          } else if (!next) {
            await tell(queue.shift(), onEvent);
            if (loading && !queue.length) load();
          } else if (onMessages) await tell(queue.splice(0, next < 0 ? MAX_ENTRIES : next), onMessages);
          else yield queue.shift();
        }
        if (broken) throw broken;
      } finally {
        close();
      }
    }

    subscriptions.set(channel, { join, disconnected, finish, close, receive });
    if (state) load();
    join();
    if (onMessages) deliver().next().catch(() => {}); // it never yields
    return { channel, close, [Symbol.asyncIterator]: deliver };
  }

  listen("addEventListener");
  open();
  return { subscribe, publish, wake, close, get status() { return status; } };
}
