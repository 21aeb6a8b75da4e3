import java.util.Map;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.common.Metric;
import org.apache.kafka.common.MetricName;

/** Keyed records through one codec: produced, consumed, compared by content. */
final class Codecs {
    private static final int PARTITIONS = 3;

    static String run(Client client, String codec, Records records) throws Exception {
        String topic = client.topic("codec-" + codec, PARTITIONS);
        double ratio;
        try (Producer<String, String> producer = client.producer("compression.type", codec, "batch.size", "65536")) {
            records.produce(producer, topic);
            ratio = compressionRatio(producer);
        }
        // The client falls back to no codec where a broker lacks what the codec needs.
        boolean right = codec.equals("none") ? ratio > 0.99 : ratio > 0 && ratio < 0.9;
        Mismatch.expect(right, "batches were compressed to " + ratio + " of their size");
        try (Consumer<String, String> consumer = client.consumer()) {
            records.compare(Records.readAll(consumer, topic, PARTITIONS));
        }
        return records.count() + " records equal, in order";
    }

    private static double compressionRatio(Producer<String, String> producer) {
        for (Map.Entry<MetricName, ? extends Metric> metric : producer.metrics().entrySet()) {
            if (metric.getKey().name().equals("compression-rate-avg") && metric.getKey().group().equals("producer-metrics")) {
                return (Double) metric.getValue().metricValue();
            }
        }
        throw new Mismatch("no metric compression-rate-avg");
    }
}
