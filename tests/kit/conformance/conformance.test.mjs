import { runConformanceTests } from "@durable-streams/server-conformance-tests";
import { afterAll, beforeAll } from "vitest";
import { adapter } from "./adapter.mjs";

const LONG_POLL_MS = 500;
const { GATEWAY, TOKEN } = process.env;
const server = adapter(GATEWAY, TOKEN, LONG_POLL_MS);
const options = { baseUrl: "", longPollTimeoutMs: LONG_POLL_MS };

beforeAll(async () => {
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  options.baseUrl = `http://127.0.0.1:${server.address().port}`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});
runConformanceTests(options);
