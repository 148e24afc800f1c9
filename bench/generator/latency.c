/*
 * Frames depart by a schedule that does not wait for anybody: a program that is late finds all of
 * them due, and each counts from when it should have departed. The time travels in the mbuf.
 * What is recorded is from there to the transmit burst.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_mbuf_dyn.h>

#include "gen.h"

/* A power of two of values is cut into this many buckets: below 1 % wide. */
#define SUB_BITS 7
#define SUB (1u << SUB_BITS)
#define BUCKETS ((64 - SUB_BITS) * SUB)
/* With no more due than this the queue of a disturbance is gone. */
#define SETTLED_PKTS 32

bool latency_on;

static struct {
	double tsc_per_pkt;
	uint64_t start, departed, first; /* numbers of packets */
	uint64_t next;                   /* when the next one departs */
	uint64_t count[BUCKETS], recorded, behind;
	/* the same without times of which the machine, not the program, was the cause */
	uint64_t window[BUCKETS], quiet[BUCKETS];
	uint32_t low, high; /* what of the window is used */
	uint32_t windows, disturbed;
	bool unsettled;
	int offset;
	char file[256];
	bool counting;
} L;

static uint32_t
bucket_of(uint64_t v)
{
	uint32_t shift;

	if (v < SUB)
		return (uint32_t)v;
	shift = 63 - SUB_BITS - (uint32_t)__builtin_clzll(v);
	return (shift + 1) * SUB + (uint32_t)(v >> shift) - SUB;
}

/* The middle of a bucket. */
static double
value_of(uint32_t bucket)
{
	uint32_t shift;

	if (bucket < SUB)
		return bucket;
	shift = bucket / SUB - 1;
	return ((double)(bucket % SUB + SUB) + 0.5) * (double)(1ull << shift);
}

int
latency_init(double pps, const char *file)
{
	static const struct rte_mbuf_dynfield field = {
		.name = "net_gen_departure",
		.size = sizeof(uint64_t),
		.align = sizeof(uint64_t),
	};

	if (pps <= 0)
		return 0;
	L.offset = rte_mbuf_dynfield_register(&field);
	if (L.offset < 0) {
		LOG("no room in the mbuf for the departure: %s\n", strerror(rte_errno));
		return -rte_errno;
	}
	L.tsc_per_pkt = (double)rte_get_tsc_hz() / pps;
	snprintf(L.file, sizeof(L.file), "%s", file);
	latency_on = true;
	return 0;
}

static uint64_t
departure(uint64_t n)
{
	return L.start + (uint64_t)((double)n * L.tsc_per_pkt);
}

void
latency_begin(uint64_t now)
{
	L.start = now;
	L.next = now;
}

/* How many packets are due, at most as many as wanted. */
uint16_t
latency_due(uint64_t now, uint16_t want)
{
	uint64_t due;

	if (!L.start || now < L.next)
		return 0;
	due = (uint64_t)((double)(now - L.start) / L.tsc_per_pkt) + 1;
	due = due > L.departed ? due - L.departed : 0;
	if (L.counting && due > L.behind)
		L.behind = due;
	return due < want ? (uint16_t)due : want;
}

void
latency_stamp(struct rte_mbuf *m)
{
	*RTE_MBUF_DYNFIELD(m, L.offset, uint64_t *) = L.next;
	L.next = departure(++L.departed);
}

void
latency_count_from_now(void)
{
	L.first = L.start ? departure(L.departed) : 0;
	L.counting = true;
}

void
latency_record(struct rte_mbuf **bufs, uint16_t n, uint64_t now)
{
	if (!L.counting)
		return;
	for (uint16_t i = 0; i < n; i++) {
		uint64_t left = *RTE_MBUF_DYNFIELD(bufs[i], L.offset, uint64_t *);
		uint32_t b;

		if (left < L.first || left > now)
			continue; /* of the warming, or none of ours */
		b = bucket_of(now - left);
		L.count[b]++;
		L.window[b]++;
		L.low = RTE_MIN(L.low, b);
		L.high = RTE_MAX(L.high, b);
		L.recorded++;
	}
}

/* The generator itself stood still: so does the schedule, and what it held up does not count. */
void
latency_pause(uint64_t tsc)
{
	L.start += tsc;
	L.next += tsc;
	if (L.counting)
		L.first = L.next;
}

/*
 * A window is over. One in which the thread was preempted is no measure of the program, nor are
 * those behind it until the packets that were due meanwhile are gone.
 */
void
latency_window(uint64_t now, bool preempted)
{
	L.windows++;
	if (preempted)
		L.unsettled = true;
	if (L.unsettled)
		L.disturbed++;
	for (uint32_t b = L.low; b <= L.high; b++) {
		if (!L.unsettled)
			L.quiet[b] += L.window[b];
		L.window[b] = 0;
	}
	L.low = BUCKETS - 1;
	L.high = 0;
	if (!preempted && L.next + SETTLED_PKTS * (uint64_t)L.tsc_per_pkt > now)
		L.unsettled = false;
}

/* Lines "NANOSECONDS COUNT QUIET", and a first one with what was behind at most and windows. */
void
latency_write(void)
{
	double ns = 1e9 / (double)rte_get_tsc_hz();
	FILE *f;

	if (!latency_on)
		return;
	f = fopen(L.file, "w");
	if (!f) {
		LOG("%s: %s\n", L.file, strerror(errno));
		return;
	}
	fprintf(f, "# recorded %" PRIu64 " behind %" PRIu64 " windows %u disturbed %u\n",
		L.recorded, L.behind, L.windows, L.disturbed);
	for (uint32_t i = 0; i < BUCKETS; i++)
		if (L.count[i])
			fprintf(f, "%.0f %" PRIu64 " %" PRIu64 "\n", value_of(i) * ns, L.count[i],
				L.quiet[i]);
	fclose(f);
}
