// What programs do with node-redis, through a proxy: `node_redis.js PORT PROTOCOL`, protocol 2 or 3.
"use strict";
const assert = require("node:assert");
const { createClient, defineScript, WatchError } = require("redis");

const port = Number(process.argv[2]);
const RESP = Number(process.argv[3]);
const numbers = (count) => [...Array(count).keys()];
const stamp = defineScript({
  NUMBER_OF_KEYS: 1,
  SCRIPT: "return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}",
  parseCommand(parser, key, argument) {
    parser.pushKey(key);
    parser.push(argument);
  },
  transformReply: (reply) => reply,
});

async function main() {
  const client = createClient({ socket: { port, host: "127.0.0.1" }, RESP, scripts: { stamp } });
  client.on("error", (error) => console.error(error));
  await client.connect();
  assert.equal(await client.ping(), "PONG");
  await client.flushAll();

  const keys = numbers(100).map((number) => `key:${number}`);
  await client.mSet(keys.map((key) => [key, key]));
  assert.deepEqual(await client.mGet([...keys, "missing"]), [...keys, null]);
  const found = [];
  for await (const some of client.scanIterator({ MATCH: "key:*", COUNT: 7 })) found.push(...some);
  assert.deepEqual(found.sort(), [...keys].sort());
  assert.equal(await client.del(keys), 100);
  await client.hSet("h", { a: 1, b: "two" });
  assert.deepEqual({ ...(await client.hGetAll("h")) }, { a: "1", b: "two" });
  await client.zAdd("z", [{ score: 1, value: "one" }, { score: 0.5, value: "half" }]);
  assert.deepEqual((await client.zRangeWithScores("z", 0, -1)).map(({ score }) => score), [0.5, 1]);
  await client.set("text", "x");
  await assert.rejects(client.lPush("text", "1"), /WRONGTYPE/);
  await assert.rejects(client.sUnion(numbers(50).map((number) => `set:${number}`)), /CROSSNODE/);
  await assert.rejects(client.sendCommand(["NOSUCH", "a"]), /unknown command/);

  // What is asked in one turn is sent in one go.
  await Promise.all(numbers(500).map((number) => client.set(`p:${number}`, String(number))));
  const many = await Promise.all(numbers(500).map((number) => client.get(`p:${number}`)));
  assert.deepEqual(many.map(Number), numbers(500));

  // Transactions, with WATCH and without.
  assert.deepEqual(await client.multi().set("{t}n", "1").incr("{t}n").get("{t}n").exec(), ["OK", 2, "2"]);
  const other = client.duplicate();
  other.on("error", (error) => console.error(error));
  await other.connect();
  await client.watch("{t}n");
  await other.incr("{t}n");
  await assert.rejects(client.multi().set("{t}n", "0").exec(), WatchError);
  assert.equal(await client.get("{t}n"), "3");
  const apart = client.multi();
  numbers(50).forEach((number) => apart.incr(`apart:${number}`));
  await assert.rejects(apart.exec(), /CROSSNODE|EXECABORT/);
  assert.equal(await client.exists(numbers(50).map((number) => `apart:${number}`)), 0);

  // Publish and subscribe.
  const channels = numbers(10).map((number) => `channel:${number}`);
  const listener = client.duplicate();
  listener.on("error", (error) => console.error(error));
  await listener.connect();
  const heard = [];
  await new Promise((resolve, reject) => {
    const hear = (message) => heard.push(message) === 11 && resolve();
    const talk = async () => {
      await listener.subscribe(channels, hear);
      await listener.pSubscribe("other:*", hear);
      for (const channel of [...channels, "other:1"]) assert.equal(await client.publish(channel, channel), 1);
    };
    talk().catch(reject);
  });
  assert.deepEqual(heard.sort(), [...channels, "other:1"].sort());
  await listener.unsubscribe(channels);
  await listener.pUnsubscribe("other:*");

  // Scripts.
  for (const number of numbers(20)) {
    assert.deepEqual(await client.stamp(`script:${number}`, "x"), [`script:${number}`, "x", 1]);
  }
  await client.scriptFlush();
  assert.deepEqual(await client.stamp("script:0", "x"), ["script:0", "x", 2]);

  // Commands that wait.
  assert.equal(await client.blPop("nothing", 0.05), null);
  const job = other.blPop("queue", 10);
  await client.rPush("queue", "job");
  assert.deepEqual({ ...(await job) }, { key: "queue", element: "job" });

  await client.flushAll();
  await Promise.all([client.close(), other.close(), listener.close()]);
  console.log(`node-redis, protocol ${RESP}: done`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
