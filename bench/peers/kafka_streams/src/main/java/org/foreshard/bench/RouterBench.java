package org.foreshard.bench;

import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.stream.IntStream;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.StreamPartitioner;

/**
 * Routes until it is killed: {@code RouterBench FILE}, with the file of the bench. Source, one
 * processor, and a sink whose topic and partition the processor has chosen; no store, no DSL.
 */
public final class RouterBench {
    private RouterBench() {}

    public static void main(String[] arguments) throws Exception {
        Rules rules = new Rules(Path.of(arguments[0]));
        KafkaStreams streams = new KafkaStreams(topology(rules), settings(rules));
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return StreamThreadExceptionResponse.SHUTDOWN_APPLICATION;
        });
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.ERROR) {
                Runtime.getRuntime().halt(1);
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }

    private static Topology topology(Rules rules) {
        List<Optional<Set<Integer>>> partitions =
                IntStream.range(0, rules.partitions).mapToObj(Set::of).map(Optional::of).toList();
        StreamPartitioner<byte[], Routed> partitioner =
                (topic, key, routed, count) -> partitions.get(routed.partition());
        Serializer<Routed> bytes = (topic, routed) -> routed.value();
        return new Topology()
                .addSource(
                        "requests",
                        Serdes.ByteArray().deserializer(),
                        Serdes.ByteArray().deserializer(),
                        rules.given.get("ingest").textValue())
                .addProcessor("route", () -> new RouteProcessor(rules), "requests")
                .addSink(
                        "clusters",
                        (key, routed, context) -> routed.topic(),
                        Serdes.ByteArray().serializer(),
                        bytes,
                        partitioner,
                        "route");
    }

    private static Properties settings(Rules rules) {
        boolean exactlyOnce = rules.given.get("guarantee").textValue().equals("exactly-once");
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, rules.given.get("group").textValue());
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, rules.given.get("bootstrap").textValue());
        settings.put(StreamsConfig.STATE_DIR_CONFIG, rules.given.get("folder").textValue());
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, rules.given.get("threads").intValue());
        settings.put(
                StreamsConfig.PROCESSING_GUARANTEE_CONFIG,
                exactlyOnce ? StreamsConfig.EXACTLY_ONCE_V2 : StreamsConfig.AT_LEAST_ONCE);
        // The default of exactly-once; that of at-least-once is 30 s.
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100);
        // Its defaults (1,000; 1,000; 16 KiB) suit small batches: these gave the most here.
        settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5_000);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 64 << 10);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BUFFER_MEMORY_CONFIG), 128 << 20);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.ACKS_CONFIG), "all");
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        rules.given.get("extra").properties().forEach(entry -> settings.put(entry.getKey(), entry.getValue().asText()));
        return settings;
    }
}
