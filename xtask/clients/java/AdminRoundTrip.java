import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.TopicExistsException;

/** What the admin client can do with a topic, from its creation to its end. */
final class AdminRoundTrip {
    static String createTopic(Client client) throws Exception {
        String topic = client.topic("created", 3);
        Mismatch.expectEqual(3, client.describe(topic).partitions().size(), "partitions");
        Mismatch.expect(client.topics().contains(topic), "the topic is not in the list");
        NewTopic again = new NewTopic(topic, 3, (short) 1);
        refused(TopicExistsException.class, () -> Client.get(client.admin.createTopics(Collections.singleton(again)).all()));
        return "3 partitions, refused a second time";
    }

    static String run(Client client) throws Exception {
        Admin admin = client.admin;
        Mismatch.expectEqual(1, Client.get(admin.describeCluster().nodes()).size(), "brokers");
        String topic = client.topic("admin", 3);
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        configs(admin, resource);

        TopicPartition first = new TopicPartition(topic, 0);
        Records.fill(client, topic, 1, 100, System.currentTimeMillis());
        Mismatch.expectEqual(0L, offset(admin, first, OffsetSpec.earliest()), "earliest offset");
        Mismatch.expectEqual(100L, offset(admin, first, OffsetSpec.latest()), "latest offset");

        Client.get(admin.createPartitions(Collections.singletonMap(topic, NewPartitions.increaseTo(5))).all());
        Mismatch.eventually(15, "five partitions", () -> client.describe(topic).partitions().size() == 5);

        long low = Client.get(
                        admin.deleteRecords(Collections.singletonMap(first, RecordsToDelete.beforeOffset(40))).lowWatermarks().get(first))
                .lowWatermark();
        Mismatch.expectEqual(40L, low, "low watermark");
        Mismatch.expectEqual(40L, offset(admin, first, OffsetSpec.earliest()), "earliest offset after deletion");
        try (Consumer<String, String> consumer = client.consumer()) {
            Mismatch.expectEqual(60, Records.readAll(consumer, topic, 1).size(), "records left");
        }

        Client.get(admin.deleteTopics(Collections.singleton(topic)).all());
        Mismatch.eventually(15, "the end of the topic", () -> client.describe(topic) == null);
        Mismatch.expect(!client.topics().contains(topic), "a deleted topic is in the list");
        return "configs, offsets, partitions, records, deletion";
    }

    private static void configs(Admin admin, ConfigResource resource) throws Exception {
        alter(admin, resource, set("retention.ms", "7200000"), set("max.message.bytes", "2000000"));
        expectConfig(admin, resource, "retention.ms", "7200000", ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG);
        expectConfig(admin, resource, "max.message.bytes", "2000000", ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG);
        alter(
                admin,
                resource,
                new AlterConfigOp(new ConfigEntry("retention.ms", ""), AlterConfigOp.OpType.DELETE),
                new AlterConfigOp(new ConfigEntry("cleanup.policy", "compact"), AlterConfigOp.OpType.APPEND));
        expectConfig(admin, resource, "retention.ms", "604800000", ConfigEntry.ConfigSource.DEFAULT_CONFIG);
        expectConfig(admin, resource, "cleanup.policy", "delete,compact", ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG);
        alter(admin, resource, new AlterConfigOp(new ConfigEntry("cleanup.policy", "compact"), AlterConfigOp.OpType.SUBTRACT));
        expectConfig(admin, resource, "cleanup.policy", "delete", ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG);
        refused(InvalidConfigurationException.class, () -> alter(admin, resource, set("retention.ms", "soon")));
    }

    private static AlterConfigOp set(String name, String value) {
        return new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET);
    }

    private static void alter(Admin admin, ConfigResource resource, AlterConfigOp... operations) throws Exception {
        Map<ConfigResource, Collection<AlterConfigOp>> all = Collections.singletonMap(resource, Arrays.asList(operations));
        Client.get(admin.incrementalAlterConfigs(all).all());
    }

    private static void expectConfig(
            Admin admin, ConfigResource resource, String name, String value, ConfigEntry.ConfigSource source) throws Exception {
        List<ConfigResource> one = Collections.singletonList(resource);
        Mismatch.eventually(15, name + " = " + value + " from " + source, () -> {
            Config config = Client.get(admin.describeConfigs(one).all()).get(resource);
            ConfigEntry entry = config.get(name);
            return entry != null && entry.value().equals(value) && entry.source() == source;
        });
    }

    private static long offset(Admin admin, TopicPartition partition, OffsetSpec spec) throws Exception {
        return Client.get(admin.listOffsets(Collections.singletonMap(partition, spec)).partitionResult(partition)).offset();
    }

    private interface Call {
        void run() throws Exception;
    }

    private static void refused(Class<? extends Exception> expected, Call call) throws Exception {
        try {
            call.run();
        } catch (ExecutionException error) {
            Mismatch.expectEqual(expected, error.getCause().getClass(), "refusal");
            return;
        }
        throw new Mismatch("expected " + expected.getSimpleName() + ", it was accepted");
    }
}
