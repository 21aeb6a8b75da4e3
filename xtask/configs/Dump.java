// Prints every config of Apache Kafka's broker, topics, groups and client metrics, one per line, in tab-separated
// fields: scope, name, type, default ("-" is null, "=" comes before a value), valid values, update mode, synonyms
// (name*factor, strongest first), first sentence of the documentation.
// Run by `cargo xtask configs` against Kafka's own jars.

import java.lang.reflect.Field;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;

import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.coordinator.group.GroupConfig;
import org.apache.kafka.server.config.AbstractKafkaConfig;
import org.apache.kafka.server.config.DynamicBrokerConfig;
import org.apache.kafka.server.config.QuotaConfig;
import org.apache.kafka.server.config.ServerTopicConfigSynonyms;
import org.apache.kafka.server.metrics.ClientMetricsConfigs;
import org.apache.kafka.storage.internals.log.LogConfig;

public class Dump {
    private static final Map<String, String> UPDATE_MODES = DynamicBrokerConfig.dynamicConfigUpdateModes();

    public static void main(String[] args) throws Exception {
        dump("broker", AbstractKafkaConfig.CONFIG_DEF);
        dump("broker-quota", QuotaConfig.brokerQuotaConfigs());
        dump("topic", LogConfig.configDefCopy());
        dump("group", GroupConfig.CONFIG_DEF);
        dump("client-metrics", ClientMetricsConfigs.configDef());
    }

    private static void dump(String scope, ConfigDef configs) throws Exception {
        for (ConfigDef.ConfigKey key : new TreeMap<>(configs.configKeys()).values()) {
            if (key.internalConfig) {
                continue;
            }
            String value = key.hasDefault() ? ConfigDef.convertToString(key.defaultValue, key.type) : null;
            System.out.println(String.join("\t", scope, key.name, key.type.toString(), value == null ? "-" : "=" + value,
                valid(key.validator), update(scope, key.name), synonyms(scope, key.name), sentence(key.documentation)));
        }
    }

    private static String valid(ConfigDef.Validator validator) throws Exception {
        if (validator == null) {
            return "any";
        }
        String shown = validator.toString();
        switch (validator.getClass().getSimpleName()) {
            case "Range":
                return "range " + field(validator, "min") + " " + field(validator, "max");
            case "ValidString":
                return "one-of " + words(field(validator, "validStrings"));
            case "CaseInsensitiveValidString":
                return "one-of-any-case " + words(field(validator, "validStrings"));
            case "ValidList":
                String empty = (boolean) field(validator, "isEmptyAllowed") ? "list" : "list-not-empty";
                return (empty + " " + words(field(field(validator, "validString"), "validStrings"))).trim();
            case "NonEmptyString":
            case "NonEmptyStringWithoutControlChars":
                return "not-empty";
            case "ThrottledReplicaListValidator":
                return "throttled-replicas";
            case "NonNullValidator":
            case "ControllerQuorumVotersValidator":
            case "ControllerQuorumBootstrapServersValidator":
                return "any";
            default:
                if (shown.equals("[1,...,9] or -1")) {
                    return "range-or 1 9 -1";
                }
                if (shown.startsWith("[latest, earliest, by_duration:")) {
                    return "offset-reset";
                }
                throw new IllegalStateException("no word for validator " + validator.getClass() + " " + shown);
        }
    }

    private static Object field(Object object, String name) throws Exception {
        Field field = object.getClass().getDeclaredField(name);
        field.setAccessible(true);
        return field.get(object);
    }

    private static String words(Object strings) {
        List<String> words = new ArrayList<>();
        ((Iterable<?>) strings).forEach(word -> words.add(word.toString()));
        return String.join(" ", words);
    }

    private static String update(String scope, String name) {
        switch (scope) {
            case "broker":
                return UPDATE_MODES.getOrDefault(name, "read-only");
            default:
                return "cluster-wide";
        }
    }

    private static String synonyms(String scope, String name) {
        switch (scope) {
            case "broker":
                List<String> names = DynamicBrokerConfig.brokerConfigSynonyms(name, false);
                return names.stream().map(synonym -> synonym + "*" + factor(synonym)).collect(Collectors.joining(" "));
            case "topic":
                var synonyms = ServerTopicConfigSynonyms.ALL_TOPIC_CONFIG_SYNONYMS.getOrDefault(name, List.of());
                return synonyms.stream().map(synonym -> synonym.name() + "*" + synonym.converter().apply("1"))
                    .collect(Collectors.joining(" "));
            case "group":
                return GroupConfig.brokerSynonym(name).map(synonym -> synonym + "*1").orElse("");
            default:
                return "";
        }
    }

    private static long factor(String broker) {
        for (var synonyms : ServerTopicConfigSynonyms.ALL_TOPIC_CONFIG_SYNONYMS.values()) {
            for (var synonym : synonyms) {
                if (synonym.name().equals(broker)) {
                    return Long.parseLong(synonym.converter().apply("1"));
                }
            }
        }
        return 1;
    }

    private static String sentence(String documentation) {
        String text = documentation == null ? "" : documentation;
        text = text.replaceAll("<[^>]*>", " ").replace("&lt;", "<").replace("&gt;", ">").replaceAll("\\s+", " ").trim();
        int end = 0;
        do {
            end = text.indexOf(". ", end + 1);
        } while (end > 3 && (text.startsWith("e.g", end - 3) || text.startsWith("i.e", end - 3)));
        text = (end > 0 ? text.substring(0, end) : text).trim();
        return text.endsWith(".") ? text.substring(0, text.length() - 1) : text;
    }
}
