import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Producers, consumers and admin clients of this run, with the settings that all checks share. */
final class Client {
    /** The shortest that brokers allow by default. */
    static final int SESSION_TIMEOUT_MS = 6_000;

    private final Map<String, String> options;
    final Admin admin;

    Client(Map<String, String> options) {
        this.options = options;
        this.admin = Admin.create(common());
    }

    /** The name of a topic or group of this run. */
    String name(String what) {
        return options.get("prefix") + "-" + what;
    }

    boolean consumerProtocol() {
        return "consumer".equals(options.get("protocol"));
    }

    /** The options that another process needs to be a client of this run. */
    String[] optionsForAnother() {
        return new String[] {"--bootstrap", options.get("bootstrap"), "--protocol", options.getOrDefault("protocol", "classic")};
    }

    Producer<String, String> producer(String... more) {
        Map<String, Object> config = common();
        config.put("acks", "all");
        config.put("enable.idempotence", true);
        config.put("linger.ms", 5);
        config.put("key.serializer", StringSerializer.class.getName());
        config.put("value.serializer", StringSerializer.class.getName());
        return new KafkaProducer<>(with(config, more));
    }

    /** A consumer without a group. */
    Consumer<String, String> consumer(String... more) {
        Map<String, Object> config = common();
        config.put("key.deserializer", StringDeserializer.class.getName());
        config.put("value.deserializer", StringDeserializer.class.getName());
        config.put("auto.offset.reset", "earliest");
        config.put("enable.auto.commit", false);
        return new KafkaConsumer<>(with(config, more));
    }

    /** The same with values of another type. */
    <V> Consumer<String, V> consumer(Deserializer<V> values) {
        Map<String, Object> config = common();
        config.put("enable.auto.commit", false);
        return new KafkaConsumer<>(config, new StringDeserializer(), values);
    }

    /** A member of a group. In the consumer protocol the broker sets the timeouts. */
    Consumer<String, String> member(String group, String... more) {
        Map<String, Object> config = new HashMap<>();
        config.put("group.id", group);
        if (consumerProtocol()) {
            config.put("group.protocol", "consumer");
        } else {
            config.put("session.timeout.ms", SESSION_TIMEOUT_MS);
            config.put("heartbeat.interval.ms", 500);
        }
        with(config, more);
        String[] all = new String[2 * config.size()];
        int at = 0;
        for (Map.Entry<String, Object> entry : config.entrySet()) {
            all[at++] = entry.getKey();
            all[at++] = entry.getValue().toString();
        }
        return consumer(all);
    }

    /** Creates a topic of this run and gives its name once the broker knows it. */
    String topic(String what, int partitions) throws Exception {
        String topic = name(what);
        NewTopic created = new NewTopic(topic, partitions, (short) 1);
        get(admin.createTopics(Collections.singleton(created)).all());
        Mismatch.eventually(15, "leaders of " + topic, () -> {
            TopicDescription description = describe(topic);
            return description != null
                    && description.partitions().size() == partitions
                    && description.partitions().stream().allMatch(p -> p.leader() != null && !p.leader().isEmpty());
        });
        return topic;
    }

    /** Null when there is no such topic. */
    @SuppressWarnings("unchecked")
    TopicDescription describe(String topic) throws Exception {
        Object result = admin.describeTopics(Collections.singleton(topic));
        // allTopicNames since 3.1; all until 3.9.
        Object future = call(result, has(result, "allTopicNames") ? "allTopicNames" : "all");
        try {
            return get((KafkaFuture<Map<String, TopicDescription>>) future).get(topic);
        } catch (ExecutionException error) {
            if (error.getCause() instanceof UnknownTopicOrPartitionException) {
                return null;
            }
            throw error;
        }
    }

    Set<String> topics() throws Exception {
        return get(admin.listTopics().names());
    }

    static <T> T get(KafkaFuture<T> future) throws Exception {
        return future.get(30, TimeUnit.SECONDS);
    }

    static boolean has(Object object, String method) {
        for (java.lang.reflect.Method candidate : object.getClass().getMethods()) {
            if (candidate.getName().equals(method) && candidate.getParameterCount() == 0) {
                return true;
            }
        }
        return false;
    }

    static Object call(Object object, String method) throws Exception {
        return object.getClass().getMethod(method).invoke(object);
    }

    private Map<String, Object> common() {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", options.get("bootstrap"));
        return config;
    }

    private static Map<String, Object> with(Map<String, Object> config, String... more) {
        for (int i = 0; i < more.length; i += 2) {
            config.put(more[i], more[i + 1]);
        }
        return config;
    }
}
