import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;

/** The records of a run, known before they are sent, and the comparison with what came back. */
final class Records {
    private static final int KEYS = 1_000;
    private final String[] values;

    Records(int count) {
        values = new String[count];
        for (int number = 0; number < count; number++) {
            long mixed = number * 0x9E37_79B9_7F4A_7C15L;
            values[number] = number + " what a codec can shorten: abcabcabcabcabcabcabc "
                    + Long.toHexString(mixed) + " " + Long.toHexString(Long.rotateLeft(mixed, 29));
        }
    }

    int count() {
        return values.length;
    }

    String key(int number) {
        return "key-" + (number * 7_919L) % KEYS;
    }

    /** Sends all to the topic and waits for every answer. */
    void produce(Producer<String, String> producer, String topic) throws Exception {
        List<Future<RecordMetadata>> answers = new ArrayList<>(values.length);
        for (int number = 0; number < values.length; number++) {
            answers.add(producer.send(new ProducerRecord<>(topic, key(number), values[number])));
        }
        producer.flush();
        for (Future<RecordMetadata> answer : answers) {
            answer.get();
        }
    }

    /**
     * Each record came back once, with its key and value, in the order sent within its partition, at offsets without holes,
     * a key always in the same partition.
     */
    void compare(List<ConsumerRecord<String, String>> came) {
        boolean[] found = new boolean[values.length];
        Map<String, Integer> home = new HashMap<>();
        Map<Integer, Long> offsets = new HashMap<>();
        Map<Integer, Integer> last = new HashMap<>();
        for (ConsumerRecord<String, String> record : came) {
            int number = Integer.parseInt(record.value().substring(0, record.value().indexOf(' ')));
            Mismatch.expect(number < values.length, "record " + number + " was never sent");
            Mismatch.expectEqual(values[number], record.value(), "value of record " + number);
            Mismatch.expectEqual(key(number), record.key(), "key of record " + number);
            Mismatch.expect(!found[number], "record " + number + " came twice");
            found[number] = true;
            home.putIfAbsent(record.key(), record.partition());
            Mismatch.expectEqual(home.get(record.key()), record.partition(), "partition of " + record.key());
            long expected = offsets.getOrDefault(record.partition(), -1L) + 1;
            Mismatch.expectEqual(expected, record.offset(), "offset in partition " + record.partition());
            offsets.put(record.partition(), record.offset());
            int before = last.getOrDefault(record.partition(), -1);
            Mismatch.expect(number > before, "record " + number + " came after " + before);
            last.put(record.partition(), number);
        }
        Mismatch.expectEqual(values.length, came.size(), "records");
    }

    /** Throws when {@link #compare} lets a kind of loss pass. */
    static void proveComparison() {
        Records records = new Records(2 * KEYS);
        List<ConsumerRecord<String, String>> sent = records.asConsumed();
        records.compare(sent);
        Map<String, Damage> damages = new HashMap<>();
        damages.put("the last one missing", seen -> seen.remove(seen.size() - 1));
        damages.put("a hole", seen -> seen.remove(100));
        damages.put("one twice", seen -> seen.add(seen.get(7)));
        damages.put("one in place of another", seen -> seen.set(10, with(seen.get(10), seen.get(10).partition(), seen.get(11).value())));
        damages.put("another value", seen -> seen.set(50, with(seen.get(50), seen.get(50).partition(), seen.get(50).value() + "x")));
        damages.put("another order", Collections::reverse);
        damages.put("a foreign one", seen -> seen.set(3, with(seen.get(3), seen.get(3).partition(), "9999999 x")));
        int later = KEYS + 5;
        damages.put("a key in two partitions", seen -> seen.set(later, with(seen.get(later), 7, seen.get(later).value())));
        damages.forEach((name, damage) -> {
            List<ConsumerRecord<String, String>> seen = new ArrayList<>(sent);
            damage.to(seen);
            try {
                records.compare(seen);
            } catch (RuntimeException noticed) {
                return;
            }
            throw new Mismatch("the comparison does not notice " + name);
        });
    }

    private interface Damage {
        void to(List<ConsumerRecord<String, String>> seen);
    }

    private List<ConsumerRecord<String, String>> asConsumed() {
        List<ConsumerRecord<String, String>> all = new ArrayList<>();
        long[] ends = new long[3];
        for (int number = 0; number < values.length; number++) {
            int partition = (int) ((number * 7_919L) % KEYS % 3);
            all.add(new ConsumerRecord<>("proof", partition, ends[partition]++, key(number), values[number]));
        }
        return all;
    }

    private static ConsumerRecord<String, String> with(ConsumerRecord<String, String> record, int partition, String value) {
        return new ConsumerRecord<>(record.topic(), partition, record.offset(), record.key(), value);
    }

    /** All that the topic holds now. */
    static List<ConsumerRecord<String, String>> readAll(Consumer<String, String> consumer, String topic, int partitions) {
        List<TopicPartition> all = new ArrayList<>();
        for (int partition = 0; partition < partitions; partition++) {
            all.add(new TopicPartition(topic, partition));
        }
        consumer.assign(all);
        consumer.seekToBeginning(all);
        Map<TopicPartition, Long> ends = consumer.endOffsets(all);
        List<ConsumerRecord<String, String>> came = new ArrayList<>();
        long end = System.nanoTime() + 60_000_000_000L;
        while (ends.entrySet().stream().anyMatch(e -> consumer.position(e.getKey()) < e.getValue())) {
            Mismatch.expect(System.nanoTime() < end, "only " + came.size() + " records of " + ends + " within 60 s");
            consumer.poll(Duration.ofMillis(200)).forEach(came::add);
        }
        return came;
    }

    /** `count` records with values 0, 1, ... into each partition, each a second later than the one before. */
    static void fill(Client client, String topic, int partitions, int count, long firstTimestamp) throws Exception {
        fill(client, topic, partitions, 0, count, firstTimestamp);
    }

    /** The same with values from `first` on. */
    static void fill(Client client, String topic, int partitions, int first, int count, long firstTimestamp) throws Exception {
        List<Future<RecordMetadata>> answers = new ArrayList<>();
        try (Producer<String, String> producer = client.producer()) {
            for (int number = 0; number < count; number++) {
                for (int partition = 0; partition < partitions; partition++) {
                    long timestamp = firstTimestamp + number * 1_000L;
                    String value = Integer.toString(first + number);
                    answers.add(producer.send(new ProducerRecord<>(topic, partition, timestamp, "k", value)));
                }
            }
            producer.flush();
            for (Future<RecordMetadata> answer : answers) {
                answer.get();
            }
        }
    }
}
