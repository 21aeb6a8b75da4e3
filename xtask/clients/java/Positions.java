import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.common.TopicPartition;

/** Where a consumer goes on: by offset, by time, after a pause, after a commit. */
final class Positions {
    private static final int COUNT = 1_000;

    static String seekToOffset(Client client) throws Exception {
        String topic = client.topic("seek-offset", 2);
        Records.fill(client, topic, 2, COUNT, System.currentTimeMillis());
        TopicPartition first = new TopicPartition(topic, 0);
        TopicPartition second = new TopicPartition(topic, 1);
        List<TopicPartition> both = Arrays.asList(first, second);
        try (Consumer<String, String> consumer = client.consumer()) {
            consumer.assign(both);
            consumer.seek(first, 501);
            consumer.seek(second, COUNT - 1);
            List<ConsumerRecord<String, String>> came = poll(consumer, COUNT - 501 + 1);
            expectFrom(came, 0, 501, COUNT);
            expectFrom(came, 1, COUNT - 1, COUNT);
            consumer.seekToBeginning(both);
            Mismatch.expectEqual(0L, consumer.position(first), "beginning");
            consumer.seekToEnd(both);
            Mismatch.expectEqual((long) COUNT, consumer.position(second), "end");
            consumer.seek(first, 3);
            consumer.seek(second, 7);
            came = poll(consumer, 2 * COUNT - 10);
            expectFrom(came, 0, 3, COUNT);
            expectFrom(came, 1, 7, COUNT);
        }
        return "inside batches, to the beginning, to the end";
    }

    static String seekToTime(Client client) throws Exception {
        String topic = client.topic("seek-time", 1);
        TopicPartition partition = new TopicPartition(topic, 0);
        long start = System.currentTimeMillis() - 3_600_000;
        Records.fill(client, topic, 1, COUNT, start);
        try (Consumer<String, String> consumer = client.consumer()) {
            consumer.assign(Collections.singleton(partition));
            for (int number : new int[] {0, 1, 500, COUNT - 1}) {
                // Exactly then, and a little before.
                for (long time : new long[] {start + number * 1_000L, start + number * 1_000L - 1}) {
                    OffsetAndTimestamp found = consumer.offsetsForTimes(Collections.singletonMap(partition, time)).get(partition);
                    Mismatch.expect(found != null, "nothing found for record " + number);
                    Mismatch.expectEqual((long) number, found.offset(), "offset by time");
                    Mismatch.expectEqual(start + number * 1_000L, found.timestamp(), "timestamp of offset " + number);
                }
            }
            long late = start + COUNT * 1_000L;
            Object none = consumer.offsetsForTimes(Collections.singletonMap(partition, late)).get(partition);
            Mismatch.expect(none == null, "a time after all records found " + none);
            long middle = start + 500_500;
            long offset = consumer.offsetsForTimes(Collections.singletonMap(partition, middle)).get(partition).offset();
            consumer.seek(partition, offset);
            expectFrom(poll(consumer, COUNT - 501), 0, 501, COUNT);
        }
        return "inside batches, none after the last";
    }

    static String pauseAndResume(Client client) throws Exception {
        String topic = client.topic("pause", 2);
        Records.fill(client, topic, 2, COUNT, System.currentTimeMillis());
        TopicPartition first = new TopicPartition(topic, 0);
        TopicPartition second = new TopicPartition(topic, 1);
        try (Consumer<String, String> consumer = client.consumer("max.poll.records", "100")) {
            consumer.assign(Arrays.asList(first, second));
            consumer.pause(Collections.singleton(first));
            expectFrom(poll(consumer, COUNT), 1, 0, COUNT);
            Mismatch.expectEqual(0, consumer.poll(Duration.ofMillis(500)).count(), "records of a paused partition");
            Mismatch.expectEqual(Collections.singleton(first), consumer.paused(), "paused");
            consumer.resume(Collections.singleton(first));
            List<ConsumerRecord<String, String>> came = poll(consumer, 100);
            consumer.pause(Collections.singleton(first));
            Mismatch.expectEqual(0, consumer.poll(Duration.ofMillis(500)).count(), "records after a second pause");
            consumer.resume(Collections.singleton(first));
            came.addAll(poll(consumer, COUNT - came.size()));
            expectFrom(came, 0, 0, COUNT);
        }
        return "none while paused, all after it";
    }

