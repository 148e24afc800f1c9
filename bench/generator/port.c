/*
 * Bursts. In ring mode (default) frames are copied into mbufs one descriptor ring ahead of being
 * handed out, as a NIC's DMA would have written them, so the program finds them in L2 or L3 and not
 * in L1; and sent mbufs are kept one ring long before they are freed. In direct mode they are
 * copied at hand-out and freed at once.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include <rte_ip.h>
#include <rte_prefetch.h>

#include "gen.h"

#define AHEAD 8 /* frames of the arena that are prefetched before they are copied */

static inline void
deliver(struct rxq *q, struct rte_mbuf *m)
{
	struct source *s = &q->src;
	const struct frame *a = &s->arena[q->next];

	if (likely(q->next + AHEAD < s->n))
		for (uint32_t o = 0; o < a[AHEAD].len; o += 64)
			rte_prefetch_non_temporal(a[AHEAD].data + o);
	*(uint64_t *)&m->rearm_data = q->rearm;
	m->ol_flags = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
	m->packet_type = a->ptype;
	m->pkt_len = a->len;
	m->data_len = (uint16_t)a->len;
	m->vlan_tci = 0;
	m->hash.rss = 0;
	memcpy((uint8_t *)m->buf_addr + RTE_PKTMBUF_HEADROOM, a->data, a->len);
	if (unlikely(++q->next == s->n))
		q->next = 0;
}

int
port_fill_ring(struct rxq *q)
{
	if (q->slot[0])
		return 0; /* a restart goes on where it stopped */
	for (uint16_t k = 0; k < q->ring; k++) {
		q->slot[k] = rte_pktmbuf_alloc(q->mp);
		if (!q->slot[k])
			return -ENOMEM;
		deliver(q, q->slot[k]);
	}
	return 0;
}

/*
 * All frames were handed out. Sealing them again, with the next sequence numbers, keeps replay
 * protection content; the program stands still meanwhile, outside of any window.
 */
static __attribute__((noinline)) void
wrapped(struct rxq *q)
{
	uint64_t t0, took;

	if (!q->src.reseal)
		return;
	t0 = rte_rdtsc();
	source_fill(&q->src);
	took = rte_rdtsc() - t0;
	q->seal_tsc += took;
	q->wraps++;
	if (latency_on)
		latency_pause(took);
	if (q->id == 0) {
		M.skip_until = M.rx_pkts + SETTLE_PKTS;
		meter_open_window();
	}
}

static uint16_t
hand_out(struct rxq *q, struct rte_mbuf **bufs, struct rte_mbuf **fresh, uint16_t n)
{
	uint64_t bytes = 0;

	for (uint16_t i = 0; i < n; i++) {
		bufs[i] = fresh[i];
		if (!q->p->direct) {
			bufs[i] = q->slot[q->head];
			q->slot[q->head] = fresh[i];
			if (++q->head == q->ring)
				q->head = 0;
		}
		deliver(q, fresh[i]);
		bytes += bufs[i]->pkt_len;
	}
	if (latency_on)
		for (uint16_t i = 0; i < n; i++)
			latency_stamp(bufs[i]);
	q->pkts += n;
	q->bytes += bytes;
	return n;
}

uint16_t
port_rx(void *rxq, struct rte_mbuf **bufs, uint16_t want)
{
	struct rxq *q = rxq;
	struct rte_mbuf *fresh[MAX_BURST];
	uint16_t n = RTE_MIN(RTE_MIN(want, (uint16_t)MAX_BURST), q->ring);
	uint64_t t0 = rte_rdtsc();
	bool measured = q->id == 0;

	if (unlikely(!__atomic_load_n(&M.feeding, __ATOMIC_RELAXED)))
		return 0;
	if (measured && unlikely(t0 - M.win_start > M.win_len)) {
		meter_turn(t0);
		t0 = M.win_start;
	}
	if (unlikely(q->p->limit && q->pkts >= q->p->limit))
		return 0;
	if (latency_on)
		n = latency_due(t0, n);
	if (q->src.reseal)
		n = (uint16_t)RTE_MIN(n, q->src.n - q->next);
	if (n && unlikely(rte_pktmbuf_alloc_bulk(q->mp, fresh, n))) {
		q->nombuf++;
		n = 0;
	}
	n = hand_out(q, bufs, fresh, n);
	if (measured)
		M.rx_pkts += n;
	if (unlikely(q->next == 0) && n) {
		wrapped(q);
		if (measured && q->src.reseal)
			return n; /* the window begins behind this call */
	}
	if (measured)
		M.rx_tsc += rte_rdtsc() - t0;
	return n;
}

uint16_t
port_rx_none(void *rxq __rte_unused, struct rte_mbuf **bufs __rte_unused,
	     uint16_t want __rte_unused)
{
	return 0;
}

/* Queues of several threads write into one file, a few frames in all. */
static pthread_mutex_t dumping = PTHREAD_MUTEX_INITIALIZER;

static void
dump_frame(struct port *p, struct rte_mbuf *m)
{
	uint8_t flat[16384];
	const uint8_t *d = rte_pktmbuf_read(m, 0, m->pkt_len, flat);
	uint32_t rec[4] = {0, 0, m->pkt_len, m->pkt_len};

	if (!d)
		return;
	if (d != flat)
		memcpy(flat, d, m->pkt_len);
	if (m->ol_flags & RTE_MBUF_F_TX_IP_CKSUM) {
		struct rte_ipv4_hdr *ip = (void *)(flat + m->l2_len);

		ip->hdr_checksum = 0;
		ip->hdr_checksum = rte_ipv4_cksum(ip);
	}
	fwrite(rec, 16, 1, p->dump);
	fwrite(flat, m->pkt_len, 1, p->dump);
	if (--p->dump_left == 0) {
		fclose(p->dump);
		p->dump = NULL;
	}
}

static void
keep(struct txq *q, struct rte_mbuf **bufs, uint16_t n)
{
	struct rte_mbuf *old[64];
	uint16_t k = 0;

	for (uint16_t i = 0; i < n; i++) {
		if (q->used == q->ring)
			old[k++] = q->slot[q->head];
		else
			q->used++;
		q->slot[q->head] = bufs[i];
		if (++q->head == q->ring)
			q->head = 0;
		if (k == RTE_DIM(old)) {
			rte_pktmbuf_free_bulk(old, k);
			k = 0;
		}
	}
	if (k)
		rte_pktmbuf_free_bulk(old, k);
}

uint16_t
port_tx(void *txq, struct rte_mbuf **bufs, uint16_t n)
{
	struct txq *q = txq;
	uint64_t t0 = rte_rdtsc(), bytes = 0;

	if (latency_on)
		latency_record(bufs, n, t0);
	if (unlikely(q->p->dump != NULL && M.running)) {
		pthread_mutex_lock(&dumping);
		for (uint16_t i = 0; i < n && q->p->dump; i++)
			dump_frame(q->p, bufs[i]);
		pthread_mutex_unlock(&dumping);
	}
	for (uint16_t i = 0; i < n; i++)
		bytes += bufs[i]->pkt_len;
	if (q->p->direct)
		rte_pktmbuf_free_bulk(bufs, n);
	else
		keep(q, bufs, n);
	q->pkts += n;
	q->bytes += bytes;
	if (q->id == 0) {
		M.tx_pkts += n;
		M.tx_tsc += rte_rdtsc() - t0;
	}
	return n;
}
