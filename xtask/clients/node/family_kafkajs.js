// The checks of the family KafkaJS.
"use strict";

const { spawn } = require("node:child_process");

const contract = require("./contract.js");
const { CODECS, Client } = require("./kafkajs.js");

const { Absent, compare, ensure, options, performLane, restartPlease, sleep, waitFor } = contract;

const PARTITIONS = 3;
const GROUP_PARTITIONS = 6;
const { bootstrap, prefix, records, only, member } = options();
const client = new Client(bootstrap);

async function main() {
  await client.connect();
  if (member) {
    await client.member(...member.split(","));
    process.stdin.resume().on("end", () => process.exit(0));
    return;
  }
  contract.proveComparison();
  // Lanes run side by side, so that waiting and working overlap.
  await Promise.all(
    [
      [["create-topic", createTopic], ...Object.keys(CODECS).map((codec) => [`codec-${codec}`, () => checkCodec(codec)])],
      [["group-of-three", groupOfThree], ["commit-sync", commitSync], ["admin", admin]],
      [["member-crash", memberCrash], ["static-rejoin", staticRejoin], ["seek-offset", seekOffset]],
      [["seek-time", seekTime], ["pause-resume", pauseResume], ["commit-async", commitAsync]],
    ].map((lane) => performLane(lane, only)),
  );
  await performLane([["restart", restart]], only);
  await client.close();
  process.exit(0);
}

async function topicNamed(name, partitions = PARTITIONS) {
  const topic = `${prefix}-${name}`;
  ensure(await client.createTopic(topic, partitions), `${topic} exists`);
  return topic;
}

async function filled(name, count, partitions = PARTITIONS) {
  const topic = await topicNamed(name, partitions);
  await client.produce(topic, "none", 0, count);
  return topic;
}

/** A consumer with all partitions of a topic. */
async function reader(topic, partitions = PARTITIONS) {
  const reader = await client.member(`${topic}-reader`, topic);
  await waitFor("the reader's assignment", () => reader.assigned.length === partitions);
  return reader;
}

async function createTopic() {
  const topic = `${prefix}-created`;
  const configs = { "retention.ms": "86400000" };
  ensure(await client.createTopic(topic, 5, configs), "the topic was not created");
  ensure(!(await client.createTopic(topic, 5)), "a second topic of the same name was not refused");
}

async function checkCodec(codec) {
  const count = Number(records ?? 100_000);
  const topic = await topicNamed(`codec-${codec}`);
  const [reading] = await Promise.all([reader(topic), client.produce(topic, codec, 0, count)]);
  compare(await reading.read(count), count);
  await reading.leave();
}

const all = [0, 1, 2, 3, 4, 5].join();

/** Each partition has one member and each member at least one partition. */
function sharedOut(members) {
  const shares = members.map((member) => member.assigned);
  return shares.every((share) => share.length > 0) && shares.flat().sort().join() === all;
}

async function groupOfThree() {
  const group = `${prefix}-three`;
  const topic = await filled("three", 600, GROUP_PARTITIONS);
  const members = await Promise.all([1, 2, 3].map(() => client.member(group, topic)));
  await waitFor("three members share six partitions", () => sharedOut(members));
  await readBy(members, 600);
  const gone = members.pop();
  await gone.leave();
  await waitFor("two members share six partitions", () => sharedOut(members));
  await client.produce(topic, "none", 600, 900);
  await readBy([gone, ...members], 900);
  members.push(await client.member(group, topic));
  await waitFor("a third joins again", () => sharedOut(members));
  await client.produce(topic, "none", 900, 1200);
  await readBy([gone, ...members], 1200);
  await Promise.all(members.map((member) => member.leave()));
}

/** The members read all records between them; whoever takes a partition over may begin anew. */
async function readBy(members, count) {
  const seen = () => members.flatMap((member) => member.seen);
  await waitFor(`${count} records`, () => new Set(seen().map(({ value }) => value)).size >= count);
  compare(seen().sort((one, other) => one.partition - other.partition || one.offset - other.offset), count, true);
}

async function memberCrash() {
  const group = `${prefix}-crash`;
  const topic = await topicNamed("crash", GROUP_PARTITIONS);
  const again = [...process.argv.slice(1), "--member", `${group},${topic}`];
  const doomed = spawn(process.execPath, again, { stdio: ["pipe", "ignore", "inherit"] });
  try {
    const survivor = await client.member(group, topic);
    const half = () => survivor.assigned.length > 0 && survivor.assigned.length < GROUP_PARTITIONS;
    await waitFor("two members share the partitions", half);
    doomed.kill("SIGKILL");
    const died = Date.now();
    await sleep(1000);
    ensure(!sharedOut([survivor]), "taken over at once, as if the member had left");
    await waitFor("the survivor has all", () => sharedOut([survivor]), 30_000);
    const after = (Date.now() - died) / 1000;
    ensure(after > 2, `taken over after ${after} s, before its session can have timed out`);
    await survivor.leave();
    return `after ${after.toFixed(1)} s`;
  } finally {
    doomed.kill("SIGKILL");
  }
}

