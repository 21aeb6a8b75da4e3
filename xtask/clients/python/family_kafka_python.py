"""kafka-python."""

import logging

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, OffsetSpec
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError
from kafka.structs import OffsetAndMetadata

import contract
from contract import SESSION_TIMEOUT_MS, WAIT_S, Client, Record, TopicExists, ensure, wait_for

JOIN_POLL_S = 3


class KafkaPython(Client):
    def __init__(self, arguments):
        self.bootstrap = arguments.bootstrap

    def admin(self):
        return KafkaAdminClient(bootstrap_servers=self.bootstrap)

    def create_topic(self, topic, partitions, configs):
        admin = self.admin()
        try:
            admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1, "configs": configs}})
        except TopicAlreadyExistsError as error:
            raise TopicExists() from error
        finally:
            admin.close()

    def partition_count(self, topic):
        admin = self.admin()
        try:
            return described(admin, topic)
        finally:
            admin.close()

    def producer(self, codec):
        return Producer(self.bootstrap, codec)

    def reader(self, topic, offsets):
        return Reader(self.bootstrap, topic, offsets)

    def member(self, group, topic, instance=None):
        return GroupMember(self.bootstrap, group, topic, instance)

    def admin_round_trip(self, topic):
        admin = self.admin()
        try:
            AdminRoundTrip(self, admin, topic).run()
        finally:
            admin.close()


def described(admin, topic):
    """Partitions that have a leader."""
    found = [entry for entry in admin.describe_topics([topic]) if not entry["error_code"]]
    return sum(partition["leader_id"] >= 0 for entry in found for partition in entry["partitions"])


class Producer:
    def __init__(self, bootstrap, codec):
        self.inner = KafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            compression_type=None if codec == "none" else codec,
            linger_ms=5,
            batch_size=128 * 1024,
            reconnect_backoff_max_ms=500,
        )
        self.sent = []

    def send(self, topic, key, value, partition=None):
        self.sent.append(self.inner.send(topic, value=value, key=key, partition=partition))

    def flush(self):
        self.inner.flush(2 * WAIT_S)
        refused = [sent for sent in self.sent if not sent.succeeded()]
        ensure(not refused, f"{len(refused)} records not acked: {[sent.exception for sent in refused[:1]]}")
        self.inner.close()


class Reader:
    def __init__(self, bootstrap, topic, offsets):
        self.inner = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, max_poll_records=5000)
        self.topic = topic
        self.inner.assign([self._at(partition) for partition in offsets])
        for partition, offset in offsets.items():
            self.seek(partition, offset)

    def _at(self, partition):
        return TopicPartition(self.topic, partition)

    def poll(self, seconds):
        return polled(self.inner, seconds)

    def seek(self, partition, offset):
        self.inner.seek(self._at(partition), offset)

    def pause(self, partition):
        self.inner.pause(self._at(partition))

    def resume(self, partition):
        self.inner.resume(self._at(partition))

    def offset_at(self, partition, ms):
        answer = self.inner.offsets_for_times({self._at(partition): ms})[self._at(partition)]
        return answer and answer.offset

    def close(self):
        self.inner.close()


class GroupMember(ConsumerRebalanceListener):
    def __init__(self, bootstrap, group, topic, instance):
        self.revocations = 0
        self.topic = topic
        self.inner = KafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=group,
            group_instance_id=instance,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=500,
            max_poll_records=5000,
            reconnect_backoff_max_ms=500,
        )
        self.inner.subscribe([topic], listener=self)

    def on_partitions_revoked(self, revoked):
        self.revocations += bool(revoked)

    def on_partitions_assigned(self, assigned):
        pass

    def poll(self, seconds):
        """Joining gets a poll that it fits in.

        A JoinGroup that is answered between two polls is forgotten and sent again; from a group's leader that is a
        rebalance, here as in Kafka.
        """
        return polled(self.inner, seconds if self.inner.assignment() else JOIN_POLL_S)

    def assignment(self):
        return {partition.partition for partition in self.inner.assignment()}

    def _offsets(self, offsets):
        at = lambda partition: TopicPartition(self.topic, partition)
        return {at(partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}

    def commit_sync(self, offsets):
        self.inner.commit(self._offsets(offsets))

    def commit_async(self, offsets):
        answers = []
        self.inner.commit_async(self._offsets(offsets), callback=lambda _, response: answers.append(response))
        wait_for("the commit's answer", lambda: self.inner.poll(timeout_ms=50) and False or answers)
        ensure(not isinstance(answers[0], Exception), repr(answers[0]))

    def close(self):
        self.inner.close()


def polled(consumer, seconds):
    batches = consumer.poll(timeout_ms=int(seconds * 1000), max_records=5000)
    return [
        Record(record.partition, record.offset, record.key, record.value, record.timestamp)
        for batch in batches.values()
        for record in batch
    ]


class AdminRoundTrip:
    def __init__(self, client, admin, topic):
        self.client = client
        self.admin = admin
        self.topic = topic

    def run(self):
        self.client.create_topic(self.topic, 2, {"retention.ms": "86400000"})
        wait_for("two partitions", lambda: described(self.admin, self.topic) == 2)
        self.config("retention.ms", "86400000")
        change = {"max.message.bytes": "2000000"}
        self.admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, self.topic, configs=change)])
        self.config("max.message.bytes", "2000000")
        self.config("retention.ms", "86400000")
        self.records()
        self.admin.create_partitions({self.topic: 4})
        wait_for("four partitions", lambda: described(self.admin, self.topic) == 4)
        self.admin.delete_topics([self.topic])
        wait_for("the topic is gone", lambda: self.topic not in self.admin.list_topics())

    def config(self, name, expected):
        resource = lambda: ConfigResource(ConfigResourceType.TOPIC, self.topic)
        seen = lambda: self.admin.describe_configs([resource()])["topic"][self.topic].get(name, {}).get("value")
        wait_for(f"{name}={expected}", lambda: seen() == expected)

    def records(self):
        producer = self.client.producer("none")
        for _ in range(10):
            producer.send(self.topic, b"key", b"value", partition=0)
        producer.flush()
        ensure(self.offsets() == (0, 10), f"0..10 expected, {self.offsets()} came")
        self.admin.delete_records({TopicPartition(self.topic, 0): 4})
        ensure(self.offsets() == (4, 10), f"4..10 expected, {self.offsets()} came")

    def offsets(self):
        at = TopicPartition(self.topic, 0)
        look = lambda spec: self.admin.list_partition_offsets({at: spec})[at].offset
        return look(OffsetSpec.EARLIEST), look(OffsetSpec.LATEST)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    contract.run(KafkaPython)
