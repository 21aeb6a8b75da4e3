import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ExecutionException;

/**
 * The Java client as a family (xtask/src/clients/family.rs says what that is): runs each check, prints a line for each.
 * One source for all versions of the client; what a version lacks is called by its name, at run time.
 */
public final class Family {
    interface Check {
        /** What there is to say; throws when something is not as it should be. */
        String run() throws Exception;
    }

    /** `--bootstrap HOST:PORT --prefix P --records N [--protocol classic|consumer]`; `--member` is a member that gets killed. */
    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = options(arguments);
        Client client = new Client(options);
        if (options.containsKey("member")) {
            MemberCrash.member(client, options.get("topic"), options.get("group"));
            return;
        }
        Map<String, Check> checks = new LinkedHashMap<>();
        checks.put("create-topic", () -> AdminRoundTrip.createTopic(client));
        Records records = new Records(Integer.parseInt(options.get("records")));
        for (String codec : Arrays.asList("none", "gzip", "snappy", "lz4", "zstd")) {
            checks.put("codec-" + codec, () -> Codecs.run(client, codec, records));
        }
        checks.put("group-of-three", () -> Groups.three(client));
        checks.put("member-crash", () -> MemberCrash.run(client));
        checks.put("static-rejoin", () -> Groups.staticRejoin(client));
        checks.put("seek-offset", () -> Positions.seekToOffset(client));
        checks.put("seek-time", () -> Positions.seekToTime(client));
        checks.put("pause-resume", () -> Positions.pauseAndResume(client));
        checks.put("commit-sync", () -> Positions.commit(client, true));
        checks.put("commit-async", () -> Positions.commit(client, false));
        checks.put("admin", () -> AdminRoundTrip.run(client));
        checks.put("restart", () -> Restart.run(client));
        for (Map.Entry<String, Check> check : checks.entrySet()) {
            if (options.getOrDefault("only", check.getKey()).equals(check.getKey())) {
                System.out.println("check " + check.getKey() + " " + outcome(check.getValue()));
            }
        }
        // Clients of failed checks may have left threads.
        System.exit(0);
    }

    private static String outcome(Check check) {
        try {
            return "ok " + check.run();
        } catch (Throwable thrown) {
            thrown.printStackTrace();
            Throwable cause = thrown instanceof ExecutionException ? thrown.getCause() : thrown;
            String text = cause instanceof Mismatch ? cause.getMessage() : cause.toString();
            return "FAILED " + text.replace('\n', ' ');
        }
    }

    private static Map<String, String> options(String[] arguments) {
        Map<String, String> options = new HashMap<>();
        for (int i = 0; i + 1 < arguments.length; i += 2) {
            options.put(arguments[i].substring("--".length()), arguments[i + 1]);
        }
        return options;
    }
}
