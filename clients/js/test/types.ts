// What `tsc --strict` has to accept, and, where an error is expected, to refuse.
import { connect, type Client, type Id, type Message, type RswsError, type SubscriptionEvent } from "rsws";

interface Chat {
  user: string;
  text: string;
}

const client: Client = connect("wss://gateway.example", {
  token: async () => (await fetch("/token")).text(),
  onEvent(event) {
    if (event.event === "status") console.log(event.status, event.reason);
    else if (event.event === "token_expiring") console.log(event.expiresAt);
    // @ts-expect-error: no such event
    else if (event.event === "opened") return;
  },
});

const subscription = client.subscribe<Chat>("chat", {
  after: "0",
  onMessages(messages: Message<Chat>[]) {
    for (const { id, data } of messages) console.log(id.split("-"), data.user.length, data.text);
  },
  onEvent(event: SubscriptionEvent) {
    if (event.event === "gap") console.log(event.reason === "reset", event.resumesAt?.length);
    else if (event.event === "error") console.log(event.error.code);
  },
});
subscription.close();

client.subscribe("prices", { state: async (): Promise<Id> => "1700000001234-0" });
client.subscribe("prices", { last: 10, end: true });
// @ts-expect-error: ids are strings
client.subscribe("prices", { after: 5 });
// @ts-expect-error: no such option
client.subscribe("prices", { from: "0" });

export async function read(): Promise<void> {
  for await (const message of client.subscribe<Chat>("chat")) {
    const text: string = message.data.text;
    // @ts-expect-error: an id is no number
    const id: number = message.id;
    console.log(text, id);
  }
  try {
    const id: Id = await client.publish("chat", { text: "hi" }, { messageId: "m1", timeout: 5_000 });
    console.log(id);
  } catch (error) {
    const { code, outcome, retryAfter } = error as RswsError;
    console.log(code, outcome === "not_stored", retryAfter);
  }
  client.wake();
  client.close();
}
