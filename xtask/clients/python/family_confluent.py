"""librdkafka through confluent-kafka, with either group protocol, in versions from 2.0 on."""

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

import contract
from contract import SESSION_TIMEOUT_MS, WAIT_S, Client, Record, TopicExists, ensure, wait_for


class Confluent(Client):
    def __init__(self, arguments):
        self.base = {"bootstrap.servers": arguments.bootstrap, "log_level": 2}
        self.protocol = arguments.group_protocol
        self.admin = AdminClient(self.base)
        if self.protocol == "consumer":
            # The broker's setting governs it, 45 s as shipped.
            self.crash_takeover_s = 75

    def create_topic(self, topic, partitions, configs):
        created = self.admin.create_topics([NewTopic(topic, partitions, 1, config=configs)])
        try:
            created[topic].result(WAIT_S)
        except ck.KafkaException as error:
            if error.args[0].code() == ck.KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicExists() from error
            raise

    def partition_count(self, topic):
        metadata = self.admin.list_topics(topic, WAIT_S).topics[topic]
        return 0 if metadata.error else sum(partition.leader >= 0 for partition in metadata.partitions.values())

    def producer(self, codec):
        return Producer({**self.base, "enable.idempotence": True, "compression.type": codec, "linger.ms": 5})

    def reader(self, topic, offsets):
        return Reader({**self.base, "group.id": "unused", "enable.auto.commit": False}, topic, offsets)

    def member(self, group, topic, instance=None):
        configs = {
            **self.base,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "topic.metadata.refresh.interval.ms": 1000,
        }
        if self.protocol == "consumer":
            configs["group.protocol"] = "consumer"
        else:
            configs |= {"session.timeout.ms": SESSION_TIMEOUT_MS, "heartbeat.interval.ms": 500}
        if instance:
            configs["group.instance.id"] = instance
        return GroupMember(configs, topic)

    def admin_round_trip(self, topic):
        return AdminRoundTrip(self.admin, topic).run()


class Producer:
    def __init__(self, configs):
        self.inner = ck.Producer({**configs, "queue.buffering.max.messages": 500_000})
        self.errors = []

    def send(self, topic, key, value):
        while True:
            try:
                self.inner.produce(topic, value, key, on_delivery=self._delivered)
                self.inner.poll(0)
                return
            except BufferError:
                self.inner.poll(0.1)

    def _delivered(self, error, _):
        if error is not None:
            self.errors.append(error)

    def flush(self):
        left = self.inner.flush(2 * WAIT_S)
        ensure(left == 0 and not self.errors, f"{left} records not acked, {len(self.errors)} refused: {self.errors[:1]}")


class Reader:
    def __init__(self, configs, topic, offsets):
        self.inner = ck.Consumer(configs)
        self.topic = topic
        self.inner.assign([ck.TopicPartition(topic, partition, offset) for partition, offset in offsets.items()])

    def poll(self, seconds):
        return polled(self.inner, seconds)

    def _at(self, partition, offset=ck.OFFSET_INVALID):
        return ck.TopicPartition(self.topic, partition, offset)

    def seek(self, partition, offset):
        self.inner.seek(self._at(partition, offset))

    def pause(self, partition):
        self.inner.pause([self._at(partition)])

    def resume(self, partition):
        self.inner.resume([self._at(partition)])

    def offset_at(self, partition, ms):
        answer = self.inner.offsets_for_times([self._at(partition, ms)], WAIT_S)[0]
        ensure(answer.error is None, f"{answer.error}")
        return answer.offset

    def close(self):
        self.inner.close()


class GroupMember:
    def __init__(self, configs, topic):
        self.revocations = 0
        self.committed = []
        self.inner = ck.Consumer({**configs, "on_commit": lambda error, offsets: self.committed.append((error, offsets))})
        self.topic = topic
        self.inner.subscribe([topic], on_revoke=self._revoked, on_lost=self._revoked)

    def _revoked(self, _, __):
        self.revocations += 1

    def poll(self, seconds):
        return polled(self.inner, seconds)

    def assignment(self):
        return {partition.partition for partition in self.inner.assignment()}

    def _offsets(self, offsets):
        return [ck.TopicPartition(self.topic, partition, offset) for partition, offset in offsets.items()]

    def commit_sync(self, offsets):
        for answer in self.inner.commit(offsets=self._offsets(offsets), asynchronous=False):
            ensure(answer.error is None, f"{answer}")

    def commit_async(self, offsets):
        self.inner.commit(offsets=self._offsets(offsets), asynchronous=True)
        wait_for("the commit's answer", lambda: self.inner.poll(0.05) and False or self.committed)
        error, answers = self.committed[0]
        ensure(error is None and all(answer.error is None for answer in answers), f"{error} {answers}")

    def close(self):
        self.inner.close()


