package org.foreshard.bench;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;

/** MurmurHash3 x64 128 (Austin Appleby, public domain), seed 0: only its first 64 bits are returned. */
final class Murmur3 {
    private static final VarHandle LONGS =
            MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);
    private static final long C1 = 0x87c37b91114253d5L;
    private static final long C2 = 0x4cf5ad432745937fL;

    private Murmur3() {}

    /** Returns h1 of the first {@code length} bytes of {@code data}. */
    static long hash(byte[] data, int length) {
        long h1 = 0;
        long h2 = 0;
        int blocks = length >>> 4;
        for (int block = 0; block < blocks; block++) {
            h1 ^= mix1((long) LONGS.get(data, block << 4));
            h1 = (Long.rotateLeft(h1, 27) + h2) * 5 + 0x52dce729;
            h2 ^= mix2((long) LONGS.get(data, (block << 4) + 8));
            h2 = (Long.rotateLeft(h2, 31) + h1) * 5 + 0x38495ab5;
        }
        int tail = blocks << 4;
        long k1 = 0;
        long k2 = 0;
        for (int at = length - 1; at >= tail + 8; at--) {
            k2 = k2 << 8 | data[at] & 0xff;
        }
        for (int at = Math.min(length, tail + 8) - 1; at >= tail; at--) {
            k1 = k1 << 8 | data[at] & 0xff;
        }
        h2 ^= mix2(k2);
        h1 ^= mix1(k1);
        h1 ^= length;
        h2 ^= length;
        h1 += h2;
        h2 += h1;
        return finish(h1) + finish(h2);
    }

    private static long mix1(long k) {
        return Long.rotateLeft(k * C1, 31) * C2;
    }

    private static long mix2(long k) {
        return Long.rotateLeft(k * C2, 33) * C1;
    }

    private static long finish(long h) {
        h = (h ^ h >>> 33) * 0xff51afd7ed558ccdL;
        h = (h ^ h >>> 33) * 0xc4ceb9fe1a85ec53L;
        return h ^ h >>> 33;
    }
}