async function staticRejoin() {
  throw new Absent("KafkaJS has no group.instance.id");
}

async function seekOffset() {
  const topic = await filled("seek", 300);
  const reading = await reader(topic);
  compare(await reading.read(300), 300);
  reading.seek(1, 17);
  const after = () => reading.seen.slice(300).find(({ partition }) => partition === 1);
  const first = await waitFor("records after the seek", after);
  ensure(first.offset === 17, `offset 17 expected, ${first.offset} came`);
  await reading.leave();
}

async function seekTime() {
  const topic = await filled("time", 50, 1);
  await sleep(100);
  const between = Date.now();
  await sleep(100);
  await client.produce(topic, "none", 50, 100);
  const offsets = [];
  for (const ms of [1, between, between + 3_600_000]) offsets.push(await client.offsetAt(topic, 0, ms));
  const expected = offsets[0] === 0 && offsets[1] === 50 && [-1, 100].includes(offsets[2]);
  ensure(expected, `0, 50 and none expected, ${offsets} came`);
  const reading = await reader(topic, 1);
  compare(await reading.read(100), 100);
  reading.seek(0, offsets[1]);
  const again = (await reading.read(150)).slice(100);
  const right = again.length === 50 && again.every(({ offset, time }, at) => offset === 50 + at && time >= between);
  ensure(right, `50..99 expected after the seek, ${again.map(({ offset }) => offset)} came`);
  await reading.leave();
}

async function pauseResume() {
  const topic = await filled("pause", 300);
  const reading = await reader(topic);
  compare(await reading.read(300), 300);
  reading.pause(1);
  // A fetch under way is still delivered.
  await sleep(500);
  await client.produce(topic, "none", 300, 600);
  const came = () => [...new Set(reading.seen.slice(300).map(({ partition }) => partition))].sort().join();
  await waitFor("records of the partitions that go on", () => came().length > 1);
  await sleep(1500);
  ensure(came() === "0,2", `records of partitions 0 and 2 expected while 1 is paused, ${came()} came`);
  reading.resume(1);
  compare(await reading.read(600), 600);
  await reading.leave();
}

const commitSync = () => committed("sync", (reading, offsets) => reading.commit(offsets));

/** Of several under way, the last one stands. */
const commitAsync = () =>
  committed("async", async (reading, offsets) => {
    const earlier = new Map([...offsets].map(([partition, offset]) => [partition, offset - 1]));
    await Promise.all([reading.commit(earlier), reading.commit(offsets)]);
  });

async function committed(name, commit) {
  const group = `${prefix}-commit-${name}`;
  const topic = await filled(`commit-${name}`, 600);
  const first = await client.member(group, topic);
  const ends = new Map((await first.read(600)).map(({ partition, offset }) => [partition, offset + 1]));
  const offsets = new Map([...ends].map(([partition, end]) => [partition, Math.floor(end / 2)]));
  await commit(first, offsets);
  await first.leave();
  const second = await client.member(group, topic);
  const firsts = () => new Map([...second.seen].reverse().map(({ partition, offset }) => [partition, offset]));
  const came = await waitFor("records after the commit", () => firsts().size === PARTITIONS && firsts());
  const same = [...offsets].every(([partition, offset]) => came.get(partition) === offset);
  ensure(same, `committed ${JSON.stringify([...offsets])}, a new member began at ${JSON.stringify([...came])}`);
  await second.leave();
}

const admin = () => client.adminRoundTrip(`${prefix}-admin`);

async function restart() {
  const topic = await topicNamed("restart");
  const living = await client.member(`${prefix}-restart`, topic);
  await waitFor("a member", () => living.assigned.length > 0);
  const producer = await client.producer();
  const giveUp = Date.now() + 60_000;
  let sent = 0;
  let told;
  let end = Infinity;
  while (Date.now() < end) {
    await client.send(producer, topic, "gzip", sent, sent + 20);
    sent += 20;
    if (sent === 1000) told = restartPlease();
    if (told?.done) end = Math.min(end, Date.now() + 2000);
    ensure(Date.now() < giveUp, "the broker was not back within 60 s");
    await sleep(10);
  }
  await producer.disconnect();
  const reading = await reader(topic);
  compare(await reading.read(sent), sent);
  await reading.leave();
  await waitFor("the group reads on", () => new Set(living.seen.map(({ value }) => value)).size >= sent);
  compare(living.seen, sent, true);
  await living.leave();
  return `${sent} records`;
}

main().catch((error) => {
  console.log(error);
  process.exit(1);
});
