import java.io.IOException;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** Another process with the class path of this one. */
final class Jvm {
    static Process start(String main, List<String> arguments, String logLevel, ProcessBuilder.Redirect output) throws IOException {
        List<String> command = new ArrayList<>();
        command.add(Paths.get(System.getProperty("java.home"), "bin", "java").toString());
        command.addAll(Arrays.asList("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx384m"));
        command.addAll(Arrays.asList("-Dorg.slf4j.simpleLogger.defaultLogLevel=" + logLevel));
        command.addAll(Arrays.asList("-cp", System.getProperty("java.class.path"), main));
        command.addAll(arguments);
        return new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).redirectOutput(output).start();
    }

    /** SIGTERM, and a clean end. */
    static void stop(Process process) throws Exception {
        process.destroy();
        if (!process.waitFor(30, TimeUnit.SECONDS)) {
            process.destroyForcibly().waitFor();
            throw new Mismatch("a process did not end within 30 s of SIGTERM");
        }
    }
}
