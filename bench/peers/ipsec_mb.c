/* AES-GCM of Debian's ipsec-mb (package libipsec-mb-dev), direct API, for the crypto benchmark.
 *
 * Asked on stdin, one line a measurement: key bits, payload bytes, number of keys, "seal" or "open",
 * runs. Answers one line of that many figures: cycles a packet. Packets look like those of the
 * benchmark: 256 buffers, the payload at offset 50, neighbours with different keys. The clock is the
 * benchmark's as well: a chain of multiplications of 3 cycles each. */
#include <intel-ipsec-mb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PACKETS = 256, BATCH = 64, OFFSET = 50, STRIDE = 2368, KEYS_MAX = 256, CHAIN = 20000, CHAINS = 40, CALLS = 4001 };

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static double cycles_per_ns(void)
{
    double fastest = 1e18;
    for (int i = 0; i < CHAINS; i++) {
        double start = now_ns();
        volatile uint64_t seed = 0x9e3779b97f4a7c15ULL;
        uint64_t value = seed;
        for (int j = 0; j < CHAIN; j++) {
            value *= value;
            __asm__ volatile("" : "+r"(value));
        }
        seed = value;
        double ns = now_ns() - start;
        if (ns < fastest)
            fastest = ns;
    }
    return CHAIN * 3.0 / fastest;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *) a, y = *(const double *) b;
    return (x > y) - (x < y);
}

static struct gcm_key_data *keys;
static uint8_t *packets;

/* One batch of 64; returns whether all tags were right. */
static int batch(IMB_MGR *mgr, int bits, size_t len, int key_count, int open, int first)
{
    int ok = 1;
    for (int i = first; i < first + BATCH; i++) {
        uint8_t *data = packets + (size_t) i * STRIDE + OFFSET, tag[16];
        uint8_t iv[12] = "salt", aad[8] = { 0, 0, 16, 0, 0, 0, 0, (uint8_t) i };
        iv[11] = (uint8_t) i;
        struct gcm_key_data *key = &keys[i % key_count];
        struct gcm_context_data context;
        if (bits == 128 && !open)
            IMB_AES128_GCM_ENC(mgr, key, &context, data, data, len, iv, aad, 8, data + len, 16);
        else if (bits == 128)
            IMB_AES128_GCM_DEC(mgr, key, &context, data, data, len, iv, aad, 8, tag, 16);
        else if (!open)
            IMB_AES256_GCM_ENC(mgr, key, &context, data, data, len, iv, aad, 8, data + len, 16);
        else
            IMB_AES256_GCM_DEC(mgr, key, &context, data, data, len, iv, aad, 8, tag, 16);
        if (open)
            ok &= memcmp(tag, data + len, 16) == 0;
    }
    return ok;
}

static double measure(IMB_MGR *mgr, int bits, size_t len, int key_count, int open)
{
    static double calls[CALLS];
    static uint8_t sealed[PACKETS * STRIDE];
    for (int first = 0; first < PACKETS; first += BATCH)
        batch(mgr, bits, len, key_count, 0, first);
    memcpy(sealed, packets, sizeof sealed);
    double before = cycles_per_ns();
    int count = 0, ok = 1;
    for (double spent = 0; spent < 20e6 && count < CALLS; count++) {
        if (open)
            memcpy(packets, sealed, sizeof sealed);
        double start = now_ns();
        for (int first = 0; first < PACKETS; first += BATCH)
            ok &= batch(mgr, bits, len, key_count, open, first);
        calls[count] = now_ns() - start;
        spent += calls[count];
    }
    double scale = (before + cycles_per_ns()) / 2;
    qsort(calls, count, sizeof *calls, by_value);
    return ok ? calls[count / 2] * scale / PACKETS : -1;
}

int main(void)
{
    IMB_MGR *mgr = alloc_mb_mgr(0);
    if (mgr == NULL)
        return 1;
    init_mb_mgr_auto(mgr, NULL);
    keys = aligned_alloc(64, sizeof *keys * KEYS_MAX);
    packets = aligned_alloc(64, PACKETS * STRIDE);
    if (keys == NULL || packets == NULL)
        return 1;
    memset(packets, 0x5a, PACKETS * STRIDE);
    int bits, len, key_count, runs;
    char verb[8];
    while (scanf("%d %d %d %7s %d", &bits, &len, &key_count, verb, &runs) == 5) {
        if (key_count < 1 || key_count > KEYS_MAX || len < 0 || OFFSET + len + 16 > STRIDE)
            return 1;
        for (int i = 0; i < key_count; i++) {
            uint8_t key[32];
            memset(key, 7, sizeof key);
            key[0] = (uint8_t) i;
            if (bits == 128)
                IMB_AES128_GCM_PRE(mgr, key, &keys[i]);
            else
                IMB_AES256_GCM_PRE(mgr, key, &keys[i]);
        }
        for (int run = 0; run < runs; run++)
            printf("%.2f ", measure(mgr, bits, (size_t) len, key_count, strcmp(verb, "open") == 0));
        printf("\n");
        fflush(stdout);
    }
    free_mb_mgr(mgr);
    return 0;
}
