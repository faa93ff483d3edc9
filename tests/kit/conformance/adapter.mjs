// The Durable Streams protocol over the gateway's plain HTTP, for that protocol's conformance tests. A stream is a
// channel, an offset an id with zeros in front; bytes that are no JSON are a string of base64. Only what streams are
// is remembered here: their types and the last Stream-Seq.
import { createServer } from "node:http";

const encode = (id) => id.split("-").map((half) => half.padStart(20, "0")).join("_");
const decode = (offset) => offset.split("_").map(BigInt).join("-");
const isSame = (one, other) => one.split(";")[0].trim().toLowerCase() === other.split(";")[0].trim().toLowerCase();
const BEGINNING = encode("0-0");

/** A server whose errors are thrown as the statuses that they are answered with. */
export function adapter(gateway, token, longPollMs) {
  const streams = new Map();

  const ask = async (path, { headers, ...options } = {}) => {
    const given = { authorization: `Bearer ${token}`, ...headers };
    const answer = await fetch(`${gateway}/channels${path}`, { headers: given, ...options });
    if (!answer.ok) throw answer.status;
    return answer;
  };
  const latest = async ({ channel }) => {
    let page = { cursor: "" };
    do {
      page = await (await ask(`?match=${channel}&cursor=${encodeURIComponent(page.cursor)}`)).json();
    } while (!page.channels.length && page.cursor !== null);
    return page.channels.length ? encode(page.channels[0].lastId) : BEGINNING;
  };

  async function append({ isJson, channel }, body) {
    let items = body.length ? [body.toString("base64")] : [];
    if (isJson) {
      try {
        items = [JSON.parse(body)].flat(1);
      } catch {
        throw 400;
      }
    }
    for (const item of items) await ask(`/${channel}`, { method: "POST", body: JSON.stringify(item) });
    return items.length;
  }

  const bytes = (data) => Buffer.concat(data.map((each) => Buffer.from(each, "base64")));
  const joined = ({ isJson }, data) => (isJson ? Buffer.from(JSON.stringify(data)) : bytes(data));

  async function history({ channel }, offset) {
    const headers = { accept: "application/x-ndjson" };
    const text = await (await ask(`/${channel}?from=${decode(offset)}&follow=0`, { headers })).text();
    return text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  }

  async function* events({ channel }, offset, signal) {
    const headers = { accept: "text/event-stream" };
    const answer = await ask(`/${channel}?from=${decode(offset)}`, { headers, signal });
    let text = "";
    for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
      const blocks = (text + piece).split("\n\n");
      text = blocks.pop();
      yield* blocks.map((block) => Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s))));
    }
  }

  async function sendEvents(response, stream, offset, headers, signal) {
    const isBinary = !stream.isJson && !isSame(stream.type, "text/plain");
    const encoding = isBinary && { "stream-sse-data-encoding": "base64" };
    const type = { "content-type": "text/event-stream", "cache-control": "no-cache" };
    response.writeHead(200, { ...headers, ...type, ...encoding });
    const send = (data, next) => {
      if (data.length) {
        const text = joined(stream, data).toString(isBinary ? "base64" : "utf8");
        response.write(`event: data\n${text.replace(/^/, "data:").replace(/\r\n|\r|\n/g, "\ndata:")}\n\n`);
      }
      const control = { streamNextOffset: next, streamCursor: headers["stream-cursor"], upToDate: true };
      response.write(`event: control\ndata:${JSON.stringify(control)}\n\n`);
    };
    let missed = [];
    for await (const { event, id, data } of events(stream, offset, signal)) {
      if (event === "caught_up") {
        send(missed.map((each) => each.data), missed.length ? missed.at(-1).offset : offset);
        missed = null;
      } else if (id && data) {
        const message = { offset: encode(id), data: JSON.parse(data) };
        if (missed) missed.push(message);
        else send([message.data], message.offset);
      }
    }
  }

  async function read(request, response, stream, query) {
    const [[given = null, another], live] = [query.getAll("offset"), query.get("live")];
    const isOffset = given === null || /^(-1|now|\d{20}_\d{20})$/.test(given);
    const isLive = live === null || (["long-poll", "sse"].includes(live) && given !== null);
    if (another || !isOffset || !isLive) throw 400;
    const isNow = given === "now";
    const offset = isNow ? await latest(stream) : given?.includes("_") ? given : BEGINNING;
    const interval = Math.max(Math.floor(Date.now() / 20_000), Number(query.get("cursor") ?? 0) + 1);
    const headers = { "content-type": stream.type, "stream-up-to-date": "true", "stream-next-offset": offset };
    if (live) headers["stream-cursor"] = `${interval}`;
    const abort = new AbortController();
    response.on("close", () => abort.abort());
    if (live === "sse") return sendEvents(response, stream, offset, headers, abort.signal);
    let found = await history(stream, offset);
    if (live && !found.length) {
      const signal = AbortSignal.any([abort.signal, AbortSignal.timeout(longPollMs)]);
      try {
        for await (const { event, data } of events(stream, offset, signal)) if (data && !event) break;
      } catch {
        return response.writeHead(204, headers).end();
      }
      found = await history(stream, offset);
    }
    if (found.length) headers["stream-next-offset"] = encode(found.at(-1).streamId);
    headers.etag = `"${stream.channel}:${offset}:${headers["stream-next-offset"]}"`;
    if (isNow) headers["cache-control"] = "no-store";
    if (!live && request.headers["if-none-match"] === headers.etag) return response.writeHead(304, headers).end();
    response.writeHead(200, headers).end(joined(stream, found.map(({ data }) => data)));
  }

  async function answer(request, response) {
    const { pathname, searchParams } = new URL(request.url, "http://adapter");
    const body = Buffer.concat(await request.toArray());
    const { "content-type": type, "stream-seq": seq, host } = request.headers;
    let stream = streams.get(pathname);
    if (request.method === "PUT") {
      const isNew = !stream;
      if (isNew) {
        stream = { type: type ?? "application/octet-stream", channel: crypto.randomUUID() };
        stream.isJson = isSame(stream.type, "application/json");
        await append(stream, stream.isJson && !body.length ? "[]" : body);
        streams.set(pathname, stream);
      } else if (!isSame(type ?? stream.type, stream.type)) throw 409;
      const headers = { "content-type": stream.type, "stream-next-offset": await latest(stream) };
      return response.writeHead(isNew ? 201 : 200, { ...headers, location: `http://${host}${pathname}` }).end();
    }
    if (!stream) throw 404;
    if (request.method === "GET") return read(request, response, stream, searchParams);
    if (request.method === "POST") {
      if (!body.length || !type) throw 400;
      if (!isSame(type, stream.type) || seq <= stream.seq) throw 409;
      if (!(await append(stream, body))) throw 400;
      stream.seq = seq ?? stream.seq;
    } else if (request.method === "DELETE") streams.delete(pathname);
    else if (request.method !== "HEAD") throw 405;
    const headers = { "content-type": stream.type, "stream-next-offset": await latest(stream) };
    response.writeHead(request.method === "HEAD" ? 200 : 204, { ...headers, "cache-control": "no-store" }).end();
  }

  return createServer((request, response) => {
    answer(request, response).catch((status) => {
      if (!response.headersSent) response.writeHead(typeof status === "number" ? status : 500);
      response.end();
    });
  });
}
