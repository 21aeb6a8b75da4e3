// What the checks of a client family share: the records, the comparison, waiting, and the printed lines. The contract
// itself is in xtask/src/clients/family.rs.
"use strict";

const readline = require("node:readline");
const { parseArgs } = require("node:util");

const WAIT_MS = 45_000;
const KEYS = 1000;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function ensure(condition, otherwise) {
  if (!condition) throw new Error(otherwise);
}

/** Looks until something is found. */
async function waitFor(what, look, ms = WAIT_MS) {
  const end = Date.now() + ms;
  for (;;) {
    const found = await look();
    if (found) return found;
    ensure(Date.now() < end, `${what}: not within ${ms / 1000} s`);
    await sleep(50);
  }
}

const hex = (number) => (number >>> 0).toString(16).padStart(8, "0");

/** Different for each number, with something for a codec to shorten; a thousand keys. */
function record(number) {
  const mixed = Math.imul(number, 2654435761);
  const key = `key-${String((number * 7919) % KEYS).padStart(3, "0")}`;
  const text = "what a codec can shorten: abcabcabcabcabcabcabc";
  return { key, value: `${String(number).padStart(7, "0")} ${hex(mixed)} ${text} ${hex(mixed ^ 0x5a5a5a5a)}` };
}

/**
 * All of 0..count: content, a key always in one partition, in the order sent within each partition, once each at offsets
 * without holes; with `repeated`, later repetitions are let pass.
 */
function compare(seen, count, repeated = false) {
  ensure(repeated || seen.length === count, `${count} records expected, ${seen.length} came`);
  const found = new Uint8Array(count);
  const last = new Map();
  const partitionOf = new Map();
  let distinct = 0;
  for (const { partition, offset, key, value } of seen) {
    const number = Number.parseInt(value.slice(0, 7), 10);
    const sent = number < count ? record(number) : {};
    ensure(sent.key === key && sent.value === value, `at ${partition}/${offset} is ${key} ${value}`);
    if (!partitionOf.has(key)) partitionOf.set(key, partition);
    ensure(partitionOf.get(key) === partition, `${key} is in ${partitionOf.get(key)} and ${partition}`);
    if (found[number]) {
      ensure(repeated, `record ${number} came twice, again at ${partition}/${offset}`);
      continue;
    }
    found[number] = 1;
    distinct += 1;
    const before = last.get(partition) ?? { number: -1, offset: -1 };
    ensure(number > before.number, `record ${number} came after ${before.number} in partition ${partition}`);
    ensure(repeated || offset === before.offset + 1, `offset ${offset} came after ${before.offset} in ${partition}`);
    last.set(partition, { number, offset });
  }
  ensure(distinct === count, `${count - distinct} of ${count} records are missing`);
}

/** `check` gives words to add to "ok"; an `Absent` says why the client cannot do it. */
class Absent extends Error {}

async function perform(name, check) {
  let line;
  try {
    line = `ok ${(await check()) ?? ""}`;
  } catch (error) {
    line = `${error instanceof Absent ? "absent" : "FAILED"} ${error.message}`;
  }
  console.log(`check ${name} ${line.replace(/\s+/g, " ").trim()}`);
}

async function performLane(lane, only) {
  for (const [name, check] of lane) {
    if (!only || only === name) await perform(name, check);
  }
}

function options() {
  const string = { type: "string" };
  const options = { bootstrap: string, prefix: string, records: string, only: string, member: string };
  return parseArgs({ options }).values;
}

/** Asks the runner to restart the broker; `done` becomes true when it says that it did. */
function restartPlease() {
  const told = { done: false };
  const lines = readline.createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    told.done ||= line === "restarted";
    lines.close();
  });
  console.log("restart please");
  return told;
}

module.exports = { Absent, compare, ensure, options, performLane, record, restartPlease, sleep, waitFor };
