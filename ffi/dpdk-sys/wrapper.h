/* What bindgen reads: the headers, and facts that only C can state for every DPDK release. */
#include <stddef.h>

#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

#include "shim.h"

/* The fields of rte_mbuf moved into anonymous unions in 24.03; their names in C did not change. */
enum dpdk_layout {
	DPDK_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	DPDK_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	DPDK_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt),
	DPDK_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	DPDK_MBUF_PORT = offsetof(struct rte_mbuf, port),
	DPDK_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	DPDK_MBUF_PACKET_TYPE = offsetof(struct rte_mbuf, packet_type),
	DPDK_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	DPDK_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	DPDK_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
	DPDK_MBUF_VLAN_TCI_OUTER = offsetof(struct rte_mbuf, vlan_tci_outer),
	DPDK_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	DPDK_MBUF_POOL = offsetof(struct rte_mbuf, pool),
	DPDK_MBUF_NEXT = offsetof(struct rte_mbuf, next),
	DPDK_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload),
};