    /** A member commits and leaves; the next one begins at the commit. */
    static String commit(Client client, boolean sync) throws Exception {
        String what = sync ? "commit-sync" : "commit-async";
        String topic = client.topic(what, 2);
        String group = client.name(what);
        Records.fill(client, topic, 2, COUNT, System.currentTimeMillis());
        TopicPartition first = new TopicPartition(topic, 0);
        TopicPartition second = new TopicPartition(topic, 1);
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        offsets.put(first, new OffsetAndMetadata(300, "a note"));
        offsets.put(second, new OffsetAndMetadata(COUNT - 1));
        try (Consumer<String, String> consumer = client.member(group)) {
            consumer.subscribe(Collections.singleton(topic));
            poll(consumer, 2 * COUNT);
            if (sync) {
                consumer.commitSync(offsets);
            } else {
                // Of several, the last one stands.
                consumer.commitAsync(null);
                commitAsync(consumer, offsets);
            }
            Mismatch.expectEqual(offsets, withoutEpochs(consumer.committed(offsets.keySet())), "committed, by the same member");
        }
        try (Consumer<String, String> consumer = client.member(group)) {
            consumer.subscribe(Collections.singleton(topic));
            List<ConsumerRecord<String, String>> came = poll(consumer, COUNT - 300 + 1);
            expectFrom(came, 0, 300, COUNT);
            expectFrom(came, 1, COUNT - 1, COUNT);
            Mismatch.expectEqual(offsets, withoutEpochs(consumer.committed(offsets.keySet())), "committed, by the next member");
        }
        return "the next member began at 300 and " + (COUNT - 1);
    }

    private static void commitAsync(Consumer<String, String> consumer, Map<TopicPartition, OffsetAndMetadata> offsets)
            throws Exception {
        AtomicReference<String> answer = new AtomicReference<>();
        consumer.commitAsync(offsets, (committed, error) -> answer.set(error == null ? "fine" : error.toString()));
        Mismatch.eventually(20, "the answer to a commit", () -> {
            consumer.poll(Duration.ofMillis(20));
            return answer.get() != null;
        });
        Mismatch.expectEqual("fine", answer.get(), "commitAsync");
    }

    private static Map<TopicPartition, OffsetAndMetadata> withoutEpochs(Map<TopicPartition, OffsetAndMetadata> offsets) {
        Map<TopicPartition, OffsetAndMetadata> plain = new HashMap<>();
        offsets.forEach((partition, offset) ->
                plain.put(partition, offset == null ? null : new OffsetAndMetadata(offset.offset(), offset.metadata())));
        return plain;
    }

    /** At least `count` records. */
    private static List<ConsumerRecord<String, String>> poll(Consumer<String, String> consumer, int count) {
        List<ConsumerRecord<String, String>> came = new ArrayList<>();
        long end = System.nanoTime() + 30_000_000_000L;
        while (came.size() < count) {
            Mismatch.expect(System.nanoTime() < end, "only " + came.size() + " of " + count + " records within 30 s");
            consumer.poll(Duration.ofMillis(200)).forEach(came::add);
        }
        Mismatch.expectEqual(count, came.size(), "records");
        return came;
    }

    /** The records of one partition are those at `from` until `end`, in order. */
    private static void expectFrom(Collection<ConsumerRecord<String, String>> came, int partition, long from, long end) {
        long next = from;
        for (ConsumerRecord<String, String> record : came) {
            if (record.partition() == partition) {
                Mismatch.expectEqual(next, record.offset(), "offset in partition " + partition);
                Mismatch.expectEqual(Long.toString(next), record.value(), "value at offset " + next);
                next++;
            }
        }
        Mismatch.expectEqual(end, next, "end of partition " + partition);
    }
}
