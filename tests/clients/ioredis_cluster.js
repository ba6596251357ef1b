// What programs do with ioredis' client for Redis Cluster, through a proxy that emulates one: `ioredis_cluster.js PORT`.

const assert = require("node:assert");
const Redis = require("ioredis");

const port = Number(process.argv[2]);
const numbers = (count) => [...Array(count).keys()];

async function main() {
  const cluster = new Redis.Cluster([{ host: "127.0.0.1", port }], { redisOptions: { connectTimeout: 20000 } });
  await new Promise((resolve, reject) => {
    cluster.once("ready", resolve);
    cluster.once("error", reject);
  });
  const nodes = cluster.nodes("master").map((node) => node.options.port);
  assert.deepEqual(nodes, [port]);
  await cluster.flushall();
  const keys = numbers(100).map((number) => `key:${number}`);
  for (const key of keys) {
    assert.equal(await cluster.set(key, key), "OK");
  }
  assert.deepEqual(await Promise.all(keys.map((key) => cluster.get(key))), keys);
  const pipeline = cluster.pipeline();
  keys.forEach((key) => pipeline.append(key, "!"));
  assert.ok((await pipeline.exec()).every(([error, length]) => error === null && length >= 6));
  assert.equal(await cluster.dbsize(), 100);
  const done = await cluster.multi().incr("{t}n").incr("{t}n").exec();
  assert.deepEqual(done, [[null, 1], [null, 2]]);
  assert.deepEqual(await cluster.eval("return {KEYS[1], ARGV[1]}", 1, "k", "x"), ["k", "x"]);
  assert.equal(await cluster.blpop("{q}none", 0.05), null);
  await cluster.rpush("{q}queue", "job");
  assert.deepEqual(await cluster.blpop("{q}queue", 10), ["{q}queue", "job"]);
  assert.equal(await cluster.mset("{m}a", "1", "{m}b", "2"), "OK");
  assert.deepEqual(await cluster.mget("{m}a", "{m}b"), ["1", "2"]);
  await cluster.flushall();
  await cluster.quit();

  // Reads from replicas, of which there are none.
  const scaled = new Redis.Cluster([{ host: "127.0.0.1", port }], { scaleReads: "slave" });
  assert.equal(await scaled.set("k", "v"), "OK");
  assert.equal(await scaled.get("k"), "v");
  await scaled.flushall();
  await scaled.quit();
  console.log("ioredis: done");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
