/* What DPDK asks of a driver: arguments, abilities, queues. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <rte_kvargs.h>
#include <rte_mbuf_ptype.h>
#include <bus_vdev_driver.h>
#include <ethdev_driver.h>
#include <ethdev_vdev.h>

#include "gen.h"

static int
dev_start(struct rte_eth_dev *dev)
{
	struct port *p = dev->data->dev_private;

	for (uint16_t i = 0; i < dev->data->nb_rx_queues; i++)
		if (p->rxq[i].src.n && !p->direct && port_fill_ring(&p->rxq[i]))
			return -ENOMEM;
	dev->data->dev_link.link_status = RTE_ETH_LINK_UP;
	return 0;
}

static int
dev_stop(struct rte_eth_dev *dev)
{
	dev->data->dev_link.link_status = RTE_ETH_LINK_DOWN;
	dev->data->dev_started = 0;
	return 0;
}

static int
dev_close(struct rte_eth_dev *dev)
{
	if (rte_eal_process_type() == RTE_PROC_PRIMARY)
		dev->data->mac_addrs = NULL;
	return 0;
}

static int
dev_configure(struct rte_eth_dev *dev __rte_unused)
{
	return 0;
}

static int
dev_info(struct rte_eth_dev *dev, struct rte_eth_dev_info *i)
{
	struct port *p = dev->data->dev_private;

	i->max_mac_addrs = 1;
	i->max_rx_pktlen = 9728;
	i->min_rx_bufsize = 0;
	i->min_mtu = 68;
	i->max_mtu = 9700;
	i->max_rx_queues = p->queues;
	i->max_tx_queues = p->queues;
	i->rx_desc_lim.nb_max = MAX_RING;
	i->rx_desc_lim.nb_min = 32;
	i->rx_desc_lim.nb_align = 1;
	i->tx_desc_lim = i->rx_desc_lim;
	i->tx_desc_lim.nb_seg_max = 32;
	i->tx_desc_lim.nb_mtu_seg_max = 32;
	i->rx_offload_capa = RTE_ETH_RX_OFFLOAD_CHECKSUM | RTE_ETH_RX_OFFLOAD_SCATTER |
			     RTE_ETH_RX_OFFLOAD_RSS_HASH;
	i->tx_offload_capa = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_MULTI_SEGS |
			     RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE | RTE_ETH_TX_OFFLOAD_UDP_CKSUM |
			     RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
	i->flow_type_rss_offloads = RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_ESP;
	i->hash_key_size = 40;
	i->reta_size = 128;
	i->default_rxportconf.burst_size = 32;
	i->default_rxportconf.ring_size = 1024;
	i->default_txportconf.ring_size = 1024;
	return 0;
}

static const uint32_t *
dev_ptypes(struct rte_eth_dev *dev __rte_unused)
{
	static const uint32_t t[] = {
		RTE_PTYPE_L2_ETHER, RTE_PTYPE_L3_IPV4, RTE_PTYPE_L3_IPV6, RTE_PTYPE_L4_TCP,
		RTE_PTYPE_L4_UDP, RTE_PTYPE_TUNNEL_ESP, RTE_PTYPE_UNKNOWN,
	};

	return t;
}

static int
rxq_setup(struct rte_eth_dev *dev, uint16_t id, uint16_t nb, unsigned int socket __rte_unused,
	  const struct rte_eth_rxconf *conf __rte_unused, struct rte_mempool *mp)
{
	struct port *p = dev->data->dev_private;
	struct rxq *q = &p->rxq[id];
	union {
		struct rte_mbuf m;
		uint8_t raw[sizeof(struct rte_mbuf)];
	} t;

	memset(&t, 0, sizeof(t));
	t.m.data_off = RTE_PKTMBUF_HEADROOM;
	rte_mbuf_refcnt_set(&t.m, 1);
	t.m.nb_segs = 1;
	t.m.port = dev->data->port_id;
	q->rearm = *(uint64_t *)&t.m.rearm_data;
	q->mp = mp;
	q->ring = RTE_MIN(nb, (uint16_t)MAX_RING);
	dev->data->rx_queues[id] = q;
	if (q->src.n && rte_pktmbuf_data_room_size(mp) < q->src.stride + RTE_PKTMBUF_HEADROOM) {
		LOG("frames of up to %u bytes do not fit into buffers of %u\n", q->src.stride,
		    rte_pktmbuf_data_room_size(mp));
		return -EINVAL;
	}
	if (p->sends)
		meter_queue(q, NULL);
	return 0;
}

static int
txq_setup(struct rte_eth_dev *dev, uint16_t id, uint16_t nb, unsigned int socket __rte_unused,
	  const struct rte_eth_txconf *conf __rte_unused)
{
	struct port *p = dev->data->dev_private;

	p->txq[id].ring = RTE_MIN(nb, (uint16_t)MAX_RING);
	dev->data->tx_queues[id] = &p->txq[id];
	if (!p->sends)
		meter_queue(NULL, &p->txq[id]);
	return 0;
}

static int
link_update(struct rte_eth_dev *dev __rte_unused, int wait __rte_unused)
{
	return 0;
}

static int
accept_any(struct rte_eth_dev *dev __rte_unused)
{
	return 0;
}

static int
set_mtu(struct rte_eth_dev *dev __rte_unused, uint16_t mtu __rte_unused)
{
	return 0;
}

static int
set_mac(struct rte_eth_dev *dev __rte_unused, struct rte_ether_addr *a __rte_unused)
{
	return 0;
}

static int
stats_get(struct rte_eth_dev *dev, struct rte_eth_stats *st)
{
	struct port *p = dev->data->dev_private;

	for (uint16_t i = 0; i < p->queues; i++) {
		st->ipackets += p->rxq[i].pkts;
		st->ibytes += p->rxq[i].bytes;
		st->rx_nombuf += p->rxq[i].nombuf;
		st->opackets += p->txq[i].pkts;
		st->obytes += p->txq[i].bytes;
	}
	return 0;
}

static int
stats_reset(struct rte_eth_dev *dev __rte_unused)
{
	return -ENOTSUP; /* the meter counts with the same numbers */
}

