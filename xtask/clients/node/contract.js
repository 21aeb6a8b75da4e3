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

/** Ends the program when `compare` lets a kind of loss pass. */
function proveComparison() {
  const count = 2 * KEYS;
  const sent = () => {
    const ends = [0, 0, 0];
    return Array.from({ length: count }, (_, number) => {
      const partition = ((number * 7919) % KEYS) % 3;
      ends[partition] += 1;
      return { ...record(number), partition, offset: ends[partition] - 1 };
    });
  };
  const change = (at, how) => (seen) => seen.map((one, number) => (number === at ? { ...one, ...how(one) } : one));
  const damages = {
    "the last one missing": (seen) => seen.slice(0, -1),
    "a hole": (seen) => seen.toSpliced(100, 1),
    "one twice": (seen) => [...seen, seen[7]],
    "one in place of another": change(10, () => ({ value: record(11).value })),
    "another value": change(50, ({ value }) => ({ value: `${value}x` })),
    "another key": change(50, () => ({ key: "key-1000" })),
    "another order": (seen) => seen.toReversed(),
    "a foreign one": change(3, () => record(9_999_999)),
    "a key in two partitions": change(KEYS + 5, ({ partition }) => ({ partition: (partition + 1) % 3 })),
  };
  compare(sent(), count);
  compare([...sent(), ...sent()], count, true);
  for (const [name, damage] of Object.entries(damages)) {
    for (const repeated of [false, true]) {
      let noticed = false;
      try {
        compare(damage(sent()), count, repeated);
      } catch {
        noticed = true;
      }
      if (!noticed && !(repeated && name === "one twice")) throw new Error(`the comparison does not notice ${name}`);
    }
  }
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

module.exports = { Absent, compare, ensure, options, performLane, proveComparison, record, restartPlease, sleep, waitFor };
