// A backend that publishes without the gateway: it adds an entry to the Redis Stream, and the gateway hands it to
// every client that subscribed to the channel of that name.
//
//     npm install
//     node backend_publisher.js [CHANNEL [JSON]]
//
// REDIS_URL must name the Redis that the gateway uses (default redis://localhost:6379).

const { createClient } = require('redis');

const REDIS_URL = process.env.REDIS_URL || 'redis://localhost:6379';

async function publishMessage(channel, data) {
  const client = createClient({
    url: REDIS_URL,
    socket: { reconnectStrategy: false }, // a script should fail, not wait; leave this out in a service
  });
  client.on('error', () => {}); // without a listener Node ends the process; the awaits below report the error
  await client.connect();
  try {
    return await client.xAdd(channel, '*', { messageData: JSON.stringify(data) });
  } finally {
    client.destroy();
  }
}

async function main() {
  const channel = process.argv[2] || 'pending';
  const data = process.argv[3]
    ? JSON.parse(process.argv[3])
    : { type: 'ALERT', timestamp: new Date().toISOString(), details: 'Server A is being maintained.' };
  const streamId = await publishMessage(channel, data);
  console.log(`published to '${channel}' with id ${streamId}`);
}

main().catch((error) => {
  console.error(`not published: ${error.message || error.code}`);
  process.exitCode = 1;
});
