import java.time.Duration;
import java.util.Collection;
import java.util.Collections;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;

/** A member of a group that polls in a thread of its own, as an application does. */
final class Member implements ConsumerRebalanceListener {
    private final Consumer<String, String> consumer;
    private final Thread thread;
    private final Set<Integer> held = Collections.synchronizedSet(new TreeSet<>());
    /** How often the listener was told of a change. */
    final AtomicInteger changes = new AtomicInteger();
    /** How often partitions were taken from it. */
    final AtomicInteger revocations = new AtomicInteger();
    /** Records seen, as partition/value. */
    final Set<String> records = ConcurrentHashMap.newKeySet();
    volatile Throwable failure;
    private volatile boolean stop;

    Member(Client client, String group, String topic, String... more) {
        consumer = client.member(group, more);
        consumer.subscribe(Collections.singleton(topic), this);
        thread = new Thread(this::poll, "member of " + group);
        thread.setDaemon(true);
        thread.start();
    }

    /** The partitions held now. */
    Set<Integer> held() {
        Mismatch.expect(failure == null, "a member failed: " + failure);
        synchronized (held) {
            return new TreeSet<>(held);
        }
    }

    /** Leaves the group, unless it is a static member. */
    void close() throws Exception {
        stop = true;
        consumer.wakeup();
        thread.join(30_000);
        Mismatch.expect(!thread.isAlive(), "a member did not close within 30 s");
        Mismatch.expect(failure == null, "a member failed: " + failure);
    }

    private void poll() {
        try {
            while (!stop) {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(200))) {
                    records.add(record.partition() + "/" + record.value());
                }
            }
        } catch (WakeupException wokenUp) {
            // It was told to stop.
        } catch (Throwable thrown) {
            failure = thrown;
        }
        try {
            consumer.close();
        } catch (Throwable thrown) {
            failure = thrown;
        }
    }

    @Override
    public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
        changes.incrementAndGet();
        partitions.forEach(partition -> held.add(partition.partition()));
    }

    @Override
    public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
        changes.incrementAndGet();
        revocations.incrementAndGet();
        partitions.forEach(partition -> held.remove(partition.partition()));
    }
}
