import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;

/** Groups whose members come and go. */
final class Groups {
    static String three(Client client) throws Exception {
        String topic = client.topic("group-of-three", 6);
        String group = client.name("three");
        List<Member> members = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            members.add(new Member(client, group, topic));
        }
        String before = shared(members, 6);
        Records.fill(client, topic, 6, 500, System.currentTimeMillis());
        Mismatch.eventually(30, "records of all three", () -> seen(members) == 6 * 500);
        for (Member member : members) {
            Mismatch.expect(!member.records.isEmpty(), "a member with partitions saw no record");
        }
        members.remove(0).close();
        String after = shared(members, 6);
        readOn(client, topic, members, 500);
        members.add(new Member(client, group, topic));
        shared(members, 6);
        readOn(client, topic, members, 600);
        for (Member member : members) {
            member.close();
        }
        return before + ", then " + after;
    }

    /** What is written after a change of members reaches those that are there: 100 records per partition, from `first` on. */
    private static void readOn(Client client, String topic, List<Member> members, int first) throws Exception {
        Records.fill(client, topic, 6, first, 100, System.currentTimeMillis());
        Set<String> expected = new TreeSet<>();
        for (int number = first; number < first + 100; number++) {
            for (int partition = 0; partition < 6; partition++) {
                expected.add(partition + "/" + number);
            }
        }
        Mismatch.eventually(30, "records " + first + " and on after a change of members", () -> {
            Set<String> all = new TreeSet<>();
            for (Member member : members) {
                member.held();
                all.addAll(member.records);
            }
            return all.containsAll(expected);
        });
    }

    /** A static member that comes back within its session keeps its partitions; nobody else is disturbed. */
    static String staticRejoin(Client client) throws Exception {
        String topic = client.topic("static-rejoin", 4);
        String group = client.name("static");
        String[] instances = {"one", "two"};
        List<Member> members = new ArrayList<>();
        for (String instance : instances) {
            members.add(new Member(client, group, topic, "group.instance.id", instance));
        }
        String before = shared(members, 4);
        // Each in turn: one of them is the leader of a classic group.
        for (int i = 0; i < 2; i++) {
            Member other = members.get(1 - i);
            Set<Integer> kept = members.get(i).held();
            int changes = other.changes.get();
            members.get(i).close();
            Thread.sleep(500);
            Member again = new Member(client, group, topic, "group.instance.id", instances[i]);
            members.set(i, again);
            Mismatch.eventually(20, "partitions of " + instances[i] + " again", () -> !again.held().isEmpty());
            // Long enough for a heartbeat to bring a rebalance to the other.
            Thread.sleep(1_500);
            Mismatch.expectEqual(kept, again.held(), "partitions of " + instances[i] + " after it came back");
            Mismatch.expectEqual(changes, other.changes.get(), "changes that the other member saw");
        }
        String after = shared(members, 4);
        for (Member member : members) {
            member.close();
        }
        Mismatch.expectEqual(before, after, "assignment");
        return after;
    }

    /** Waits until each member has an equal share and all partitions are taken once. */
    static String shared(List<Member> members, int partitions) throws Exception {
        List<Set<Integer>> shares = new ArrayList<>();
        try {
            Mismatch.eventually(40, "an even assignment", () -> {
                shares.clear();
                Set<Integer> all = new TreeSet<>();
                boolean even = true;
                for (Member member : members) {
                    Set<Integer> held = member.held();
                    shares.add(held);
                    all.addAll(held);
                    even &= held.size() == partitions / members.size();
                }
                return even && all.size() == partitions;
            });
        } catch (Mismatch late) {
            throw new Mismatch(late.getMessage() + ", last seen " + Arrays.toString(shares.toArray()));
        }
        return shares.toString();
    }

    private static int seen(List<Member> members) {
        Set<String> all = new TreeSet<>();
        members.forEach(member -> all.addAll(member.records));
        return all.size();
    }
}
