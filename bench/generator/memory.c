/*
 * How long a load takes, in core cycles, by working set in KiB: one after the other ("dependent"),
 * and as many at once as the core can have under way ("independent", what prefetching can reach).
 * Lines "KIB DEPENDENT INDEPENDENT".
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <x86intrin.h>

#define LINE 64
#define TOP_KIB (256ul << 10)
#define LOADS 1000000u
#define HUGE (2ul << 20)

/* Core cycles per TSC cycle, by chains of multiplies of 3 cycles each. */
static double
ratio(void)
{
	uint64_t t[2], x = 3;

	for (int k = 0; k < 2; k++) {
		uint64_t t0 = __rdtsc();

		for (int i = 0; i < (k ? 9000 : 3000); i++)
			__asm__ volatile("imul %0,%0" : "+r"(x));
		__asm__ volatile("lfence" : : "r"(x) : "memory");
		t[k] = __rdtsc() - t0;
	}
	return 18000.0 / (double)(t[1] - t[0]);
}

static uint64_t
next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* One cycle through all lines in random order (Sattolo). */
static void
link_lines(char *mem, uint32_t *order, size_t n)
{
	uint64_t seed = 88172645463325252ull;

	for (size_t i = 0; i < n; i++)
		order[i] = (uint32_t)i;
	for (size_t i = n - 1; i > 0; i--) {
		size_t j = next_random(&seed) % i;
		uint32_t swap = order[i];

		order[i] = order[j];
		order[j] = swap;
	}
	for (size_t i = 0; i < n; i++)
		*(uint64_t *)(mem + (size_t)order[i] * LINE) = order[(i + 1) % n];
}

static double
dependent(const char *mem)
{
	uint64_t at = 0, t0;

	for (int pass = 0; pass < 2; pass++) {
		t0 = __rdtsc();
		for (uint32_t i = 0; i < LOADS; i++)
			at = *(const volatile uint64_t *)(mem + at * LINE);
	}
	return (double)(__rdtsc() - t0) / LOADS;
}

static double
independent(const char *mem, const uint32_t *order, size_t n)
{
	uint64_t t0, sum = 0;

	for (int pass = 0; pass < 2; pass++) {
		t0 = __rdtsc();
		for (uint32_t i = 0, k = 0; i < LOADS; i++, k = k + 1 == n ? 0 : k + 1)
			sum += *(const volatile uint64_t *)(mem + (size_t)order[k] * LINE);
	}
	return (double)(__rdtsc() - t0) / LOADS;
}

int
main(void)
{
	static const size_t kib[] = {24, 512, 4096, 16384, 65536, TOP_KIB};
	char *mem = mmap(NULL, TOP_KIB << 10, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	uint32_t *order = malloc((TOP_KIB << 10) / LINE * sizeof(*order));

	if (mem == MAP_FAILED) {
		mem = aligned_alloc(HUGE, TOP_KIB << 10);
		if (mem)
			madvise(mem, TOP_KIB << 10, MADV_HUGEPAGE);
	}
	if (!mem || !order)
		return 1;
	for (unsigned int i = 0; i < sizeof(kib) / sizeof(kib[0]); i++) {
		size_t n = (kib[i] << 10) / LINE;
		double k, d, t;

		link_lines(mem, order, n);
		k = ratio();
		d = dependent(mem);
		t = independent(mem, order, n);
		printf("%zu %.1f %.1f\n", kib[i], d * k, t * k);
	}
	return 0;
}