static const struct eth_dev_ops ops = {
	.dev_configure = dev_configure,
	.dev_start = dev_start,
	.dev_stop = dev_stop,
	.dev_close = dev_close,
	.dev_infos_get = dev_info,
	.dev_supported_ptypes_get = dev_ptypes,
	.rx_queue_setup = rxq_setup,
	.tx_queue_setup = txq_setup,
	.link_update = link_update,
	.mtu_set = set_mtu,
	.mac_addr_set = set_mac,
	.promiscuous_enable = accept_any,
	.promiscuous_disable = accept_any,
	.allmulticast_enable = accept_any,
	.allmulticast_disable = accept_any,
	.stats_get = stats_get,
	.stats_reset = stats_reset,
};

/* ---- arguments */

static const char *const valid[] = {
	"frames", "sas", "queues", "count", "reseal", "mode", "limit", "tx_dump", "dump", "secs",
	"warm", "window_us", "stats", "gate", "pps", "latency", NULL,
};

static const char *
arg(struct rte_kvargs *kv, const char *key, const char *otherwise)
{
	const char *v = kv ? rte_kvargs_get(kv, key) : NULL;

	return v ? v : otherwise;
}

static int
open_dump(struct port *p, const char *path, uint32_t frames)
{
	static const uint32_t head[6] = {0xa1b2c3d4, 2 | 4 << 16, 0, 0, 65535, 1};

	p->dump = fopen(path, "wb");
	if (!p->dump)
		return -errno;
	fwrite(head, sizeof(head), 1, p->dump);
	p->dump_left = frames;
	return 0;
}

/* The file of a queue: the first has the plain name, the others ".1", ".2" behind it. */
static int
load_queue(struct rxq *q, const char *frames, struct rte_kvargs *kv)
{
	uint32_t count = (uint32_t)strtoul(arg(kv, "count", "0"), NULL, 0);
	char name[300];
	int rc;

	snprintf(name, sizeof(name), q->id ? "%s.%u" : "%s", frames, q->id);
	q->src.reseal = atoi(arg(kv, "reseal", "0"));
	rc = source_load(&q->src, name, arg(kv, "sas", NULL), count);
	if (!rc)
		LOG("%s: %u frames from %u templates, stride %u, %u SAs, core/TSC %.4f\n", name,
		    q->src.n, q->src.n_tmpl, q->src.stride, q->src.n_sas, meter_core_ratio());
	return rc;
}

