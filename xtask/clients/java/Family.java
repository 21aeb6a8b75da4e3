import java.util.Arrays;
import java.util.Map;

/**
 * The Java client as a family (xtask/src/clients/family.rs says what that is): runs each check, prints a line for each.
 * One source for all versions of the client; what a version lacks is called by its name, at run time.
 */
public final class Family {
    /** `--bootstrap HOST:PORT --prefix P --records N [--protocol classic|consumer]`; `--member` is a member that gets killed. */
    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = Checks.options(arguments);
        Client client = new Client(options);
        if (options.containsKey("member")) {
            MemberCrash.member(client, options.get("topic"), options.get("group"));
            return;
        }
        Records.proveComparison();
        Checks checks = new Checks();
        checks.add("create-topic", () -> AdminRoundTrip.createTopic(client));
        Records records = new Records(Integer.parseInt(options.get("records")));
        for (String codec : Arrays.asList("none", "gzip", "snappy", "lz4", "zstd")) {
            checks.add("codec-" + codec, () -> Codecs.run(client, codec, records));
        }
        checks.add("group-of-three", () -> Groups.three(client));
        checks.add("member-crash", () -> MemberCrash.run(client));
        checks.add("static-rejoin", () -> Groups.staticRejoin(client));
        checks.add("seek-offset", () -> Positions.seekToOffset(client));
        checks.add("seek-time", () -> Positions.seekToTime(client));
        checks.add("pause-resume", () -> Positions.pauseAndResume(client));
        checks.add("commit-sync", () -> Positions.commit(client, true));
        checks.add("commit-async", () -> Positions.commit(client, false));
        checks.add("admin", () -> AdminRoundTrip.run(client));
        checks.add("restart", () -> Restart.run(client));
        checks.run(options);
    }
}
