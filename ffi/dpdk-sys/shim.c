#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/types.h>

#include <rte_byteorder.h>
#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>

#include "shim.h"

int dpdk_errno(void)
{
	return rte_errno;
}

unsigned dpdk_lcore_id(void)
{
	return rte_lcore_id();
}

uint64_t dpdk_tsc(void)
{
	return rte_rdtsc();
}

struct rte_mbuf *dpdk_mbuf_raw_alloc(struct rte_mempool *pool)
{
	return rte_mbuf_raw_alloc(pool);
}

void dpdk_mbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

int dpdk_link(uint16_t port, bool *up, uint32_t *speed_mbps)
{
	struct rte_eth_link link = {0};
	int status = rte_eth_link_get_nowait(port, &link);

	*up = status == 0 && link.link_status == RTE_ETH_LINK_UP;
	*speed_mbps = link.link_speed;
	return status;
}

int dpdk_flow_esp_spi(uint16_t port, uint32_t spi)
{
	struct rte_flow_attr attr = {.ingress = 1};
	struct rte_flow_item_esp spec = {.hdr.spi = rte_cpu_to_be_32(spi)};
	struct rte_flow_item_esp mask = {.hdr.spi = RTE_BE32(UINT32_MAX)};
	struct rte_flow_item pattern[] = {
		{.type = RTE_FLOW_ITEM_TYPE_ETH},
		{.type = RTE_FLOW_ITEM_TYPE_IPV4},
		{.type = RTE_FLOW_ITEM_TYPE_ESP, .spec = &spec, .mask = &mask},
		{.type = RTE_FLOW_ITEM_TYPE_END},
	};
	struct rte_flow_action_queue queue = {.index = 0};
	struct rte_flow_action actions[] = {
		{.type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &queue},
		{.type = RTE_FLOW_ACTION_TYPE_END},
	};
	struct rte_flow_error error = {0};

	return rte_flow_validate(port, &attr, pattern, actions, &error);
}

static void (*log_sink)(uint32_t, const char *, size_t);

static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	int level = rte_log_cur_msg_loglevel();

	(void)cookie;
	log_sink(level < 0 ? RTE_LOG_WARNING : (uint32_t)level, text, len);
	return (ssize_t)len;
}

int dpdk_log_to(void (*sink)(uint32_t level, const char *text, size_t len))
{
	cookie_io_functions_t functions = {.write = log_write};
	FILE *stream;

	log_sink = sink;
	stream = fopencookie(NULL, "w", functions);
	if (stream == NULL)
		return -ENOMEM;
	return rte_openlog_stream(stream);
}
