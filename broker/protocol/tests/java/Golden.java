import java.io.PrintWriter;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Objects;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.message.ApiMessageType;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.MessageUtil;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.ControlRecordType;
import org.apache.kafka.common.record.internal.EndTransactionMarker;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.MutableRecordBatch;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.record.internal.RecordBatch;

/**
 * The other side of tests/golden.rs: lets Kafka's own classes write what is checked in under tests/golden, and read
 * what this crate has written. Run by `cargo xtask protocol --golden`.
 *
 * Golden write FRAMES GOLDEN   re-encodes the frames of a file through Kafka's classes; writes tables and batches
 * Golden read OURS             reads batches that this crate wrote
 */
public class Golden {
    static final long BASE_OFFSET = 1000;
    static final long BASE_TIMESTAMP = 1_700_000_000_000L;

    public static void main(String[] args) throws Exception {
        if (args[0].equals("write")) {
            messages(Path.of(args[1]), Path.of(args[2]));
            tables(Path.of(args[2]));
            batches(Path.of(args[2]));
        } else {
            readOurs(Path.of(args[1]));
        }
    }

    /** Each line: name of the message, version, bytes. Kafka must read all of them and write the same. */
    static void messages(Path frames, Path golden) throws Exception {
        int count = 0;
        try (PrintWriter out = new PrintWriter(golden.resolve("messages.txt").toFile(), StandardCharsets.UTF_8)) {
            for (String line : Files.readAllLines(frames)) {
                String[] words = line.split(" ", -1);
                short version = Short.parseShort(words[1]);
                byte[] bytes = HexFormat.of().parseHex(words[2]);
                Message message = newMessage(words[0]);
                ByteBufferAccessor input = new ByteBufferAccessor(ByteBuffer.wrap(bytes));
                message.read(input, version);
                check(input.remaining() == 0, line, "bytes left");
                ByteBuffer written = MessageUtil.toByteBufferAccessor(message, version).buffer();
                byte[] again = new byte[written.remaining()];
                written.get(again);
                check(Arrays.equals(bytes, again), line, "Kafka writes " + HexFormat.of().formatHex(again));
                out.print(words[0] + " " + version + " " + HexFormat.of().formatHex(again) + "\n");
                count++;
            }
        }
        System.out.println(count + " messages read and written by Kafka");
    }

    static Message newMessage(String name) throws Exception {
        String prefix = "org.apache.kafka.common.message." + name;
        Class<?> type;
        try {
            type = Class.forName(prefix + "Data");
        } catch (ClassNotFoundException e) {
            type = Class.forName(prefix);
        }
        return (Message) type.getDeclaredConstructor().newInstance();
    }

    static void tables(Path golden) throws Exception {
        try (PrintWriter out = new PrintWriter(golden.resolve("errors.txt").toFile(), StandardCharsets.UTF_8)) {
            for (Errors error : Errors.values()) {
                out.print(error.code() + " " + error.name() + " " + (error.exception() instanceof RetriableException) + "\n");
            }
        }
        try (PrintWriter out = new PrintWriter(golden.resolve("api_versions.txt").toFile(), StandardCharsets.UTF_8)) {
            for (ApiKeys key : ApiKeys.apisForListener(ApiMessageType.ListenerType.BROKER)) {
                var advertised = key.toApiVersion(false).orElseThrow();
                out.print(key.id + " " + key.name + " " + advertised.minVersion() + " " + advertised.maxVersion());
                for (short version = key.oldestVersion(); version <= key.latestVersion(true); version++) {
                    out.print(" " + key.requestHeaderVersion(version) + "/" + key.responseHeaderVersion(version));
                }
                out.print("\n");
            }
        }
    }

    static void batches(Path golden) throws Exception {
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            int count = codec.equals("none") ? 50 : 3000;
            Files.write(golden.resolve(codec + ".batch"), batch(codec, count, TimestampType.CREATE_TIME));
        }
        Files.write(golden.resolve("log_append_time.batch"), batch("none", 50, TimestampType.LOG_APPEND_TIME));
        MemoryRecords marker = MemoryRecords.withEndTransactionMarker(
            BASE_OFFSET, BASE_TIMESTAMP, 5, 42L, (short) 3, new EndTransactionMarker(ControlRecordType.COMMIT, 9));
        Files.write(golden.resolve("commit_marker.batch"), bytes(marker));
    }

    static byte[] batch(String codec, int count, TimestampType type) {
        var builder = MemoryRecords.builder(
            ByteBuffer.allocate(1 << 20), RecordBatch.MAGIC_VALUE_V2, Compression.of(codec).build(), type,
            BASE_OFFSET, BASE_TIMESTAMP + 77, 42L, (short) 3, 7, true, 5);
        for (int i = 0; i < count; i++) {
            builder.append(timestamp(i), key(i), value(i), headers(i));
        }
        return bytes(builder.build());
    }

    static byte[] bytes(MemoryRecords records) {
        byte[] bytes = new byte[records.sizeInBytes()];
        records.buffer().duplicate().get(bytes);
        return bytes;
    }

    static void readOurs(Path folder) throws Exception {
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            byte[] bytes = Files.readAllBytes(folder.resolve(codec + ".batch"));
            int count = 0;
            for (MutableRecordBatch batch : MemoryRecords.readableRecords(ByteBuffer.wrap(bytes)).batches()) {
                batch.ensureValid();
                check(batch.compressionType().name.equals(codec), codec, "codec " + batch.compressionType());
                check(batch.producerId() == 42 && batch.producerEpoch() == 3 && batch.baseSequence() == 7
                    && batch.partitionLeaderEpoch() == 5 && batch.isTransactional(), codec, "header " + batch);
                for (Record record : batch) {
                    check(record.offset() == BASE_OFFSET + count, codec, "offset " + record.offset());
                    check(record.timestamp() == timestamp(count), codec, "timestamp " + record.timestamp());
                    check(Objects.deepEquals(array(record.key()), key(count)), codec, "key " + count);
                    check(Objects.deepEquals(array(record.value()), value(count)), codec, "value " + count);
                    check(Arrays.equals(record.headers(), headers(count)), codec, "headers " + count);
                    count++;
                }
            }
            check(count == 3000, codec, count + " records");
            System.out.println("Kafka reads our " + codec + " batch: " + count + " records, " + bytes.length + " bytes");
        }
    }

    static byte[] array(ByteBuffer buffer) {
        if (buffer == null) {
            return null;
        }
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        return bytes;
    }

    static long timestamp(int i) {
        return BASE_TIMESTAMP + i * 7919L % 10007;
    }

    static byte[] key(int i) {
        return i % 3 == 0 ? null : ("key-" + i).getBytes(StandardCharsets.UTF_8);
    }

    static byte[] value(int i) {
        return i % 5 == 0 ? null : ("value-" + i + " ").repeat(i % 7).getBytes(StandardCharsets.UTF_8);
    }

    static Header[] headers(int i) {
        List<Header> headers = new ArrayList<>();
        if (i % 4 == 0) {
            headers.add(new RecordHeader("h" + i, "x".repeat(i % 3).getBytes(StandardCharsets.UTF_8)));
            headers.add(new RecordHeader("n", (byte[]) null));
        }
        return headers.toArray(new Header[0]);
    }

    static void check(boolean good, String where, String what) {
        if (!good) {
            throw new AssertionError(where + ": " + what);
        }
    }
}
