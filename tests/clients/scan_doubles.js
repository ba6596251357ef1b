// SCAN with node-redis 4, which keeps cursors as doubles, through a proxy: `scan_doubles.js PORT`.
"use strict";
const assert = require("node:assert");
const { createClient } = require("redis-4");

const port = Number(process.argv[2]);

async function main() {
  const client = createClient({ socket: { port, host: "127.0.0.1" } });
  client.on("error", (error) => console.error(error));
  await client.connect();
  await client.flushAll();
  const keys = [...Array(2000).keys()].map((number) => `key:${number}`);
  await client.mSet(keys.map((key) => [key, "v"]));
  const found = new Set();
  let steps = 0;
  let cursor = 0;
  do {
    const page = await client.scan(cursor, { COUNT: 50 });
    assert.equal(typeof page.cursor, "number");
    for (const key of page.keys) found.add(key);
    cursor = page.cursor;
    steps += 1;
    assert(steps < 1000, "it does not end");
  } while (cursor !== 0);
  assert.equal(found.size, keys.length);
  await client.flushAll();
  await client.disconnect();
  console.log(`scan_doubles.js: ${steps} steps`);
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
