package org.foreshard.bench;

/** A request's bytes, untouched, with the place it goes to. */
record Routed(byte[] value, String topic, int partition) {}