def polled(consumer, seconds):
    records = []
    for message in consumer.consume(5000, seconds):
        error = message.error()
        if error is None:
            records.append(
                Record(message.partition(), message.offset(), message.key(), message.value(), message.timestamp()[1])
            )
        elif not error.retriable() and error.code() not in PASSING:
            raise ck.KafkaException(error)
    return records


# What a consumer reports while the broker is away, and goes on by itself.
PASSING = {ck.KafkaError._TRANSPORT, ck.KafkaError._ALL_BROKERS_DOWN, ck.KafkaError._RESOLVE, ck.KafkaError._TIMED_OUT}


class AdminRoundTrip:
    def __init__(self, admin, topic):
        self.admin = admin
        self.topic = topic
        self.resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        self.left_out = set()

    def run(self):
        self.done(self.admin.create_topics([NewTopic(self.topic, 2, 1, config={"retention.ms": "86400000"})]))
        self.described(2)
        self.config("retention.ms", "86400000")
        self.alter_config()
        self.records()
        self.done(self.admin.create_partitions([NewPartitions(self.topic, 4)]))
        wait_for("four partitions", lambda: self.partitions() == 4)
        self.described(4)
        self.done(self.admin.delete_topics([self.topic], operation_timeout=10))
        wait_for("the topic is gone", lambda: self.topic not in self.admin.list_topics(timeout=WAIT_S).topics)
        return self.left_out and "without " + ", ".join(sorted(self.left_out))

    def done(self, futures):
        return {key: future.result(WAIT_S) for key, future in futures.items()}

    def has(self, method):
        if hasattr(self.admin, method):
            return True
        self.left_out.add(method)
        return False

    def partitions(self):
        topic = self.admin.list_topics(timeout=WAIT_S).topics.get(self.topic)
        return topic and len(topic.partitions)

    def described(self, expected):
        wait_for(f"{expected} partitions", lambda: self.partitions() == expected)
        if self.has("describe_topics"):
            described = self.done(self.admin.describe_topics(ck.TopicCollection([self.topic])))[self.topic]
            led = [partition.leader is not None for partition in described.partitions]
            ensure(led == [True] * expected, f"{expected} partitions with leaders expected, {led} came")

    def config(self, name, expected):
        described = lambda: self.done(self.admin.describe_configs([self.resource]))[self.resource]
        wait_for(f"{name}={expected}", lambda: described()[name].value == expected)

    def alter_config(self):
        if self.has("incremental_alter_configs"):
            from confluent_kafka.admin import AlterConfigOpType, ConfigEntry

            change = ConfigEntry("max.message.bytes", "2000000", incremental_operation=AlterConfigOpType.SET)
            resource = ConfigResource(ConfigResource.Type.TOPIC, self.topic, incremental_configs=[change])
            self.done(self.admin.incremental_alter_configs([resource]))
            self.config("retention.ms", "86400000")
        else:
            change = {"max.message.bytes": "2000000"}
            resource = ConfigResource(ConfigResource.Type.TOPIC, self.topic, set_config=change)
            self.done(self.admin.alter_configs([resource]))
        self.config("max.message.bytes", "2000000")

    def records(self):
        producer = Producer({"bootstrap.servers": self.bootstrap(), "log_level": 2})
        for number in range(10):
            producer.inner.produce(self.topic, b"value", partition=0)
        producer.flush()
        ensure(self.offsets() == (0, 10), f"0..10 expected, {self.offsets()} came")
        if self.has("delete_records"):
            at = ck.TopicPartition(self.topic, 0, 4)
            low = list(self.done(self.admin.delete_records([at])).values())[0].low_watermark
            ensure(low == 4, f"the log starts at 4 now, the answer was {low}")
            ensure(self.offsets() == (4, 10), f"4..10 expected, {self.offsets()} came")

    def offsets(self):
        if not self.has("list_offsets"):
            consumer = ck.Consumer({"bootstrap.servers": self.bootstrap(), "group.id": "unused", "log_level": 2})
            low_high = consumer.get_watermark_offsets(ck.TopicPartition(self.topic, 0), WAIT_S)
            consumer.close()
            return low_high
        from confluent_kafka.admin import OffsetSpec

        at = ck.TopicPartition(self.topic, 0)
        answers = [self.done(self.admin.list_offsets({at: spec})) for spec in (OffsetSpec.earliest(), OffsetSpec.latest())]
        return tuple(list(answer.values())[0].offset for answer in answers)

    def bootstrap(self):
        broker = next(iter(self.admin.list_topics(timeout=WAIT_S).brokers.values()))
        return f"{broker.host}:{broker.port}"


def add_arguments(parser):
    parser.add_argument("--group-protocol", choices=["classic", "consumer"], default="classic")


if __name__ == "__main__":
    contract.run(Confluent, add_arguments)
