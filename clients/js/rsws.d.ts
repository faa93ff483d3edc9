/** An id of a message, such as `"1700000001234-0"`. It stays a string: its halves do not fit into a number. */
export type Id = string;

export interface Message<Data = any> {
  channel: string;
  id: Id;
  /** What was published, by `JSON.parse`: numbers beyond 2^53 lose digits. */
  data: Data;
}

/** Messages may be missing after `lastMessageId`: the stream was trimmed, or deleted and made anew. */
export interface GapEvent {
  event: "gap";
  channel: string;
  lastMessageId: Id;
  /** The first id there is; null when there is none yet. */
  resumesAt: Id | null;
  reason: "trimmed" | "reset";
}

/** History ends here; said once for each connection. */
export interface CaughtUpEvent {
  event: "caught_up";
  channel: string;
  lastMessageId: Id;
}

/** The channel has ended, and the subscription with it; only with the option `end`. */
export interface EndEvent {
  event: "end";
  channel: string;
  streamId: Id;
}

/** Something failed. With a `code` of a refused subscription that is over; all else is tried again. */
export interface ErrorEvent {
  event: "error";
  channel?: string;
  error: RswsError;
}

export interface TokenExpiringEvent {
  event: "token_expiring";
  /** RFC 3339, UTC. */
  expiresAt: string;
}

export interface StatusEvent {
  event: "status";
  status: Status;
  /** Why the last connection is lost: its close code, if it had one. */
  code?: number;
  reason?: string;
  /** Why it is closed for good; none after `close()`. */
  error?: RswsError;
}

export type SubscriptionEvent = GapEvent | CaughtUpEvent | EndEvent | ErrorEvent;
export type ClientEvent = SubscriptionEvent | TokenExpiringEvent | StatusEvent;

/** `connecting`: there is no connection, and it goes on trying; `closed`: for good. */
export type Status = "connecting" | "open" | "closed";

export interface RswsError extends Error {
  /** A code of the gateway; `outbox_full`, `timeout`, `too_big` or `closed`; or a WebSocket close code. */
  code?: string | number;
  /** Of a publish that failed: `unknown` where it may be stored all the same. */
  outcome?: "not_stored" | "unknown";
  /** Seconds to wait before the next publish. */
  retryAfter?: number;
}

export interface ConnectOptions {
  /** The token, or a function that is asked at each attempt to connect and before a token ends. */
  token?: string | (() => string | Promise<string>);
  /** Of what is about the connection, and of all subscriptions without one of their own. By default errors are logged. */
  onEvent?: (event: ClientEvent) => void;
  /** Where there is no global one (Node.js before 22): `ws` of npm, for example. */
  WebSocket?: new (url: string, protocols: string[]) => any;
  /** Milliseconds that the first wait before another attempt has at most (100). It doubles with each failure. */
  minDelay?: number;
  /** Milliseconds that any wait has at most (10,000). */
  maxDelay?: number;
}

export interface SubscribeOptions<Data = any> {
  /** Where to start: `"0"` for the whole history, `"$"` (the default) for what is new, an id for what follows it. */
  after?: Id | "0" | "$";
  /** Start so many entries before the end instead. */
  last?: number;
  /** Load the state and return the id that it is up to; called first and after each gap. It goes on from that id. */
  state?: () => Id | Promise<Id>;
  /** End with a channel that is ended (`end`). */
  end?: boolean;
  /** The messages of one turn. The next come when it has returned, or when its promise is fulfilled. */
  onMessages?: (messages: Message<Data>[]) => void | Promise<void>;
  /** What happens to this subscription, in its place among the messages. */
  onEvent?: (event: SubscriptionEvent) => void;
}

/**
 * Messages of one channel, one by one, for whoever gave no `onMessages`; to be read by one loop.
 * Leaving the loop closes it. The loop throws when the subscription is refused or the connection lost for good.
 */
export interface Subscription<Data = any> extends AsyncIterable<Message<Data>> {
  readonly channel: string;
  /** End it: nothing more is handed over, and the channel may be subscribed to again. */
  close(): void;
}

export interface PublishOptions {
  /** Names the message, to try it again after an unknown outcome. By default one is made. */
  messageId?: string;
  /** Milliseconds to wait for a connection and the ack (30,000). */
  timeout?: number;
}

export interface Client {
  readonly status: Status;
  /** Throws when the channel is subscribed already, or the client closed. */
  subscribe<Data = any>(channel: string, options?: SubscribeOptions<Data>): Subscription<Data>;
  /** The id, once it is stored. Rejects with an {@link RswsError}, whose `outcome` says whether it may be stored. */
  publish(channel: string, data: unknown, options?: PublishOptions): Promise<Id>;
  /** Try to connect now, or ask the gateway whether it is still there. For what tells of waking up, such as AppState. */
  wake(): void;
  /** Close for good: nothing more is handed over, and publishes under way are rejected. */
  close(): void;
}

/** Connect to a gateway (`ws://` or `wss://`), and stay connected until `close()`. */
export function connect(url: string, options?: ConnectOptions): Client;