static int
setup(struct port *p, struct rte_kvargs *kv)
{
	const char *frames = arg(kv, "frames", NULL), *dump = arg(kv, "tx_dump", NULL);
	struct meter_options o = {
		.stats = arg(kv, "stats", ""),
		.gate = arg(kv, "gate", ""),
		.secs = atof(arg(kv, "secs", "1")),
		.warm = atof(arg(kv, "warm", "0.5")),
		.window_us = (uint32_t)atoi(arg(kv, "window_us", "500")),
	};
	int rc = 0;

	p->queues = (uint16_t)RTE_MIN(atoi(arg(kv, "queues", "1")), MAX_QUEUES);
	p->direct = !strcmp(arg(kv, "mode", "ring"), "direct");
	p->limit = strtoull(arg(kv, "limit", "0"), NULL, 0);
	p->sends = frames != NULL;
	for (uint16_t i = 0; i < p->queues; i++) {
		p->rxq[i].p = p->txq[i].p = p;
		p->rxq[i].id = p->txq[i].id = i;
	}
	if (dump)
		rc = open_dump(p, dump, (uint32_t)atoi(arg(kv, "dump", "1000")));
	if (rc || !frames)
		return rc;
	for (uint16_t i = 0; i < p->queues && !rc; i++)
		rc = load_queue(&p->rxq[i], frames, kv);
	if (!rc)
		rc = latency_init(atof(arg(kv, "pps", "0")), arg(kv, "latency", "/dev/null"));
	return rc ? rc : meter_init(&o);
}

static int
probe(struct rte_vdev_device *dev)
{
	const char *args = rte_vdev_device_args(dev), *name = rte_vdev_device_name(dev);
	struct rte_kvargs *kv = args && *args ? rte_kvargs_parse(args, valid) : NULL;
	struct rte_eth_dev *eth;
	struct port *p;
	int rc;

	if (args && *args && !kv)
		return -EINVAL;
	eth = rte_eth_vdev_allocate(dev, sizeof(struct port));
	if (!eth)
		return -ENOMEM;
	p = eth->data->dev_private;
	memset(p, 0, sizeof(*p));
	p->mac = (struct rte_ether_addr){{2, 0, 0, 0, 0, (uint8_t)(name[strlen(name) - 1] - '0')}};
	rc = setup(p, kv);
	rte_kvargs_free(kv);
	if (rc) {
		LOG("%s: %s\n", name, strerror(-rc));
		eth->data->mac_addrs = NULL;
		rte_eth_dev_release_port(eth);
		return rc;
	}
	eth->data->mac_addrs = &p->mac;
	eth->data->nb_rx_queues = p->queues;
	eth->data->nb_tx_queues = p->queues;
	eth->data->promiscuous = 1;
	eth->data->dev_link = (struct rte_eth_link){
		.link_speed = RTE_ETH_SPEED_NUM_100G,
		.link_duplex = RTE_ETH_LINK_FULL_DUPLEX,
		.link_autoneg = RTE_ETH_LINK_FIXED,
		.link_status = RTE_ETH_LINK_DOWN,
	};
	eth->dev_ops = &ops;
	eth->rx_pkt_burst = p->sends ? port_rx : port_rx_none;
	eth->tx_pkt_burst = port_tx;
	rte_eth_dev_probing_finish(eth);
	return 0;
}

static int
drop_device(struct rte_vdev_device *dev)
{
	struct rte_eth_dev *eth = rte_eth_dev_allocated(rte_vdev_device_name(dev));

	if (eth) {
		dev_close(eth);
		rte_eth_dev_release_port(eth);
	}
	return 0;
}

static struct rte_vdev_driver driver = {
	.probe = probe,
	.remove = drop_device,
};

RTE_PMD_REGISTER_VDEV(net_gen, driver);
RTE_PMD_REGISTER_PARAM_STRING(net_gen,
	"frames=<pcap> sas=<file> queues=<n> count=<frames> reseal=<0|1> mode=<ring|direct> "
	"limit=<packets> tx_dump=<pcap> dump=<n> secs=<s> warm=<s> window_us=<us> stats=<file> "
	"gate=<file> pps=<packets a second> latency=<file>");
