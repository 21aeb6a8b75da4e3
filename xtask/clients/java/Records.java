import java.time.Duration;
import java.util.ArrayList;
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
        List<Future<RecordMetadata>> answers = new ArrayList<>();
        try (Producer<String, String> producer = client.producer()) {
            for (int number = 0; number < count; number++) {
                for (int partition = 0; partition < partitions; partition++) {
                    long timestamp = firstTimestamp + number * 1_000L;
                    answers.add(producer.send(new ProducerRecord<>(topic, partition, timestamp, "k", Integer.toString(number))));
                }
            }
            producer.flush();
            for (Future<RecordMetadata> answer : answers) {
                answer.get();
            }
        }
    }
}
