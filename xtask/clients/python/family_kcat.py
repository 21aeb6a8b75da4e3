"""kcat: each producer, reader and member is a process of it. It creates topics only by writing to them; where a check
needs more partitions than that gives, the admin client of another library creates the topic."""

import collections
import json
import os
import queue
import re
import signal
import subprocess
import threading
import time

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

import contract
from contract import SESSION_TIMEOUT_MS, WAIT_S, Absent, Client, Record, TopicExists, compare, ensure, read_all, wait_for

FORMAT = r"%p\t%o\t%T\t%k\t%s\n"
GROUP = {
    "auto.offset.reset": "earliest",
    "session.timeout.ms": SESSION_TIMEOUT_MS,
    "heartbeat.interval.ms": 500,
    "topic.metadata.refresh.interval.ms": 1000,
}


class Kcat(Client):
    def __init__(self, arguments):
        # -E: a broker that is away for a while is no reason to end.
        self.command = [arguments.kcat, "-E", "-b", arguments.bootstrap]
        self.helper = AdminClient({"bootstrap.servers": arguments.bootstrap, "log_level": 2})

    def create_topic(self, topic, partitions, configs):
        try:
            self.helper.create_topics([NewTopic(topic, partitions, 1, config=configs)])[topic].result(WAIT_S)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicExists() from error
            raise

    def partition_count(self, topic):
        listed = json.loads(self.call("-L", "-J", "-t", topic))["topics"]
        return sum(part["leader"] >= 0 for entry in listed if entry["topic"] == topic for part in entry["partitions"])

    def producer(self, codec):
        return Producer(self, codec)

    def reader(self, topic, offsets):
        return Reader(self, topic, offsets)

    def member(self, group, topic, instance=None):
        return GroupMember(Process(self.member_command(group, topic, instance)), topic)

    def be_member(self, group, topic):
        command = self.member_command(group, topic)
        os.execv(command[0], command)

    def member_command(self, group, topic, instance=None, auto_commit=False, count=None):
        configs = {**GROUP, "enable.auto.commit": str(auto_commit).lower()}
        if instance:
            configs["group.instance.id"] = instance
        limit = ["-c", str(count)] if count else []
        return [*self.command, *settings(configs), "-G", group, "-u", "-f", FORMAT, *limit, topic]

    def call(self, *arguments):
        done = subprocess.run([*self.command, *arguments], capture_output=True, timeout=WAIT_S, check=False)
        ensure(done.returncode == 0, f"kcat {arguments} ended with {done.returncode}: {done.stderr[-300:]}")
        return done.stdout


def settings(configs):
    return [word for name, value in configs.items() for word in ("-X", f"{name}={value}")]


class Process:
    """A kcat that consumes: its records in a queue, what it says about its group as it comes."""

    def __init__(self, command):
        self.records = queue.Queue(maxsize=20_000)
        self.assigned = set()
        self.revocations = 0
        self.said = collections.deque(maxlen=5)
        pipe = subprocess.PIPE
        self.inner = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
        self.threads = [threading.Thread(target=read, daemon=True) for read in (self._read_records, self._read_words)]
        for thread in self.threads:
            thread.start()

    def _read_records(self):
        for line in self.inner.stdout:
            partition, offset, timestamp, key, value = line.rstrip(b"\n").split(b"\t", 4)
            self.records.put(Record(int(partition), int(offset), key, value, int(timestamp)))

    def _read_words(self):
        for line in self.inner.stderr:
            line = line.decode(errors="replace").rstrip()
            change = re.match(r"% Group .* rebalanced .*(assigned|revoked): ?(.*)", line)
            if change is None:
                self.said.append(line)
                continue
            partitions = {int(number) for number in re.findall(r"\[(\d+)\]", change[2])}
            if change[1] == "assigned":
                self.assigned = self.assigned | partitions
            else:
                self.assigned = self.assigned - partitions
                self.revocations += 1

    def poll(self, seconds):
        """What there is, or comes first within the time."""
        seen = []
        try:
            seen.append(self.records.get(timeout=seconds))
            while True:
                seen.append(self.records.get_nowait())
        except queue.Empty:
            ended = self.inner.poll()
            ensure(ended is None or seen or not self.records.empty(), f"kcat ended with {ended}: {list(self.said)}")
            return seen

    def all(self):
        """Until it ends by itself."""
        seen = []
        end = time.monotonic() + WAIT_S
        while self.inner.poll() is None or any(thread.is_alive() for thread in self.threads) or not self.records.empty():
            ensure(time.monotonic() < end, f"kcat did not end within {WAIT_S} s: {list(self.said)}")
            try:
                seen.append(self.records.get(timeout=0.1))
            except queue.Empty:
                pass
        ensure(self.inner.returncode == 0, f"kcat ended with {self.inner.returncode}: {list(self.said)}")
        return seen

    def end(self):
        """SIGTERM, and a clean end; what it still prints is not read."""
        self.inner.send_signal(signal.SIGTERM)
        threading.Thread(target=self._drain, daemon=True).start()
        try:
            status = self.inner.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.inner.kill()
            raise
        ensure(status == 0, f"kcat ended with {status} after SIGTERM: {list(self.said)}")

    def _drain(self):
        while self.threads[0].is_alive() or not self.records.empty():
            self.poll_quietly()

    def poll_quietly(self):
        try:
            self.records.get(timeout=0.1)
        except queue.Empty:
            pass


