package org.foreshard.bench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** What the bench gives to every peer, read once: request types, shard table, owners, topics. */
final class Rules {
    /** One request type: its keyspace, its name as a header has it, the paths of its key fields. */
    record Type(byte[] keyspace, byte[] header, String[][] key) {}

    final JsonNode given;
    final String typeField;
    final Map<String, Type> types = new HashMap<>();
    final short[] shardTable;
    final short[] owners;
    final String[] topics;
    final int partitions;
    final byte[] mapping;
    final byte[][] shardHeaders;

    Rules(Path file) throws IOException {
        given = new ObjectMapper().readTree(file.toFile());
        typeField = given.get("type_field").textValue();
        given.get("types").properties().forEach(entry -> types.put(entry.getKey(), type(entry.getKey(), entry.getValue())));
        shardTable = shorts(Path.of(given.get("shard_table").textValue()));
        owners = shorts(Path.of(given.get("owners").textValue()));
        topics = texts(given.get("topics")).toArray(String[]::new);
        partitions = given.get("partitions").intValue();
        mapping = utf8(given.get("mapping").textValue());
        shardHeaders = new byte[given.get("shards").intValue()][];
        for (int shard = 0; shard < shardHeaders.length; shard++) {
            shardHeaders[shard] = utf8(Integer.toString(shard));
        }
    }

    private static Type type(String name, JsonNode rule) {
        String[][] key = texts(rule.get("key")).stream().map(path -> path.split("\\.")).toArray(String[][]::new);
        return new Type(utf8(rule.get("keyspace").textValue()), utf8(name), key);
    }

    private static List<String> texts(JsonNode array) {
        List<String> found = new ArrayList<>();
        array.forEach(item -> found.add(item.textValue()));
        return found;
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static short[] shorts(Path file) throws IOException {
        byte[] bytes = Files.readAllBytes(file);
        short[] numbers = new short[bytes.length / 2];
        ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asShortBuffer().get(numbers);
        return numbers;
    }
}
