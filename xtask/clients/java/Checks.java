import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ExecutionException;

/** The checks of a program, in order, and the line that each prints. */
final class Checks {
    interface Check {
        /** What there is to say; throws when something is not as it should be. */
        String run() throws Exception;
    }

    private final Map<String, Check> checks = new LinkedHashMap<>();

    void add(String name, Check check) {
        checks.put(name, check);
    }

    /** Runs them all, or the one that `--only` names, and ends this process. */
    void run(Map<String, String> options) {
        checks.forEach((name, check) -> {
            if (options.getOrDefault("only", name).equals(name)) {
                System.out.println("check " + name + " " + outcome(check));
            }
        });
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

    /** `--name value` pairs. */
    static Map<String, String> options(String[] arguments) {
        Map<String, String> options = new HashMap<>();
        for (int i = 0; i + 1 < arguments.length; i += 2) {
            options.put(arguments[i].substring("--".length()), arguments[i + 1]);
        }
        return options;
    }
}
