// KafkaJS: how its producer, consumer and codecs are used by the checks in checks.js. It has no consumer without a group,
// so that whatever reads here joins one.
"use strict";

const { CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = require("kafkajs");
const LZ4Codec = require("kafkajs-lz4");
const SnappyCodec = require("kafkajs-snappy");
const zstd = require("@toondepauw/node-zstd");

const { ensure, record, sleep, waitFor } = require("./contract.js");

CompressionCodecs[CompressionTypes.Snappy] = SnappyCodec;
CompressionCodecs[CompressionTypes.LZ4] = new LZ4Codec().codec;
// The plugin @kafkajs/zstd needs a library that no longer compiles; this is the same hook on another one.
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: (encoder) => new zstd.Encoder(3).encode(encoder.buffer),
  decompress: (buffer) => new zstd.Decoder().decode(buffer),
});

const CODECS = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
};

class Client {
  constructor(bootstrap) {
    this.kafka = new Kafka({
      brokers: [bootstrap],
      logLevel: logLevel.NOTHING,
      // Patient: the broker is away for a while in one of the checks.
      retry: { initialRetryTime: 100, maxRetryTime: 500, retries: 200 },
    });
    this.admin = this.kafka.admin();
  }

  connect() {
    return this.admin.connect();
  }

  close() {
    return this.admin.disconnect();
  }

  /** False when it exists. */
  async createTopic(topic, numPartitions, configs = {}) {
    const configEntries = Object.entries(configs).map(([name, value]) => ({ name, value }));
    const created = await this.admin.createTopics({
      topics: [{ topic, numPartitions, replicationFactor: 1, configEntries }],
      waitForLeaders: false,
    });
    if (created) await waitFor("the topic", async () => (await this.partitionCount(topic)) === numPartitions);
    return created;
  }

  /** Partitions that have a leader. */
  async partitionCount(topic) {
    try {
      const { topics } = await this.admin.fetchTopicMetadata({ topics: [topic] });
      return topics[0].partitions.filter(({ leader }) => leader >= 0).length;
    } catch (error) {
      if (error.type === "UNKNOWN_TOPIC_OR_PARTITION" || error.type === "LEADER_NOT_AVAILABLE") return 0;
      throw error;
    }
  }

  async producer() {
    const producer = this.kafka.producer({ idempotent: true, maxInFlightRequests: 1, allowAutoTopicCreation: false });
    await producer.connect();
    return producer;
  }

  /** Records from..to, acks=all, in order. */
  async produce(topic, codec, from, to) {
    const producer = await this.producer();
    for (let number = from; number < to; number += 2500) {
      await this.send(producer, topic, codec, number, Math.min(number + 2500, to));
    }
    await producer.disconnect();
  }

  async send(producer, topic, codec, from, to) {
    const messages = Array.from({ length: to - from }, (_, at) => record(from + at));
    for (const answer of await producer.send({ topic, acks: -1, compression: CODECS[codec], messages })) {
      ensure(answer.errorCode === 0, `partition ${answer.partition} answered error ${answer.errorCode}`);
    }
  }

  async member(group, topic) {
    const member = new Member(this.kafka, group, topic);
    await member.start();
    return member;
  }

  async offsetAt(topic, partition, ms) {
    const found = await this.admin.fetchTopicOffsetsByTimestamp(topic, ms);
    return Number(found.find((entry) => entry.partition === partition).offset);
  }

  /** Create, describe, alter, list offsets, delete records, add partitions, delete. */
  async adminRoundTrip(topic) {
    ensure(await this.createTopic(topic, 2, { "retention.ms": "86400000" }), `${topic} exists`);
    // KafkaJS has only the call that replaces all configs.
    const changes = { "max.message.bytes": "2000000", "retention.ms": "7200000" };
    const configEntries = Object.entries(changes).map(([name, value]) => ({ name, value }));
    const resource = { type: ConfigResourceTypes.TOPIC, name: topic };
    await this.admin.alterConfigs({ validateOnly: false, resources: [{ ...resource, configEntries }] });
    await waitFor("the changed configs", async () => {
      const { resources } = await this.admin.describeConfigs({ includeSynonyms: false, resources: [resource] });
      const values = new Map(resources[0].configEntries.map((entry) => [entry.configName, entry.configValue]));
      return Object.entries(changes).every(([name, value]) => values.get(name) === value);
    });
    const producer = await this.producer();
    await producer.send({ topic, messages: Array.from({ length: 10 }, () => ({ value: "value", partition: 0 })) });
    await producer.disconnect();
    await this.offsetsAre(topic, "0", "10");
    await this.admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: "4" }] });
    await this.offsetsAre(topic, "4", "10");
    await this.admin.createPartitions({ topicPartitions: [{ topic, count: 4 }] });
    await waitFor("four partitions", async () => (await this.partitionCount(topic)) === 4);
    await this.admin.deleteTopics({ topics: [topic] });
    await waitFor("the topic is gone", async () => !(await this.admin.listTopics()).includes(topic));
  }

  async offsetsAre(topic, low, high) {
    const offsets = (await this.admin.fetchTopicOffsets(topic)).find(({ partition }) => partition === 0);
    ensure(offsets.low === low && offsets.high === high, `${low}..${high} expected, ${offsets.low}..${offsets.high} came`);
  }
}

/** A member of a group that commits nothing by itself and consumes until it leaves. */
class Member {
  constructor(kafka, group, topic) {
    this.topic = topic;
    this.assigned = [];
    this.seen = [];
    this.consumer = kafka.consumer({
      groupId: group,
      sessionTimeout: 6000,
      heartbeatInterval: 500,
      maxWaitTimeInMs: 200,
      allowAutoTopicCreation: false,
    });
    this.consumer.on("consumer.group_join", ({ payload }) => {
      this.assigned = payload.memberAssignment[topic] ?? [];
    });
    this.consumer.on("consumer.rebalancing", () => {
      this.assigned = [];
    });
  }

  async start() {
    await this.consumer.connect();
    await this.consumer.subscribe({ topics: [this.topic], fromBeginning: true });
    await this.consumer.run({
      autoCommit: false,
      eachBatch: async ({ batch }) => {
        for (const { offset, key, value, timestamp } of batch.messages) {
          const content = { key: key?.toString(), value: value.toString(), time: Number(timestamp) };
          this.seen.push({ partition: batch.partition, offset: Number(offset), ...content });
        }
      },
    });
  }

  /** What was seen until there were `count`, and a little longer: there may be more than should be. */
  async read(count) {
    await waitFor(`${count} records`, () => this.seen.length >= count);
    await sleep(200);
    return this.seen;
  }

  seek(partition, offset) {
    this.consumer.seek({ topic: this.topic, partition, offset: String(offset) });
  }

  pause(partition) {
    this.consumer.pause([{ topic: this.topic, partitions: [partition] }]);
  }

  resume(partition) {
    this.consumer.resume([{ topic: this.topic, partitions: [partition] }]);
  }

  /** The promise is the answer; who does not wait for it commits asynchronously. */
  commit(offsets) {
    const topic = this.topic;
    return this.consumer.commitOffsets(
      [...offsets].map(([partition, offset]) => ({ topic, partition, offset: String(offset) })),
    );
  }

  async leave() {
    await this.consumer.disconnect();
  }
}

module.exports = { CODECS, Client };
