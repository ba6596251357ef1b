// ioredis and both generations of node-redis, through a proxy of which one node is down: `dead_node.js PORT`.
"use strict";
const assert = require("node:assert");
const Redis = require("ioredis");
const generations = { "node-redis 4": require("redis-4"), "node-redis 5": require("redis") };

const port = Number(process.argv[2]);
const numbers = (count) => [...Array(count).keys()];

/// How many of these keys are there, and how many have their node out of reach.
async function tally(get) {
  const count = { there: 0, unreachable: 0 };
  for (const number of numbers(40)) {
    try {
      assert.equal(await get(`key:${number}`), "v");
      count.there += 1;
    } catch (error) {
      assert.match(error.message, /NODEDOWN/);
      count.unreachable += 1;
    }
  }
  assert(count.there > 0 && count.unreachable > 0, JSON.stringify(count));
}

async function ioredis() {
  // Its ready check is INFO.
  const redis = new Redis({ port, host: "127.0.0.1", maxRetriesPerRequest: 1, connectTimeout: 5000 });
  redis.on("error", (error) => console.error(error));
  await new Promise((resolve, reject) => {
    redis.once("ready", resolve);
    setTimeout(() => reject(new Error("ioredis does not get ready")), 10000).unref();
  });
  assert.equal(await redis.ping(), "PONG");
  assert.match(await redis.info(), /unreachable_nodes:1/);
  assert.equal((await redis.time()).length, 2);
  await tally((key) => redis.get(key));
  await assert.rejects(redis.dbsize(), /PARTIAL/);
  redis.disconnect();
}

async function nodeRedis(name, { createClient }) {
  const client = createClient({ socket: { port, host: "127.0.0.1", reconnectStrategy: false } });
  client.on("error", (error) => console.error(name, error));
  await client.connect();
  assert.equal(await client.ping(), "PONG");
  assert.match(await client.info(), /unreachable_nodes:1/);
  await client.time();
  await tally((key) => client.get(key));
  await assert.rejects(client.dbSize(), /PARTIAL/);
  await (client.destroy ? client.destroy() : client.disconnect());
}

async function main() {
  await ioredis();
  for (const [name, generation] of Object.entries(generations)) await nodeRedis(name, generation);
  console.log("dead_node.js: all well");
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
