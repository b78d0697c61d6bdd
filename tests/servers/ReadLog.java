import java.io.BufferedOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.Map;

import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Writes down what a topic holds, by Kafka's own consumer: every committed record, partition by partition, as partition
 * and offset, then key and value, each as its length (-1: null) and its bytes. A single 0 stands in front of each
 * record, and a single 1 behind the last one, so that an output that was cut off is known as such.
 *
 * <p>Arguments: bootstrap servers, topic; and a partition and the offset to end before, to read no more than that.
 */
public final class ReadLog {
    private static final Duration WAIT = Duration.ofMillis(500);
    private static final Duration SILENCE = Duration.ofSeconds(60);

    public static void main(String[] args) throws IOException {
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", args[0], "isolation.level", "read_committed", "enable.auto.commit", false);
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        DataOutputStream out = new DataOutputStream(new BufferedOutputStream(System.out, 1 << 16));
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings, bytes, bytes)) {
            if (args.length > 2) {
                read(consumer, new TopicPartition(args[1], Integer.parseInt(args[2])), Long.parseLong(args[3]), out);
            } else {
                int[] partitions =
                    consumer.partitionsFor(args[1]).stream().mapToInt(PartitionInfo::partition).sorted().toArray();
                for (int number : partitions) {
                    TopicPartition partition = new TopicPartition(args[1], number);
                    read(consumer, partition, consumer.endOffsets(List.of(partition)).get(partition), out);
                }
            }
        }
        out.writeByte(1);
        out.flush();
    }

    private static void read(
            KafkaConsumer<byte[], byte[]> consumer, TopicPartition partition, long end, DataOutputStream out)
            throws IOException {
        consumer.assign(List.of(partition));
        consumer.seekToBeginning(List.of(partition));
        long heard = System.nanoTime();
        // The position moves behind what no reader of committed records gets, too.
        while (consumer.position(partition) < end) {
            long before = consumer.position(partition);
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(WAIT)) {
                if (record.offset() < end) {
                    write(record, out);
                }
            }
            if (consumer.position(partition) > before) {
                heard = System.nanoTime();
            } else if (System.nanoTime() - heard > SILENCE.toNanos()) {
                throw new IOException(partition + ": nothing more at " + before + " of " + end);
            }
        }
    }

    private static void write(ConsumerRecord<byte[], byte[]> record, DataOutputStream out) throws IOException {
        out.writeByte(0);
        out.writeInt(record.partition());
        out.writeLong(record.offset());
        for (byte[] part : new byte[][] {record.key(), record.value()}) {
            out.writeInt(part == null ? -1 : part.length);
            if (part != null) {
                out.write(part);
            }
        }
    }
}
