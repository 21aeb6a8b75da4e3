import java.io.IOException;
import java.net.ServerSocket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.config.ConfigResource;

/** Kafka Connect, one distributed worker: a file goes line by line through a topic into another file. */
public final class ConnectApp {
    private static final int LINES = 10_000;
    private final Client client;
    private final String bootstrap;
    private final Path folder = Files.createTempDirectory(Path.of("/var/tmp"), "seawall-connect-");
    private final Path source = folder.resolve("in.txt");
    private final Path sink = folder.resolve("out.txt");
    private final int port;
    private final HttpClient http = HttpClient.newHttpClient();
    private Process worker;

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = Checks.options(arguments);
        ConnectApp app = new ConnectApp(new Client(options), options.get("bootstrap"));
        Runtime.getRuntime().addShutdownHook(new Thread(app::cleanUp));
        Checks checks = new Checks();
        checks.add("start-worker", app::startWorker);
        checks.add("create-connectors", app::createConnectors);
        checks.add("half-the-lines", app::halfTheLines);
        checks.add("restart-worker", app::restartWorker);
        checks.add("all-lines", app::allLines);
        checks.add("pause-resume", app::pauseAndResume);
        checks.add("delete-connectors", app::deleteConnectors);
        checks.run(options);
    }

    private ConnectApp(Client client, String bootstrap) throws IOException {
        this.client = client;
        this.bootstrap = bootstrap;
        try (ServerSocket socket = new ServerSocket(0)) {
            port = socket.getLocalPort();
        }
    }

    private String startWorker() throws Exception {
        List<String> config = new ArrayList<>();
        config.add("bootstrap.servers=" + bootstrap);
        config.add("group.id=" + client.name("workers"));
        config.add("listeners=http://127.0.0.1:" + port);
        config.add("key.converter=org.apache.kafka.connect.storage.StringConverter");
        config.add("value.converter=org.apache.kafka.connect.storage.StringConverter");
        config.add("plugin.discovery=service_load");
        for (String what : internalTopics()) {
            config.add(what + ".storage.topic=" + client.name("connect-" + what));
            config.add(what + ".storage.replication.factor=1");
        }
        // Sessions as short as brokers allow, so that a restart does not wait.
        config.add("session.timeout.ms=6000");
        config.add("heartbeat.interval.ms=500");
        config.add("scheduled.rebalance.max.delay.ms=1000");
        config.add("offset.flush.interval.ms=1000");
        Files.write(folder.resolve("worker.properties"), config);
        Files.createFile(source);
        start();
        for (String what : internalTopics()) {
            String topic = client.name("connect-" + what);
            ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            String policy = Client.get(client.admin.describeConfigs(Collections.singleton(resource)).all())
                    .get(resource).get("cleanup.policy").value();
            Mismatch.expectEqual("compact", policy, "cleanup.policy of " + topic);
        }
        return "its three topics are compacted ones";
    }

    private String createConnectors() throws Exception {
        String topic = client.name("lines");
        create("source", "org.apache.kafka.connect.file.FileStreamSourceConnector", source, "topic", topic);
        create("sink", "org.apache.kafka.connect.file.FileStreamSinkConnector", sink, "topics", topic);
        running();
        return "both run";
    }

    private String halfTheLines() throws Exception {
        write(0, LINES / 2);
        return arrived(LINES / 2);
    }

    /** Ends the worker while lines are on their way. */
    private String restartWorker() throws Exception {
        write(LINES / 2, LINES * 3 / 4);
        Jvm.stop(worker);
        write(LINES * 3 / 4, LINES);
        start();
        running();
        return arrived(LINES);
    }

    private String allLines() throws Exception {
        try (Consumer<String, String> consumer = client.consumer()) {
            int number = 0;
            for (ConsumerRecord<String, String> record : Records.readAll(consumer, client.name("lines"), 1)) {
                Mismatch.expectEqual(line(number++), record.value(), "record at offset " + record.offset());
            }
            Mismatch.expectEqual(LINES, number, "records in the topic");
        }
        return arrived(LINES) + ", topic and file equal";
    }

    private String pauseAndResume() throws Exception {
        call("PUT", "/connectors/sink/pause", "");
        state("sink", "PAUSED");
        Files.writeString(source, "while paused\n", StandardOpenOption.APPEND);
        Thread.sleep(1_000);
        Mismatch.expectEqual(LINES, Files.readAllLines(sink).size(), "lines while paused");
        call("PUT", "/connectors/sink/resume", "");
        state("sink", "RUNNING");
        Mismatch.eventually(30, "the line written while paused", () -> Files.readAllLines(sink).size() > LINES);
        List<String> lines = Files.readAllLines(sink);
        Mismatch.expectEqual(List.of("while paused"), lines.subList(LINES, lines.size()), "lines after the pause");
        return "nothing while paused, all after it";
    }

    private String deleteConnectors() throws Exception {
        call("DELETE", "/connectors/source", "");
        call("DELETE", "/connectors/sink", "");
        Mismatch.eventually(30, "no connectors", () -> call("GET", "/connectors", "").equals("[]"));
        Jvm.stop(worker);
        return "none left";
    }

    private static String[] internalTopics() {
        return new String[] {"config", "offset", "status"};
    }

    private void start() throws Exception {
        List<String> arguments = Collections.singletonList(folder.resolve("worker.properties").toString());
        worker = Jvm.start("org.apache.kafka.connect.cli.ConnectDistributed", arguments, "error", ProcessBuilder.Redirect.DISCARD);
        Mismatch.eventually(60, "answers of the worker", () -> {
            Mismatch.expect(worker.isAlive(), "the worker ended by itself");
            try {
                call("GET", "/connectors", "");
                return true;
            } catch (IOException | Mismatch notYet) {
                return false;
            }
        });
    }

    private void create(String name, String type, Path file, String topicKey, String topic) throws Exception {
        String config = String.format(
                "{\"name\":\"%s\",\"config\":{\"connector.class\":\"%s\",\"tasks.max\":\"1\",\"file\":\"%s\",\"%s\":\"%s\"}}",
                name, type, file, topicKey, topic);
        // While the worker's group rebalances it answers with a conflict.
        Mismatch.eventually(30, "connector " + name, () -> {
            try {
                call("POST", "/connectors", config);
                return true;
            } catch (Mismatch refused) {
                if (refused.getMessage().contains("409")) {
                    return false;
                }
                throw refused;
            }
        });
    }

    private void running() throws Exception {
        state("source", "RUNNING");
        state("sink", "RUNNING");
    }

    /** Waits until the connector and its task are in this state. */
    private void state(String connector, String state) throws Exception {
        Mismatch.eventually(60, connector + " " + state, () -> {
            String status;
            try {
                status = call("GET", "/connectors/" + connector + "/status", "");
            } catch (Mismatch notYet) {
                return false;
            }
            Mismatch.expect(!status.contains("FAILED"), status);
            String wanted = "\"state\":\"" + state + "\"";
            return status.indexOf(wanted) != status.lastIndexOf(wanted);
        });
    }

    private String call(String method, String path, String body) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + port + path))
                .timeout(Duration.ofSeconds(20))
                .header("Content-Type", "application/json")
                .method(method, HttpRequest.BodyPublishers.ofString(body))
                .build();
        HttpResponse<String> response = http.send(request, HttpResponse.BodyHandlers.ofString());
        Mismatch.expect(response.statusCode() / 100 == 2, method + " " + path + ": " + response.statusCode() + " " + response.body());
        return response.body();
    }

    private void write(int from, int end) throws IOException {
        StringBuilder text = new StringBuilder();
        for (int number = from; number < end; number++) {
            text.append(line(number)).append('\n');
        }
        Files.writeString(source, text, StandardOpenOption.APPEND);
    }

    private static String line(int number) {
        return "line " + number + " " + Long.toHexString(number * 0x9E37_79B9_7F4A_7C15L);
    }

    private String arrived(int count) throws Exception {
        Mismatch.eventually(40, count + " lines", () -> Files.exists(sink) && Files.readAllLines(sink).size() >= count);
        List<String> lines = Files.readAllLines(sink);
        Mismatch.expectEqual(count, lines.size(), "lines");
        for (int number = 0; number < count; number++) {
            Mismatch.expectEqual(line(number), lines.get(number), "line " + number);
        }
        return count + " lines equal, in order";
    }

    private void cleanUp() {
        if (worker != null) {
            worker.destroyForcibly();
        }
        try (java.util.stream.Stream<Path> files = Files.list(folder)) {
            for (Path file : (Iterable<Path>) files::iterator) {
                Files.delete(file);
            }
            Files.delete(folder);
        } catch (IOException error) {
            System.err.println("left behind: " + folder + ": " + error);
        }
    }
}
