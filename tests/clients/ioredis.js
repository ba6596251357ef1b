// What programs do with ioredis, through a proxy: `ioredis.js PORT`.
"use strict";
const assert = require("node:assert");
const Redis = require("ioredis");

const port = Number(process.argv[2]);
const open = () => new Redis({ port, host: "127.0.0.1", maxRetriesPerRequest: 0 });
const numbers = (count) => [...Array(count).keys()];

async function main() {
  const redis = open();
  assert.equal(await redis.ping(), "PONG");
  await redis.flushall();

  const keys = numbers(100).map((number) => `key:${number}`);
  assert.equal(await redis.mset(Object.fromEntries(keys.map((key) => [key, key]))), "OK");
  assert.deepEqual(await redis.mget([...keys, "missing"]), [...keys, null]);
  const found = [];
  for await (const some of redis.scanStream({ match: "key:*", count: 7 })) found.push(...some);
  assert.deepEqual(found.sort(), [...keys].sort());
  assert.equal(await redis.del(...keys), 100);
  assert.deepEqual(await redis.getBuffer("missing"), null);
  await redis.set("bytes", Buffer.from([0, 255, 13, 10]));
  assert.deepEqual(await redis.getBuffer("bytes"), Buffer.from([0, 255, 13, 10]));
  await redis.hset("h", { a: 1, b: "two" });
  assert.deepEqual(await redis.hgetall("h"), { a: "1", b: "two" });
  await assert.rejects(redis.lpush("bytes", 1), /WRONGTYPE/);
  await assert.rejects(redis.sunion(numbers(50).map((number) => `set:${number}`)), /CROSSNODE/);
  await assert.rejects(redis.call("NOSUCH", "a"), /unknown command/);

  // Explicit and automatic pipelines.
  const pipeline = redis.pipeline();
  numbers(500).forEach((number) => pipeline.set(`p:${number}`, number).get(`p:${number}`));
  const replies = await pipeline.exec();
  assert.deepEqual(replies.filter((_, at) => at % 2).map(([, value]) => Number(value)), numbers(500));
  const many = await Promise.all(numbers(500).map((number) => redis.incr(`p:${number}`)));
  assert.deepEqual(many, numbers(500).map((number) => number + 1));
  const mixed = await redis.pipeline().set("p:0", "x").incr("p:0").get("p:0").exec();
  assert.match(mixed[1][0].message, /not an integer/);
  assert.equal(mixed[2][1], "x");

  // Transactions, with WATCH and without.
  assert.deepEqual(await redis.multi().set("{t}n", 1).incr("{t}n").get("{t}n").exec(),
    [[null, "OK"], [null, 2], [null, "2"]]);
  await redis.watch("{t}n");
  const other = open();
  await other.incr("{t}n");
  assert.equal(await redis.multi().set("{t}n", 0).exec(), null);
  assert.equal(await redis.get("{t}n"), "3");
  const apart = redis.multi();
  numbers(50).forEach((number) => apart.incr(`apart:${number}`));
  await assert.rejects(apart.exec(), /CROSSNODE|EXECABORT/);
  assert.equal(await redis.exists(numbers(50).map((number) => `apart:${number}`)), 0);

  // Publish and subscribe.
  const channels = numbers(10).map((number) => `channel:${number}`);
  assert.equal(await other.subscribe(...channels), 10);
  assert.equal(await other.psubscribe("other:*"), 11);
  const heard = [];
  const all = new Promise((resolve) => {
    const hear = (message) => heard.push(message) === 11 && resolve();
    other.on("message", (channel, message) => hear(message));
    other.on("pmessage", (pattern, channel, message) => hear(message));
  });
  for (const channel of [...channels, "other:1"]) assert.equal(await redis.publish(channel, channel), 1);
  await all;
  assert.deepEqual(heard.sort(), [...channels, "other:1"].sort());
  await other.unsubscribe(...channels);
  await other.punsubscribe("other:*");
  assert.equal(await other.get("missing"), null);

  // Scripts.
  redis.defineCommand("stamp", { numberOfKeys: 1, lua: "return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}" });
  for (const number of numbers(20)) {
    assert.deepEqual(await redis.stamp(`script:${number}`, "x"), [`script:${number}`, "x", 1]);
  }
  await redis.script("FLUSH");
  assert.deepEqual(await redis.stamp("script:0", "x"), ["script:0", "x", 2]);
  const stamps = redis.pipeline();
  numbers(20).forEach((number) => stamps.stamp(`script:${number}`, "y"));
  assert.ok((await stamps.exec()).every(([error, value]) => error === null && value[1] === "y"));

  // Commands that wait.
  assert.equal(await redis.blpop("nothing", 0.05), null);
  const job = other.blpop("queue", 10);
  await redis.rpush("queue", "job");
  assert.deepEqual(await job, ["queue", "job"]);

  await redis.flushall();
  await Promise.all([redis.quit(), other.quit()]);
  console.log("ioredis: done");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
