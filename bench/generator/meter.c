/*
 * Windows of time in the thread that polls the first queue. Of each window's cycles those inside
 * the generator's own bursts are known and taken out. A window in which the thread was preempted
 * does not count; so other work on the machine costs samples, not accuracy.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "gen.h"

#define MAX_WINDOWS 65536
#define MIN_WINDOW_PKTS 64
#define CHAIN 1500 /* dependent multiplies; 3 cycles each on every AMD Zen and Intel core */
#define CYCLES_PER_MULTIPLY 3.0
#define GATE_POLL_US 2000
#define PACED_CALIBRATION 64 /* windows */

struct meter M;

struct window {
	uint64_t pkts, tsc, rx, tx;
	double ratio; /* core cycles per TSC cycle while it ran */
	uint32_t preempted;
};

static struct {
	uint64_t rx_tsc, tx_tsc, rx_pkts, tx_pkts, preempted; /* at the window's start */
	uint64_t born, warm_tsc, secs_tsc;
	uint64_t counted_from; /* when the warming was over */
	uint64_t from_rx[MAX_QUEUES], from_tx[MAX_QUEUES], from_seal[MAX_QUEUES];
	struct rxq *rx[MAX_QUEUES];
	struct txq *tx[MAX_QUEUES];
	char stats[256], gate[256];
	uint32_t n;
	struct window w[MAX_WINDOWS];
} S;

static uint64_t
multiply_chain(uint64_t n)
{
	uint64_t x = n | 1, t0 = rte_rdtsc();

	for (uint64_t i = 0; i < n; i += 10)
		asm volatile("imul %0,%0\nimul %0,%0\nimul %0,%0\nimul %0,%0\nimul %0,%0\n"
			     "imul %0,%0\nimul %0,%0\nimul %0,%0\nimul %0,%0\nimul %0,%0\n"
			     : "+r"(x));
	/* waits for the chain */
	asm volatile("lfence" : : "r"(x) : "memory");
	return rte_rdtsc() - t0;
}

/* Core cycles per TSC cycle: the difference of two chain lengths cancels the ends. */
double
meter_core_ratio(void)
{
	uint64_t a = multiply_chain(CHAIN), b = multiply_chain(3 * CHAIN);

	return b > a ? 2.0 * CHAIN * CYCLES_PER_MULTIPLY / (double)(b - a) : 0;
}

/* Times that the thread lost its core; a program that sleeps when idle does so by itself. */
static uint64_t
preemptions(void)
{
	struct rusage ru;

	getrusage(RUSAGE_THREAD, &ru);
	return (uint64_t)ru.ru_nivcsw + (latency_on ? 0 : (uint64_t)ru.ru_nvcsw);
}

/* ---- what is written at the end */

static int
by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double
quantile(const double *sorted, uint32_t n, double q)
{
	return n ? sorted[(uint32_t)(q * (n - 1))] : 0;
}

static double
middle_ratio(void)
{
	static double ratio[MAX_WINDOWS];

	for (uint32_t i = 0; i < S.n; i++)
		ratio[i] = S.w[i].ratio;
	qsort(ratio, S.n, sizeof(double), by_value);
	return quantile(ratio, S.n, 0.5);
}

static void
write_windows(FILE *f, double mid_ratio)
{
	static double net[MAX_WINDOWS], gross[MAX_WINDOWS], rx[MAX_WINDOWS], tx[MAX_WINDOWS];
	uint32_t clean = 0;

	for (uint32_t i = 0; i < S.n; i++) {
		struct window *w = &S.w[i];
		/* a disturbed calibration reads low; a steady clock is the better guess then */
		double k = (w->ratio > 0.97 * mid_ratio ? w->ratio : mid_ratio) / (double)w->pkts;

		if (w->preempted || w->pkts < MIN_WINDOW_PKTS)
			continue;
		gross[clean] = (double)w->tsc * k;
		rx[clean] = (double)w->rx * k;
		tx[clean] = (double)w->tx * k;
		net[clean] = gross[clean] - rx[clean] - tx[clean];
		clean++;
	}
	qsort(net, clean, sizeof(double), by_value);
	qsort(gross, clean, sizeof(double), by_value);
	qsort(rx, clean, sizeof(double), by_value);
	qsort(tx, clean, sizeof(double), by_value);
	fprintf(f, "\"net\":%.2f,\"net_p10\":%.2f,\"net_p90\":%.2f,\"gross\":%.2f,\"rx\":%.2f,"
		"\"tx\":%.2f,\"windows\":%u,\"clean\":%u,",
		quantile(net, clean, 0.5), quantile(net, clean, 0.1), quantile(net, clean, 0.9),
		quantile(gross, clean, 0.5), quantile(rx, clean, 0.5), quantile(tx, clean, 0.5),
		S.n, clean);
}

/* Packets of all queues a second of time in which their frames were not being sealed. */
static void
write_rates(FILE *f, uint64_t now)
{
	double hz = (double)rte_get_tsc_hz(), received = 0, sent = 0;
	const char *sep = "";

	fprintf(f, "\"queues\":[");
	for (int i = 0; i < MAX_QUEUES; i++) {
		double time, in, out;

		if (!S.rx[i] || !S.rx[i]->src.n)
			continue;
		time = (double)(now - S.counted_from - (S.rx[i]->seal_tsc - S.from_seal[i])) / hz;
		/* All of the time may have gone into sealing: then there is no rate, and none that JSON can say. */
		if (time <= 0)
			in = out = 0;
		else {
			in = (double)(S.rx[i]->pkts - S.from_rx[i]) / time;
			out = S.tx[i] ? (double)(S.tx[i]->pkts - S.from_tx[i]) / time : 0;
		}
		fprintf(f, "%s{\"rx_pps\":%.0f,\"tx_pps\":%.0f}", sep, in, out);
		sep = ",";
		received += in;
		sent += out;
	}
	fprintf(f, "],\"rx_pps\":%.0f,\"tx_pps\":%.0f,", received, sent);
}

