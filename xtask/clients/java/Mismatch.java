/** What was expected did not come. */
final class Mismatch extends RuntimeException {
    private static final long serialVersionUID = 1;

    Mismatch(String text) {
        super(text);
    }

    static void expect(boolean holds, String text) {
        if (!holds) {
            throw new Mismatch(text);
        }
    }

    static void expectEqual(Object expected, Object came, String what) {
        expect(expected.equals(came), what + ": expected " + expected + ", came " + came);
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    /** Waits, but not for ever. */
    static void eventually(int secondsMax, String what, Condition condition) throws Exception {
        long end = System.nanoTime() + secondsMax * 1_000_000_000L;
        while (!condition.holds()) {
            expect(System.nanoTime() < end, what + ": not within " + secondsMax + " s");
            Thread.sleep(20);
        }
    }
}
