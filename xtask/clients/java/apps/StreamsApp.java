import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.LongDeserializer;

/** Kafka Streams: a word count that is restarted in the middle and has to restore its store from the changelog. */
public final class StreamsApp {
    private static final int LINES = 10_000;
    private static final int PARTITIONS = 4;
    private final Client client;
    private final String bootstrap;
    private final Path folder = Files.createTempDirectory(Path.of("/var/tmp"), "seawall-streams-");
    private final String from;
    private final String to;
    private final Map<String, Long> expected = new HashMap<>();
    private Process application;

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = Checks.options(arguments);
        StreamsApp app = new StreamsApp(new Client(options), options.get("bootstrap"));
        Runtime.getRuntime().addShutdownHook(new Thread(app::cleanUp));
        Checks checks = new Checks();
        checks.add("first-half", app::firstHalf);
        checks.add("internal-topics", app::internalTopics);
        checks.add("restart-in-the-middle", app::restartInTheMiddle);
        checks.add("restored-counts", app::restoredCounts);
        checks.run(options);
    }

    private StreamsApp(Client client, String bootstrap) throws Exception {
        this.client = client;
        this.bootstrap = bootstrap;
        from = client.topic("lines", PARTITIONS);
        to = client.topic("counts", PARTITIONS);
    }

    private String firstHalf() throws Exception {
        start("state-1");
        write(0, LINES / 2);
        return counted();
    }

    private String internalTopics() throws Exception {
        Set<String> own = client.topics().stream().filter(topic -> topic.startsWith(name())).collect(Collectors.toSet());
        String changelog = own.stream().filter(topic -> topic.endsWith("-changelog")).findFirst().orElse("none");
        String repartition = own.stream().filter(topic -> topic.endsWith("-repartition")).findFirst().orElse("none");
        Mismatch.expectEqual(2, own.size(), "internal topics " + own);
        for (String topic : new String[] {changelog, repartition}) {
            Mismatch.expectEqual(PARTITIONS, client.describe(topic).partitions().size(), "partitions of " + topic);
            ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            String policy = Client.get(client.admin.describeConfigs(Collections.singleton(resource)).all())
                    .get(resource).get("cleanup.policy").value();
            Mismatch.expectEqual(topic.equals(changelog) ? "compact" : "delete", policy, "cleanup.policy of " + topic);
        }
        // It deletes what it has repartitioned and committed.
        try (Consumer<String, String> consumer = client.consumer()) {
            TopicPartition partition = new TopicPartition(repartition, 0);
            Set<TopicPartition> one = Collections.singleton(partition);
            Mismatch.eventually(20, "deletion of repartitioned records", () -> consumer.beginningOffsets(one).get(partition) > 0);
        }
        return "changelog compacted, repartition topic purged";
    }

    /** Ends the application while lines are on their way, and takes its local state away. */
    private String restartInTheMiddle() throws Exception {
        write(LINES / 2, LINES * 3 / 4);
        Jvm.stop(application);
        write(LINES * 3 / 4, LINES);
        start("state-2");
        return counted();
    }

    /** One more line: its counts build on those of both lives. */
    private String restoredCounts() throws Exception {
        write(LINES, LINES + 100);
        String counted = counted();
        Jvm.stop(application);
        return counted;
    }

    private String name() {
        return client.name("word-count");
    }

    private void start(String state) throws IOException {
        List<String> arguments = Arrays.asList(
                "--bootstrap", bootstrap, "--application", name(), "--state", folder.resolve(state).toString(), "--from", from, "--to", to);
        application = Jvm.start("WordCount", arguments, "error", ProcessBuilder.Redirect.DISCARD);
    }

    private void write(int first, int end) {
        try (Producer<String, String> producer = client.producer()) {
            for (int number = first; number < end; number++) {
                // Few words are frequent, many are rare.
                String[] words = {"word-" + number % 7, "word-" + number % 101, "word-" + (number * 7_919) % 1_009, "all"};
                for (String word : words) {
                    expected.merge(word, 1L, Long::sum);
                }
                producer.send(new ProducerRecord<>(from, number % PARTITIONS, null, String.join(" ", words)));
            }
            producer.flush();
        }
    }

    /** Waits until the last count of each word is the expected one. */
    private String counted() throws Exception {
        Map<String, Long> counts = new HashMap<>();
        try (Consumer<String, Long> consumer = client.consumer(new LongDeserializer())) {
            List<TopicPartition> all = new ArrayList<>();
            for (int partition = 0; partition < PARTITIONS; partition++) {
                all.add(new TopicPartition(to, partition));
            }
            consumer.assign(all);
            consumer.seekToBeginning(all);
            try {
                Mismatch.eventually(60, "the counts", () -> {
                    Mismatch.expect(application.isAlive(), "the application ended by itself");
                    for (ConsumerRecord<String, Long> record : consumer.poll(Duration.ofMillis(100))) {
                        counts.put(record.key(), record.value());
                    }
                    return counts.equals(expected);
                });
            } catch (Mismatch late) {
                throw new Mismatch(late.getMessage() + ": " + difference(counts));
            }
        }
        long words = expected.values().stream().mapToLong(Long::longValue).sum();
        return words + " words, " + expected.size() + " counts equal";
    }

    private String difference(Map<String, Long> counts) {
        for (Map.Entry<String, Long> count : expected.entrySet()) {
            if (!count.getValue().equals(counts.get(count.getKey()))) {
                return count.getKey() + " expected " + count.getValue() + ", came " + counts.get(count.getKey());
            }
        }
        return "words that were never written";
    }

    private void cleanUp() {
        if (application != null) {
            application.destroyForcibly();
            try {
                application.waitFor();
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }
        try (Stream<Path> files = Files.walk(folder)) {
            for (Path file : (Iterable<Path>) files.sorted(Comparator.reverseOrder())::iterator) {
                Files.delete(file);
            }
        } catch (IOException error) {
            System.err.println("left behind: " + folder + ": " + error);
        }
    }
}