static void
publish(uint64_t now)
{
	double mid = middle_ratio(), ghz = (double)rte_get_tsc_hz() / 1e9;
	char part[300];
	FILE *f;

	latency_write();
	if (!S.stats[0])
		return;
	snprintf(part, sizeof(part), "%s.part", S.stats);
	f = fopen(part, "w");
	if (!f) {
		LOG("%s: %s\n", part, strerror(errno));
		return;
	}
	fputc('{', f);
	write_windows(f, mid);
	write_rates(f, now);
	if (S.rx[0])
		fprintf(f, "\"frames\":%u,\"ring\":%u,\"seal_tsc\":%.0f,", S.rx[0]->src.n,
			S.rx[0]->ring, S.rx[0]->wraps
			? (double)S.rx[0]->seal_tsc / (double)S.rx[0]->wraps : 0);
	fprintf(f, "\"ratio\":%.4f,\"tsc_ghz\":%.4f,\"core_ghz\":%.4f,\"rx_pkts\":%" PRIu64
		",\"tx_pkts\":%" PRIu64 "}\n", mid, ghz, mid * ghz, M.rx_pkts, M.tx_pkts);
	fclose(f);
	/* whoever waits for the file finds it whole */
	rename(part, S.stats);
}

/* ---- windows */

/* `seen`: preemptions so far. One reading ends a window and begins the next, so none is lost. */
static void
open_window(uint64_t seen)
{
	S.rx_tsc = M.rx_tsc;
	S.tx_tsc = M.tx_tsc;
	S.rx_pkts = M.rx_pkts;
	S.tx_pkts = M.tx_pkts;
	S.preempted = seen;
	M.win_start = rte_rdtsc();
}

void
meter_open_window(void)
{
	open_window(preemptions());
}

static void
count_from(uint64_t now)
{
	S.counted_from = now;
	for (int i = 0; i < MAX_QUEUES; i++) {
		S.from_rx[i] = S.rx[i] ? S.rx[i]->pkts : 0;
		S.from_seal[i] = S.rx[i] ? S.rx[i]->seal_tsc : 0;
		S.from_tx[i] = S.tx[i] ? S.tx[i]->pkts : 0;
	}
	latency_count_from_now();
}

static void
keep_window(uint64_t now, uint64_t seen)
{
	struct window *w;

	if (M.rx_pkts <= M.skip_until || S.n == MAX_WINDOWS)
		return;
	w = &S.w[S.n++];
	w->pkts = M.tx_pkts - S.tx_pkts;
	w->tsc = now - M.win_start;
	w->rx = M.rx_tsc - S.rx_tsc;
	w->tx = M.tx_tsc - S.tx_tsc;
	w->preempted = (uint32_t)(seen - S.preempted);
	/* a calibration takes microseconds, which packets on a schedule would feel */
	w->ratio = latency_on && S.n % PACED_CALIBRATION != 1 ? w[-1].ratio : meter_core_ratio();
	if (latency_on)
		latency_window(now, w->preempted);
}

/* Called by the measured thread when a window's time is over. */
__attribute__((noinline)) void
meter_turn(uint64_t now)
{
	uint64_t seen = preemptions();

	if (!M.running) { /* the first poll that has something to give */
		M.running = true;
		S.born = now;
		meter_core_ratio();
		latency_begin(now);
	} else if (now - S.born > S.warm_tsc) {
		if (!S.counted_from)
			count_from(now);
		else
			keep_window(now, seen);
		if (!M.done && now - S.born > S.warm_tsc + S.secs_tsc) {
			M.done = true;
			M.feeding = false;
			publish(now);
		}
	}
	open_window(seen);
}

void
meter_queue(struct rxq *rx, struct txq *tx)
{
	if (rx)
		S.rx[rx->id] = rx;
	if (tx)
		S.tx[tx->id] = tx;
}

/* ---- the gate: nothing is handed out before a file exists */

static void *
wait_for_gate(void *unused)
{
	(void)unused;
	while (access(S.gate, F_OK))
		usleep(GATE_POLL_US);
	__atomic_store_n(&M.feeding, true, __ATOMIC_RELEASE);
	return NULL;
}

int
meter_init(const struct meter_options *o)
{
	double hz = (double)rte_get_tsc_hz();
	pthread_t thread;

	M.win_len = (uint64_t)(hz * o->window_us / 1e6);
	S.warm_tsc = (uint64_t)(hz * o->warm);
	S.secs_tsc = (uint64_t)(hz * o->secs);
	snprintf(S.stats, sizeof(S.stats), "%s", o->stats);
	snprintf(S.gate, sizeof(S.gate), "%s", o->gate);
	if (!S.gate[0]) {
		M.feeding = true;
		return 0;
	}
	if (pthread_create(&thread, NULL, wait_for_gate, NULL))
		return -EAGAIN;
	pthread_detach(thread);
	return 0;
}
