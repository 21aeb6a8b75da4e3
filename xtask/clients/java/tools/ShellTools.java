import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;

import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's shell tools one after the other in one JVM, which saves a start for each. A tool's exit is what it would have
 * been: the first call of Kafka's Exit decides, and nothing that the tool writes after it counts.
 *
 * A request is a line: seconds, main class, standard input and arguments, with U+001F between them and U+001E for line ends in
 * them. The answer is a line with exit status and the lengths of both outputs, and then those.
 */
public class ShellTools {
    private static final class Exited extends Error {
        private Exited() {
            super("the tool has ended", null, false, false);
        }
    }

    private static final class Run {
        private final ByteArrayOutputStream out = new ByteArrayOutputStream();
        private final ByteArrayOutputStream err = new ByteArrayOutputStream();
        private final List<Runnable> hooks = new CopyOnWriteArrayList<>();
        private Integer status;
        private int outLength;
        private int errLength;

        private synchronized void end(int code) {
            if (status == null) {
                System.out.flush();
                System.err.flush();
                status = code;
                outLength = out.size();
                errLength = err.size();
            }
        }

        private synchronized boolean ended() {
            return status != null;
        }
    }

    public static void main(String[] unused) throws Exception {
        PrintStream answers = System.out;
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        String line;
        while ((line = requests.readLine()) != null) {
            String[] fields = line.replace('\u001e', '\n').split("\u001f", -1);
            Run run = run(Integer.parseInt(fields[0]), fields[1], fields[2], Arrays.copyOfRange(fields, 3, fields.length));
            answers.println(run.status + " " + run.outLength + " " + run.errLength);
            answers.write(run.out.toByteArray(), 0, run.outLength);
            answers.write(run.err.toByteArray(), 0, run.errLength);
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    private static Run run(int seconds, String tool, String input, String[] arguments) throws Exception {
        Run run = new Run();
        Exit.Procedure leave = (code, message) -> {
            run.end(code);
            throw new Exited();
        };
        Exit.setExitProcedure(leave);
        Exit.setHaltProcedure(leave);
        Exit.setShutdownHookAdder((name, hook) -> run.hooks.add(hook));
        System.setOut(new PrintStream(run.out, true, StandardCharsets.UTF_8));
        System.setErr(new PrintStream(run.err, true, StandardCharsets.UTF_8));
        System.setIn(new ByteArrayInputStream(input.getBytes(StandardCharsets.UTF_8)));
        Thread thread = new Thread(() -> call(run, tool, arguments), tool);
        thread.setDaemon(true);
        thread.start();
        long end = System.nanoTime() + seconds * 1_000_000_000L;
        while (thread.isAlive() && !run.ended() && System.nanoTime() < end) {
            thread.join(20);
        }
        // One that has said its exit gets a moment to close what it opened.
        thread.join(run.ended() ? 1_000 : 1);
        if (!run.ended()) {
            run.end(124);
        }
        for (Runnable hook : new ArrayList<>(run.hooks)) {
            Thread ending = new Thread(hook);
            ending.setDaemon(true);
            ending.start();
            ending.join(2_000);
        }
        return run;
    }

    private static void call(Run run, String tool, String[] arguments) {
        try {
            Method main = Class.forName(tool).getMethod("main", String[].class);
            main.invoke(null, (Object) arguments);
            run.end(0);
        } catch (InvocationTargetException error) {
            if (!(error.getCause() instanceof Exited)) {
                error.getCause().printStackTrace();
            }
            run.end(1);
        } catch (ReflectiveOperationException error) {
            error.printStackTrace();
            run.end(127);
        }
    }
}
