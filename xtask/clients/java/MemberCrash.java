import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * A member disappears without a word: a process of its own, ended with SIGKILL. The group rebalances cooperatively: the
 * survivor keeps what it has.
 */
final class MemberCrash {
    static String run(Client client) throws Exception {
        String topic = client.topic("member-crash", 4);
        String group = client.name("crash");
        Member survivor = new Member(client, group, topic, cooperative(client));
        Process doomed = start(client, topic, group);
        try {
            BufferedReader output = new BufferedReader(new InputStreamReader(doomed.getInputStream()));
            // It says what it holds after each change.
            Mismatch.eventually(40, "two partitions for each", () -> {
                while (output.ready()) {
                    String line = output.readLine();
                    if (line.startsWith("FAILED")) {
                        throw new Mismatch("the other member " + line);
                    }
                    if (line.startsWith("holds 2") && survivor.held().size() == 2) {
                        return true;
                    }
                }
                Mismatch.expect(doomed.isAlive(), "the other member ended by itself");
                return false;
            });
        } finally {
            doomed.destroyForcibly().waitFor();
        }
        int revocations = survivor.revocations.get();
        long killed = System.nanoTime();
        Mismatch.eventually(30, "partitions of the dead member", () -> survivor.held().size() == 4);
        double seconds = (System.nanoTime() - killed) / 1e9;
        Mismatch.expectEqual(revocations, survivor.revocations.get(), "revocations");
        Mismatch.expect(seconds > 3.0, "its partitions were taken over after " + seconds + " s, before its session ended");
        Mismatch.expect(seconds < 20.0, "its partitions were taken over only after " + seconds + " s");
        Records.fill(client, topic, 4, 100, System.currentTimeMillis());
        Mismatch.eventually(20, "records of all partitions", () -> survivor.records.size() == 4 * 100);
        survivor.close();
        return String.format("taken over after %.1f s", seconds);
    }

    /** The other process: a member that says what it holds, until it is killed or its parent is gone. */
    static void member(Client client, String topic, String group) throws Exception {
        Member member = new Member(client, group, topic, cooperative(client));
        int last = -1;
        while (System.in.available() == 0) {
            int held;
            try {
                held = member.held().size();
            } catch (Mismatch failed) {
                System.out.println("FAILED " + failed.getMessage());
                return;
            }
            if (held == 2 || held != last) {
                System.out.println("holds " + held);
            }
            last = held;
            Thread.sleep(100);
            if (System.out.checkError()) {
                return;
            }
        }
    }

    private static String[] cooperative(Client client) {
        String assignor = "org.apache.kafka.clients.consumer.CooperativeStickyAssignor";
        return client.consumerProtocol() ? new String[0] : new String[] {"partition.assignment.strategy", assignor};
    }

    private static Process start(Client client, String topic, String group) throws Exception {
        List<String> arguments = new ArrayList<>(Arrays.asList(client.optionsForAnother()));
        arguments.addAll(Arrays.asList("--member", "yes", "--topic", topic, "--group", group));
        return Jvm.start("Family", arguments, "error", ProcessBuilder.Redirect.PIPE);
    }
}
