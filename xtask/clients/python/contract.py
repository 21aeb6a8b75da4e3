"""The checks of a client family, written once for the Python clients.

A client is an adapter (`Client` below says what it must do); `run` starts the checks, those that mostly wait beside those
that mostly work, and prints one line for each. The contract itself is in xtask/src/clients/family.rs.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple

Record = namedtuple("Record", "partition offset key value timestamp")

PARTITIONS = 3
GROUP_PARTITIONS = 6
SESSION_TIMEOUT_MS = 6000
# Longest that anything is waited for, but for a member that must be missed first.
WAIT_S = 45
KEYS = 1000
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


class Failed(Exception):
    """What was expected and what came."""


class Absent(Exception):
    """This client cannot do that, and why."""


class TopicExists(Exception):
    pass


class Client:
    """One client library. What raises `Absent` is reported as such."""

    # Longest until a member that died is missed; with its own timeout that is the session timeout and a rebalance.
    crash_takeover_s = 30

    def create_topic(self, topic, partitions, configs):
        """Raises TopicExists."""
        raise NotImplementedError

    def partition_count(self, topic):
        """Partitions that have a leader; 0 for a topic that is not there."""
        raise NotImplementedError

    def producer(self, codec):
        """acks=all; with `send(topic, key, value)` in order and `flush()`, which raises when a record was not acked."""
        raise NotImplementedError

    def reader(self, topic, offsets):
        """A consumer without group at {partition: offset}: poll(timeout_s) -> [Record], seek(partition, offset),
        pause(partition), resume(partition), offset_at(partition, ms), close()."""
        raise NotImplementedError

    def member(self, group, topic, instance=None):
        """A subscribed consumer that commits nothing by itself, used from one thread: poll(timeout_s) -> [Record],
        assignment() -> set of partitions, `revocations`, commit_sync({partition: offset}),
        commit_async({partition: offset}) that returns when the answer came, close()."""
        raise NotImplementedError

    def admin_round_trip(self, topic):
        """Gives words on what was left out, or None."""
        raise NotImplementedError

    def be_member(self, group, topic):
        """A member in this process, until it is killed."""
        consumer = self.member(group, topic)
        while True:
            consumer.poll(0.1)


def ensure(condition, otherwise):
    if not condition:
        raise Failed(otherwise)


def wait_for(what, look, seconds=WAIT_S):
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        ensure(time.monotonic() < end, f"{what}: not within {seconds} s")
        time.sleep(0.05)


def record(number):
    """Different for each number, with something for a codec to shorten; a thousand keys."""
    mixed = number * 2654435761 % (1 << 32)
    key = b"key-%03d" % (number * 7919 % KEYS)
    return key, b"%07d %08x what a codec can shorten: abcabcabcabcabcabcabc %08x" % (number, mixed, mixed ^ 0x5A5A5A5A)


def compare(seen, count, twice=False):
    """All of 0..count: content, a key always in one partition, in the order sent within each partition, once each at
    offsets without holes; with `twice`, later repetitions are let pass."""
    ensure(twice or len(seen) == count, f"{count} records expected, {len(seen)} came")
    found = bytearray(count)
    last = {}
    partition_of = {}
    for at, (partition, offset, key, value, _) in enumerate(seen):
        number = int(value[:7]) if value[:7].isdigit() else count
        ensure(number < count and (key, value) == record(number), f"record {at} is {key} {value}")
        ensure(partition_of.setdefault(key, partition) == partition, f"{key} is in {partition} and elsewhere")
        if found[number]:
            ensure(twice, f"record {number} came twice, again at {partition}/{offset}")
            continue
        found[number] = 1
        before, offset_before = last.get(partition, (-1, -1))
        ensure(number > before, f"record {number} came after {before} in partition {partition}")
        ensure(twice or offset == offset_before + 1, f"offset {offset} came after {offset_before} in {partition}")
        last[partition] = (number, offset)
    missing = found.find(0)
    ensure(missing < 0, f"{found.count(0)} of {count} records are missing, the first is {missing}")


def prove_comparison():
    """`compare` notices each kind of loss, or the program ends here."""

    def sent():
        ends, seen = [0] * PARTITIONS, []
        for number in range(2 * KEYS):
            key, value = record(number)
            partition = int(key[4:]) % PARTITIONS
            seen.append(Record(partition, ends[partition], key, value, 0))
            ends[partition] += 1
        return seen

    def change(at, **fields):
        return lambda seen: seen[:at] + [seen[at]._replace(**fields)] + seen[at + 1 :]

    damages = {
        "the last one missing": lambda seen: seen[:-1],
        "a hole": lambda seen: seen[:100] + seen[101:],
        "one twice": lambda seen: [*seen, seen[7]],
        "one in place of another": change(10, value=record(11)[1]),
        "another value": change(50, value=record(50)[1] + b"x"),
        "another key": change(50, key=b"key-1000"),
        "another order": lambda seen: seen[::-1],
        "a foreign one": change(3, value=record(9_999_999)[1]),
        "a key in two partitions": change(KEYS + 5, partition=(sent()[KEYS + 5].partition + 1) % PARTITIONS),
    }
    passing_when_repeated = {"one twice"}
    compare(sent(), 2 * KEYS)
    compare([*sent(), *sent()], 2 * KEYS, twice=True)
    for name, damage in damages.items():
        for twice in (False, True):
            try:
                compare(damage(sent()), 2 * KEYS, twice)
            except Failed:
                continue
            if not (twice and name in passing_when_repeated):
                sys.exit(f"the comparison does not notice {name}")


def read_all(reader, count, seconds=WAIT_S):
    """Reads until `count` records came, then a little longer: there may be more than should be."""
    seen = []
    end = time.monotonic() + seconds
    while len(seen) < count and time.monotonic() < end:
        seen.extend(reader.poll(0.5))
    seen.extend(reader.poll(0.2))
    return seen


class Member:
    """A member of a group that polls in a thread of its own until it is told to leave."""

    def __init__(self, client, group, topic, instance=None):
        self.partitions = set()
        self.records = []
        self.revocations = 0
        self.error = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._poll, args=(client, group, topic, instance), daemon=True)
        self._thread.start()

    def _poll(self, *arguments):
        try:
            consumer = arguments[0].member(*arguments[1:])
            try:
                while not self._ending.is_set():
                    self.records.extend(consumer.poll(0.1))
                    self.partitions = consumer.assignment()
                    self.revocations = consumer.revocations
            finally:
                consumer.close()
        except Exception as error:  # shown by whoever looks at this member next
            self.error = error

    def settled(self):
        ensure(self.error is None, f"a member ended: {self.error!r}")
        return self.partitions

    def leave(self):
        self._ending.set()
        self._thread.join(WAIT_S)
        ensure(not self._thread.is_alive(), f"a member did not close within {WAIT_S} s")
        ensure(self.error is None, f"a member ended: {self.error!r}")


def shared_out(members, partitions=GROUP_PARTITIONS):
    """Each partition has one member and each member at least one partition."""
    shares = [set(member.settled()) for member in members]
    return all(shares) and sum(map(len, shares)) == partitions and set().union(*shares) == set(range(partitions))


def read_by(members, count):
    """The members read all records between them; whoever takes a partition over may begin anew."""
    seen = lambda: [record for member in members if member.settled() is not None for record in list(member.records)]
    wait_for(f"{count} records", lambda: len({record.value for record in seen()}) >= count)
    compare(sorted(seen(), key=lambda record: (record.partition, record.offset)), count, twice=True)


class Checks:
    def __init__(self, client, arguments):
        self.client = client
        self.bootstrap = arguments.bootstrap
        self.prefix = arguments.prefix
        self.count = arguments.records

    def lanes(self):
        """What runs one after another; lanes run side by side, so that waiting and working overlap."""
        codecs = [(f"codec-{codec}", lambda codec=codec: self.codec(codec)) for codec in CODECS]
        named = lambda *checks: [(check.__name__.replace("_", "-"), check) for check in checks]
        return [
            named(self.create_topic)
            + codecs
            + named(self.seek_offset, self.seek_time, self.pause_resume, self.admin),
            named(self.group_of_three, self.commit_sync),
            named(self.member_crash),
            named(self.static_rejoin, self.commit_async),
        ]

    def topic(self, name, partitions=PARTITIONS):
        topic = f"{self.prefix}-{name}"
        self.client.create_topic(topic, partitions, {})
        wait_for("the topic", lambda: self.client.partition_count(topic) == partitions)
        return topic

    def filled(self, name, count, partitions=PARTITIONS):
        topic = self.topic(name, partitions)
        self.produce(topic, "none", count)
        return topic

    def produce(self, topic, codec, count, first=0):
        producer = self.client.producer(codec)
        for number in range(first, first + count):
            producer.send(topic, *record(number))
        producer.flush()

    def reader(self, topic, partitions=PARTITIONS):
        return self.client.reader(topic, {partition: 0 for partition in range(partitions)})

    def create_topic(self):
        topic = f"{self.prefix}-created"
        self.client.create_topic(topic, 5, {"retention.ms": "86400000"})
        wait_for("the topic's five partitions", lambda: self.client.partition_count(topic) == 5)
        try:
            self.client.create_topic(topic, 5, {})
        except TopicExists:
            return
        raise Failed("a second topic of the same name was not refused")

    def codec(self, codec):
        topic = self.topic(f"codec-{codec}")
        self.produce(topic, codec, self.count)
        reader = self.reader(topic)
        seen = read_all(reader, self.count)
        reader.close()
        compare(seen, self.count)

    def group_of_three(self):
        topic, group = self.filled("three", 600, GROUP_PARTITIONS), f"{self.prefix}-three"
        members = [Member(self.client, group, topic) for _ in range(3)]
        wait_for("three members share six partitions", lambda: shared_out(members))
        read_by(members, 600)
        gone = members.pop()
        gone.leave()
        wait_for("two members share six partitions", lambda: shared_out(members))
        self.produce(topic, "none", 300, first=600)
        read_by([gone, *members], 900)
        members.append(Member(self.client, group, topic))
        wait_for("a third joins again", lambda: shared_out(members))
        self.produce(topic, "none", 300, first=900)
        read_by([gone, *members], 1200)
        for member in members:
            member.leave()

    def member_crash(self):
        topic, group = self.topic("crash", GROUP_PARTITIONS), f"{self.prefix}-crash"
        again = [sys.executable, *sys.argv, "--member", f"{group},{topic}"]
        doomed = subprocess.Popen(again, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            member = Member(self.client, group, topic)
            half = lambda: 0 < len(member.settled()) < GROUP_PARTITIONS
            wait_for("two members share the partitions", half)
            share = len(member.settled())
            doomed.send_signal(signal.SIGKILL)
            doomed.wait()
            died = time.monotonic()
            time.sleep(1)
            ensure(len(member.settled()) == share, "taken over at once, as if the member had left")
            wait_for("the survivor has all", lambda: shared_out([member]), self.client.crash_takeover_s)
            after = time.monotonic() - died
            ensure(after > 2, f"taken over {after:.1f} s after the death, before its session can have timed out")
        finally:
            doomed.kill()
        member.leave()
        return f"after {after:.1f} s"

    def static_rejoin(self):
        topic, group = self.topic("static", GROUP_PARTITIONS), f"{self.prefix}-static"
        first, second = (Member(self.client, group, topic, f"instance-{name}") for name in "ab")
        wait_for("two members share the partitions", lambda: shared_out([first, second]))
        time.sleep(1)
        before, others, revocations = set(first.settled()), set(second.settled()), second.revocations
        first.leave()
        again = Member(self.client, group, topic, "instance-a")
        wait_for("the member is back", again.settled)
        time.sleep(2)
        ensure(again.settled() == before, f"it had {sorted(before)} and came back to {sorted(again.settled())}")
        ensure(second.settled() == others, f"the other member had {others} and has {second.settled()}")
        came = second.revocations - revocations
        ensure(came == 0, f"the other member saw {came} rebalances")
        again.leave()
        second.leave()

    def seek_offset(self):
        topic = self.filled("seek", 300)
        reader = self.reader(topic)
        compare(read_all(reader, 300), 300)
        reader.seek(1, 17)
        seen = [record for record in read_some(reader) if record.partition == 1]
        ensure(seen and seen[0].offset == 17, f"offset 17 of partition 1 expected, {seen[:1]} came")
        reader.close()

    def seek_time(self):
        topic = self.topic("time", 1)
        self.produce(topic, "none", 50)
        time.sleep(0.1)
        between = int(time.time() * 1000)
        time.sleep(0.1)
        self.produce(topic, "none", 50, first=50)
        reader = self.reader(topic, 1)
        offset = reader.offset_at(0, between)
        ensure(offset == 50, f"the first record after the pause is at 50, the answer was {offset}")
        ensure(reader.offset_at(0, 0) == 0, "the first record after time 0 is not at 0")
        late = reader.offset_at(0, between + 3_600_000)
        ensure(late in (None, -1, 100), f"nothing is later than now, the answer was {late}")
        reader.seek(0, offset)
        seen = []
        wait_for("records from 50 on", lambda: seen.extend(reader.poll(0.2)) or seen and seen[-1].offset == 99)
        at = [record.offset for record in seen]
        ensure(at == list(range(50, 100)), f"offsets 50 to 99 expected after the seek, {at} came")
        ensure(all(record.timestamp >= between for record in seen), "records of an earlier time came after the seek")
        reader.close()

    def pause_resume(self):
        topic = self.filled("pause", 300)
        reader = self.reader(topic)
        before = read_all(reader, 300)
        compare(before, 300)
        reader.pause(1)
        self.produce(topic, "none", 300, first=300)
        seen = []
        came = lambda: seen.extend(reader.poll(0.1)) or {record.partition for record in seen}
        wait_for("records of the partitions that go on", lambda: len(came()) > 1)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            came()
        partitions = came()
        ensure(partitions == {0, 2}, f"records of partitions 0 and 2 expected while 1 is paused, {partitions} came")
        reader.resume(1)
        wait_for("the paused records", lambda: seen.extend(reader.poll(0.2)) or len(seen) >= 300)
        compare(before + seen, 600)
        reader.close()

    def commit_sync(self):
        self.committed("sync", lambda consumer, offsets: consumer.commit_sync(offsets))

    def commit_async(self):
        self.committed("async", lambda consumer, offsets: consumer.commit_async(offsets))

    def committed(self, name, commit):
        topic, group = self.filled(f"commit-{name}", 600), f"{self.prefix}-commit-{name}"
        first = self.client.member(group, topic)
        next_offset = {}
        end = time.monotonic() + WAIT_S
        while sum(next_offset.values()) < 600 and time.monotonic() < end:
            for record in first.poll(0.2):
                next_offset[record.partition] = record.offset + 1
        ensure(sum(next_offset.values()) == 600, f"600 records expected, read up to {next_offset}")
        committed = {partition: offset // 2 for partition, offset in next_offset.items()}
        commit(first, committed)
        first.close()
        second = self.client.member(group, topic)
        came = {}
        end = time.monotonic() + WAIT_S
        while len(came) < PARTITIONS and time.monotonic() < end:
            for record in second.poll(0.2):
                came.setdefault(record.partition, record.offset)
        second.close()
        ensure(came == committed, f"committed {committed}, a new member began at {came}")

    def admin(self):
        return self.client.admin_round_trip(f"{self.prefix}-admin")

    def restart(self):
        topic, group = self.topic("restart"), f"{self.prefix}-restart"
        member = Member(self.client, group, topic)
        wait_for("a member", member.settled)
        producer = self.client.producer("gzip")
        restarted = threading.Event()
        threading.Thread(target=lambda: sys.stdin.readline() == "restarted\n" and restarted.set(), daemon=True).start()
        sent, end = 0, None
        give_up = time.monotonic() + 60
        while end is None or time.monotonic() < end:
            for _ in range(20):
                producer.send(topic, *record(sent))
                sent += 1
            if sent == 1000:
                say("restart please")
            if end is None and restarted.is_set():
                end = time.monotonic() + 2
            ensure(time.monotonic() < give_up, "the broker was not back within 60 s")
            time.sleep(0.01)
        producer.flush()
        reader = self.reader(topic)
        compare(read_all(reader, sent), sent)
        reader.close()
        read_by([member], sent)
        member.leave()
        return f"{sent} records"


def read_some(reader):
    seen = []
    wait_for("records", lambda: seen.extend(reader.poll(0.2)) or seen)
    return seen


def say(line):
    with said:
        print(line, flush=True)


said = threading.Lock()


def perform(name, check):
    try:
        note = check()
        say(f"check {name} ok {note}" if note else f"check {name} ok")
    except Absent as why:
        say(f"check {name} absent {why}")
    except Failed as why:
        say(f"check {name} FAILED {one_line(why)}")
    except Exception as error:  # a client's error is a result like any other
        say(f"check {name} FAILED {one_line(repr(error))}")


def one_line(text):
    return " ".join(str(text).split())


def run_lane(lane):
    for name, check in lane:
        perform(name, check)


def run(make_client, add_arguments=lambda parser: None, checks=Checks):
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--only", help="one check, by hand")
    parser.add_argument("--member", help="GROUP,TOPIC: be a member until killed")
    add_arguments(parser)
    arguments = parser.parse_args()
    client = make_client(arguments)
    if arguments.member:
        group, topic = arguments.member.split(",")
        # It ends with this pipe, should the other program end first.
        threading.Thread(target=lambda: sys.stdin.read() or os._exit(0), daemon=True).start()
        client.be_member(group, topic)
    prove_comparison()
    checks = checks(client, arguments)
    lanes = checks.lanes()
    last = ("restart", checks.restart)
    if arguments.only:
        lanes = [[check for lane in [*lanes, [last]] for check in lane if check[0] == arguments.only]]
    threads = [threading.Thread(target=run_lane, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not arguments.only:
        run_lane([last])