class Producer:
    def __init__(self, client, codec):
        configs = {"enable.idempotence": "true", "linger.ms": 5, "queue.buffering.max.messages": 500_000}
        self.command = [*client.command, "-P", "-K", "\t", "-z", codec, *settings(configs)]
        self.inner = None
        self.topic = None

    def send(self, topic, key, value):
        if self.inner is None:
            self.topic = topic
            pipe = subprocess.PIPE
            self.inner = subprocess.Popen([*self.command, "-t", topic], stdin=pipe, stderr=pipe)
        ensure(topic == self.topic, "one topic per process")
        self.inner.stdin.write(key + b"\t" + value + b"\n")

    def flush(self):
        """kcat ends when its input does, once all is acked or refused."""
        _, said = self.inner.communicate(timeout=2 * WAIT_S)
        status = self.inner.returncode
        ensure(status == 0 and b"Delivery failed" not in said, f"kcat -P ended with {status}: {said[-300:]}")


class Reader:
    """A process per partition. kcat has no seek while it runs: a new process begins elsewhere."""

    def __init__(self, client, topic, offsets):
        self.client = client
        self.topic = topic
        self.processes = {}
        for partition, offset in offsets.items():
            self.seek(partition, offset)

    def seek(self, partition, offset):
        if partition in self.processes:
            self.processes[partition].end()
        place = ["-t", self.topic, "-p", str(partition), "-o", str(offset)]
        self.processes[partition] = Process([*self.client.command, "-C", "-q", "-u", "-f", FORMAT, *place])

    def poll(self, seconds):
        end = time.monotonic() + seconds
        while True:
            seen = [record for process in self.processes.values() for record in process.poll(0.02)]
            if seen or time.monotonic() >= end:
                return seen

    def pause(self, _):
        raise Absent("kcat cannot pause a partition")

    def offset_at(self, partition, ms):
        answer = self.client.call("-Q", "-t", f"{self.topic}:{partition}:{ms}").decode()
        found = re.fullmatch(rf"{re.escape(self.topic)} \[{partition}\] offset (\S+)", answer.strip())
        ensure(found, f"the answer was {answer}")
        return -1 if found[1].endswith("END)") or found[1] == "END" else int(found[1])

    def close(self):
        for process in self.processes.values():
            process.end()


class GroupMember:
    def __init__(self, process, topic):
        self.process = process
        self.topic = topic

    @property
    def revocations(self):
        return self.process.revocations

    def poll(self, seconds):
        return self.process.poll(seconds)

    def assignment(self):
        return set(self.process.assigned)

    def close(self):
        self.process.end()


class Checks(contract.Checks):
    """Those that kcat does in a way of its own, or not at all."""

    def create_topic(self):
        topic = f"{self.prefix}-created"
        self.produce(topic, "none", 10)
        wait_for("the topic", lambda: self.client.partition_count(topic) > 0)
        partitions = self.client.partition_count(topic)
        reader = self.reader(topic, partitions)
        compare(read_all(reader, 10), 10)
        reader.close()
        return f"by writing to it, with {partitions} partition(s)"

    def seek_time(self):
        super().seek_time()
        topic = f"{self.prefix}-time"
        reader = self.reader(topic, 1)
        seen = read_all(reader, 100)
        compare(seen, 100)
        moment = seen[50].timestamp
        first = next(record.offset for record in seen if record.timestamp >= moment)
        reader.seek(0, f"s@{moment}")
        came = [record.offset for record in read_all(reader, 100 - first)]
        reader.close()
        ensure(came == list(range(first, 100)), f"offsets from {first} on expected at s@{moment}, {came} came")
        return "-Q, and -o s@"

    def pause_resume(self):
        raise Absent("kcat cannot pause a partition")

    def commit_sync(self):
        raise Absent("kcat has no call to commit: it does so by itself")

    def commit_async(self):
        topic, group = self.filled("commit-async", 600), f"{self.prefix}-commit-async"
        first = Process(self.client.member_command(group, topic, auto_commit=True, count=250)).all()
        ensure(len(first) == 250, f"250 records expected, {len(first)} came")
        rest = Process(self.client.member_command(group, topic, auto_commit=True, count=350)).all()
        compare(first + rest, 600)
        return "by itself, at its end"

    def admin(self):
        raise Absent("kcat has no admin calls")


def add_arguments(parser):
    parser.add_argument("--kcat", required=True, help="the program")


if __name__ == "__main__":
    contract.run(Kcat, add_arguments, Checks)
