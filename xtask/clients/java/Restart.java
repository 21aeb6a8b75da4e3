import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;

/** The broker is killed while records flow: every record is acked in the end, and is there once, where the ack said. */
final class Restart {
    private static final int PARTITIONS = 3;

    static String run(Client client) throws Exception {
        String topic = client.topic("restart", PARTITIONS);
        Map<Integer, RecordMetadata> acked = new ConcurrentHashMap<>();
        AtomicReference<Exception> refused = new AtomicReference<>();
        Member member =
                new Member(client, client.name("restart"), topic, "enable.auto.commit", "true", "auto.commit.interval.ms", "200");
        Mismatch.eventually(30, "partitions of the member", () -> member.held().size() == PARTITIONS);
        int sent = 0;
        try (Producer<String, String> producer = client.producer("delivery.timeout.ms", "90000")) {
            CompletableFuture<String> restarted = null;
            long end = System.nanoTime() + 1_000_000_000L;
            int before = 0;
            while (System.nanoTime() < end) {
                int number = sent++;
                producer.send(new ProducerRecord<>(topic, number % PARTITIONS, "key", Integer.toString(number)), (metadata, error) -> {
                    if (error == null) {
                        acked.put(number, metadata);
                    } else {
                        refused.compareAndSet(null, error);
                    }
                });
                Thread.sleep(1);
                if (restarted == null && System.nanoTime() > end - 10_000_000L) {
                    before = acked.size();
                    restarted = askForRestart();
                    end = System.nanoTime() + 60_000_000_000L;
                } else if (restarted != null && restarted.isDone() && end - System.nanoTime() > 1_500_000_000L) {
                    end = System.nanoTime() + 1_500_000_000L;
                }
            }
            Mismatch.expect(before > 0, "no record was acked before the restart");
            Mismatch.expectEqual("restarted", restarted.get(1, TimeUnit.SECONDS), "answer of the runner");
            producer.flush();
        }
        Mismatch.expect(refused.get() == null, "a record was refused: " + refused.get());
        Mismatch.expectEqual(sent, acked.size(), "acked records");
        int all = sent;
        Mismatch.eventually(30, "all records in the group", () -> {
            member.held();
            return member.records.size() == all;
        });
        member.close();
        try (Consumer<String, String> consumer = client.consumer()) {
            compare(Records.readAll(consumer, topic, PARTITIONS), acked);
        }
        return sent + " records acked, all there once, in order";
    }

    private static CompletableFuture<String> askForRestart() {
        System.out.println("restart please");
        CompletableFuture<String> answer = new CompletableFuture<>();
        Thread reader = new Thread(() -> {
            try {
                answer.complete(new BufferedReader(new InputStreamReader(System.in)).readLine());
            } catch (Exception error) {
                answer.completeExceptionally(error);
            }
        });
        reader.setDaemon(true);
        reader.start();
        return answer;
    }

    private static void compare(List<ConsumerRecord<String, String>> came, Map<Integer, RecordMetadata> acked) {
        int[] last = {-1, -1, -1};
        for (ConsumerRecord<String, String> record : came) {
            int number = Integer.parseInt(record.value());
            Mismatch.expect(number > last[record.partition()], "record " + number + " came after " + last[record.partition()]);
            last[record.partition()] = number;
            RecordMetadata ack = acked.get(number);
            Mismatch.expect(ack != null, "record " + number + " was never acked");
            Mismatch.expectEqual(ack.offset(), record.offset(), "offset of record " + number);
            Mismatch.expectEqual(ack.partition(), record.partition(), "partition of record " + number);
        }
        Mismatch.expectEqual(acked.size(), came.size(), "records");
    }
}
