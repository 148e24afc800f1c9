/*
 * net_gen: a DPDK virtual port that feeds a program from memory at no NIC cost and measures,
 * inside the program's own polling thread, what the program costs per packet.
 *
 * source.c   frames: read from captures, sealed with rising sequence numbers
 * meter.c    windows of time, with the generator's own share taken out
 * latency.c  departures by a schedule, and how late packets come out
 * port.c     bursts in and out; device.c what DPDK asks of a driver
 */
#ifndef GEN_H
#define GEN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_config.h>
#include <rte_cycles.h>
#include <rte_ether.h>
#include <rte_mbuf.h>

#include <intel-ipsec-mb.h>

#define MAX_QUEUES 16
#define MAX_RING 8192
#define MAX_BURST 512
/* Packets received after a wrap that no window counts: caches are as the sealing left them. */
#define SETTLE_PKTS 20000

#define LOG(...) fprintf(stderr, "net_gen: " __VA_ARGS__)

/* ---- source.c */

struct frame {
	uint8_t *data;
	uint32_t len, ptype;
	int32_t sa;   /* -1: nothing to seal */
	uint16_t esp; /* offset of the ESP header, 0: none */
};

struct sa {
	struct gcm_key_data *ready; /* NULL with very many SAs: expanded for each frame */
	uint8_t key[32];
	uint32_t spi, key_len, salt;
	uint64_t seq;
	bool esn;
};

/* What one receive queue hands out. Queues share nothing, so threads never meet. */
struct source {
	struct frame *tmpl, *arena;
	uint32_t n_tmpl, n, stride;
	struct sa *sas;
	uint32_t n_sas;
	uint32_t *by_spi, spi_mask; /* hash of SPIs: index + 1 into sas, 0 is free */
	IMB_MGR *mb;
	bool reseal;
};

int source_load(struct source *s, const char *pcap, const char *sas, uint32_t count);
void source_fill(struct source *s);

/* ---- meter.c */

struct rxq;
struct txq;

struct meter {
	/* running totals of the thread that is measured */
	uint64_t rx_tsc, tx_tsc, rx_pkts, tx_pkts;
	uint64_t win_start, win_len, skip_until;
	bool running, done;
	bool feeding; /* set when the gate opens, cleared when the run is over */
};

extern struct meter M;

struct meter_options {
	const char *stats, *gate;
	double secs, warm;
	uint32_t window_us;
};

int meter_init(const struct meter_options *o);
void meter_queue(struct rxq *rx, struct txq *tx);
void meter_open_window(void);
void meter_turn(uint64_t now);
double meter_core_ratio(void);

/* ---- latency.c */

int latency_init(double pps, const char *file);
uint16_t latency_due(uint64_t now, uint16_t want);
void latency_stamp(struct rte_mbuf *m);
void latency_record(struct rte_mbuf **bufs, uint16_t n, uint64_t now);
void latency_begin(uint64_t now);
void latency_pause(uint64_t tsc);
void latency_window(uint64_t now, bool preempted);
void latency_count_from_now(void);
void latency_write(void);
extern bool latency_on;

/* ---- port.c */

struct port;

struct rxq {
	struct port *p;
	struct rte_mempool *mp;
	struct source src;
	uint16_t id, ring, head;
	uint32_t next;
	uint64_t rearm, pkts, bytes, nombuf, seal_tsc, wraps;
	struct rte_mbuf *slot[MAX_RING];
};

struct txq {
	struct port *p;
	uint16_t id, ring, head, used;
	uint64_t pkts, bytes;
	struct rte_mbuf *slot[MAX_RING];
};

struct port {
	struct rte_ether_addr mac;
	uint16_t queues;
	bool direct, sends;
	uint64_t limit;
	uint32_t dump_left;
	FILE *dump;
	struct rxq rxq[MAX_QUEUES];
	struct txq txq[MAX_QUEUES];
};

uint16_t port_rx(void *rxq, struct rte_mbuf **bufs, uint16_t want);
uint16_t port_rx_none(void *rxq, struct rte_mbuf **bufs, uint16_t want);
uint16_t port_tx(void *txq, struct rte_mbuf **bufs, uint16_t n);
int port_fill_ring(struct rxq *q);

#endif
