/* Cold paths that DPDK offers only as inline C or whose types differ by release. */
#ifndef DPDK_SHIM_H
#define DPDK_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rte_mbuf;
struct rte_mempool;

int dpdk_errno(void);
unsigned dpdk_lcore_id(void);
uint64_t dpdk_tsc(void);

/* Refills the cache of the calling thread. Null when the pool is empty; the mbuf is not reset. */
struct rte_mbuf *dpdk_mbuf_raw_alloc(struct rte_mempool *pool);
/* Any mbuf: shared, chained, indirect; flushes the cache of the calling thread. */
void dpdk_mbuf_free(struct rte_mbuf *mbuf);

/* Status of rte_eth_link_get_nowait. */
int dpdk_link(uint16_t port, bool *up, uint32_t *speed_mbps);
/* Whether the port takes a flow rule eth / ESP with this SPI -> queue 0. 0 or a negative errno. */
int dpdk_flow_esp_spi(uint16_t port, uint32_t spi);

/* Sends every log message to `sink`. 0 or a negative errno. */
int dpdk_log_to(void (*sink)(uint32_t level, const char *text, size_t len));

#endif
