package org.foreshard.bench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;

/** The router's work on one request: parse, key bytes, hash, shard and slot, owner, three headers. */
final class RouteProcessor implements Processor<byte[], byte[], byte[], Routed> {
    private static final ObjectReader JSON = new ObjectMapper().reader();

    private final Rules rules;
    private ProcessorContext<byte[], Routed> context;
    private byte[] keyBytes = new byte[256];
    private int length;

    RouteProcessor(Rules rules) {
        this.rules = rules;
    }

    @Override
    public void init(ProcessorContext<byte[], Routed> context) {
        this.context = context;
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
        JsonNode value;
        try {
            value = JSON.readTree(record.value());
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        Rules.Type type = rules.types.get(value.get(rules.typeField).textValue());
        readKey(type, value);
        long hash = Murmur3.hash(keyBytes, length);
        int shard = rules.shardTable[(int) (hash >>> 44)];
        int slot = shard << 8 | (int) (hash & 0xff);
        record.headers().add("foreshard-shard", rules.shardHeaders[shard]);
        record.headers().add("foreshard-type", type.header());
        record.headers().add("foreshard-mapping", rules.mapping);
        String topic = rules.topics[rules.owners[slot]];
        context.forward(record.withValue(new Routed(record.value(), topic, slot % rules.partitions)));
    }

    /** Writes keyspace NUL field NUL field ... into {@code keyBytes}. */
    private void readKey(Rules.Type type, JsonNode value) {
        length = 0;
        append(type.keyspace());
        for (String[] path : type.key()) {
            JsonNode node = value;
            for (String part : path) {
                node = node.get(part);
            }
            append((byte) 0);
            append(scalar(node));
        }
    }

    private static byte[] scalar(JsonNode node) {
        if (!node.isTextual() && !node.isIntegralNumber() && !node.isBoolean()) {
            throw new IllegalArgumentException("a key field is neither text, integer nor boolean: " + node);
        }
        return node.asText().getBytes(StandardCharsets.UTF_8);
    }

    private void append(byte... bytes) {
        if (length + bytes.length > keyBytes.length) {
            keyBytes = Arrays.copyOf(keyBytes, 2 * (length + bytes.length));
        }
        System.arraycopy(bytes, 0, keyBytes, length, bytes.length);
        length += bytes.length;
    }
}
