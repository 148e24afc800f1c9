/* Frames to hand out: templates from a capture, repeated into an arena and sealed there. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <rte_byteorder.h>
#include <rte_ip.h>
#include <rte_mbuf_ptype.h>

#include "gen.h"

#define ICV 16
#define ESP_HEAD 16 /* SPI, sequence number, IV */
#define NAT_T 4500
/* With more SAs the expanded keys would take gigabytes. */
#define READY_KEYS_MAX 200000

static void *
big_alloc(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, bytes, MADV_HUGEPAGE);
	return p;
}

static uint16_t
be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

/* The packet type a NIC would report, and where ESP begins. */
static uint32_t
ptype_of(const uint8_t *f, uint32_t len, uint16_t *esp)
{
	uint16_t et = len >= 34 ? be16(f + 12) : 0;
	uint32_t off, t = RTE_PTYPE_L2_ETHER;
	uint8_t proto;

	*esp = 0;
	if (et == RTE_ETHER_TYPE_IPV4) {
		t |= RTE_PTYPE_L3_IPV4;
		proto = f[23];
		off = 14 + (f[14] & 15) * 4u;
	} else if (et == RTE_ETHER_TYPE_IPV6 && len >= 54) {
		t |= RTE_PTYPE_L3_IPV6;
		proto = f[20];
		off = 54;
	} else {
		return t;
	}
	if (proto == IPPROTO_ESP) {
		*esp = (uint16_t)off;
		return t | RTE_PTYPE_TUNNEL_ESP;
	}
	if (proto == IPPROTO_UDP) {
		static const uint8_t marker[4];

		t |= RTE_PTYPE_L4_UDP;
		if (len > off + 12 && be16(f + off + 2) == NAT_T &&
		    memcmp(f + off + 8, marker, sizeof(marker)))
			*esp = (uint16_t)(off + 8);
		return t;
	}
	return proto == IPPROTO_TCP ? t | RTE_PTYPE_L4_TCP : t;
}

static void *
grown(void *array, uint32_t n, uint32_t *cap, size_t item)
{
	if (n < *cap)
		return array;
	*cap = *cap ? *cap * 2 : 4096;
	return realloc(array, *cap * item);
}

static int
load_pcap(struct source *s, const char *path)
{
	FILE *f = fopen(path, "rb");
	uint32_t h[6], rec[4], cap = 0;

	if (!f || fread(h, 24, 1, f) != 1 || (h[0] != 0xa1b2c3d4 && h[0] != 0xa1b23c4d)) {
		LOG("%s: not a little-endian pcap\n", path);
		if (f)
			fclose(f);
		return -EINVAL;
	}
	while (fread(rec, 16, 1, f) == 1) {
		struct frame *fr;

		s->tmpl = grown(s->tmpl, s->n_tmpl, &cap, sizeof(*s->tmpl));
		if (!s->tmpl || rec[2] > 16000)
			break;
		fr = &s->tmpl[s->n_tmpl];
		fr->len = rec[2];
		fr->data = malloc(rec[2] + 64);
		fr->sa = -1;
		if (!fr->data || fread(fr->data, rec[2], 1, f) != 1)
			break;
		fr->ptype = ptype_of(fr->data, fr->len, &fr->esp);
		s->n_tmpl++;
		s->stride = RTE_MAX(s->stride, fr->len);
	}
	fclose(f);
	s->stride = RTE_ALIGN_CEIL(s->stride, 64u);
	return s->n_tmpl ? 0 : -EINVAL;
}

static uint32_t
unhex(const char *s, uint8_t *out, uint32_t max)
{
	uint32_t n = 0;
	unsigned int b;

	while (n < max && s[2 * n] && sscanf(s + 2 * n, "%2x", &b) == 1)
		out[n++] = (uint8_t)b;
	return n;
}

/* Lines "SPI KEYHEX SALTHEX [esn]", SPIs hexadecimal, in any order. */
static int
read_sas(struct source *s, const char *path)
{
	char line[512], key[130], salt[16], opt[16];
	FILE *f = fopen(path, "r");
	uint32_t spi, cap = 0;

	if (!f)
		return -ENOENT;
	while (fgets(line, sizeof(line), f)) {
		int got = sscanf(line, "%x %128s %15s %15s", &spi, key, salt, opt);
		struct sa *sa;

		if (got < 3)
			continue;
		s->sas = grown(s->sas, s->n_sas, &cap, sizeof(*s->sas));
		if (!s->sas)
			break;
		sa = &s->sas[s->n_sas++];
		memset(sa, 0, sizeof(*sa));
		sa->spi = spi;
		sa->esn = got > 3 && !strcmp(opt, "esn");
		unhex(salt, (uint8_t *)&sa->salt, 4);
		sa->key_len = unhex(key, sa->key, sizeof(sa->key));
		if (sa->key_len != 16 && sa->key_len != 32) {
			fclose(f);
			return -EINVAL;
		}
	}
	fclose(f);
	return s->n_sas ? 0 : -EINVAL;
}

static void
expand(struct source *s, const struct sa *sa, struct gcm_key_data *to)
{
	if (sa->key_len == 16)
		IMB_AES128_GCM_PRE(s->mb, sa->key, to);
	else
		IMB_AES256_GCM_PRE(s->mb, sa->key, to);
}

static int
expand_all(struct source *s)
{
	size_t stride = RTE_ALIGN_CEIL(sizeof(struct gcm_key_data), 64u);
	uint8_t *mem;

	if (s->n_sas > READY_KEYS_MAX)
		return 0;
	mem = big_alloc(s->n_sas * stride);
	if (!mem)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->n_sas; i++) {
		s->sas[i].ready = (struct gcm_key_data *)(mem + i * stride);
		expand(s, &s->sas[i], s->sas[i].ready);
	}
	return 0;
}

static uint32_t
slot_of(const struct source *s, uint32_t spi)
{
	uint32_t at = (spi * 0x9e3779b1u >> 7) & s->spi_mask;

	while (s->by_spi[at] && s->sas[s->by_spi[at] - 1].spi != spi)
		at = (at + 1) & s->spi_mask;
	return at;
}

static int
index_sas(struct source *s)
{
	s->spi_mask = rte_align32pow2(s->n_sas * 2 + 2) - 1;
	s->by_spi = calloc(s->spi_mask + 1ul, sizeof(*s->by_spi));
	if (!s->by_spi)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->n_sas; i++)
		s->by_spi[slot_of(s, s->sas[i].spi)] = i + 1;
	for (uint32_t i = 0; i < s->n_tmpl; i++) {
		struct frame *t = &s->tmpl[i];
		uint32_t spi, found;

		if (!t->esp)
			continue;
		memcpy(&spi, t->data + t->esp, 4);
		found = s->by_spi[slot_of(s, rte_be_to_cpu_32(spi))];
		if (!found) {
			LOG("frame %u: no SA for its SPI %#x\n", i, rte_be_to_cpu_32(spi));
			return -EINVAL;
		}
		t->sa = (int32_t)(found - 1);
	}
	return 0;
}

static int
load_sas(struct source *s, const char *path)
{
	int rc = read_sas(s, path);

	if (rc) {
		LOG("%s: no SAs, or a key that is none\n", path);
		return rc;
	}
	s->mb = alloc_mb_mgr(0);
	if (!s->mb)
		return -ENOMEM;
	init_mb_mgr_auto(s->mb, NULL);
	rc = expand_all(s);
	return rc ? rc : index_sas(s);
}

/* RFC 4106: IV is the sequence number, AAD is SPI and sequence number (64 bits with ESN). */
static void
seal(struct source *s, struct frame *a)
{
	struct sa *sa = &s->sas[a->sa];
	uint8_t *esp = a->data + a->esp, nonce[12], aad[12];
	uint32_t n = a->len - a->esp - ESP_HEAD - ICV, lo, hi, aad_len = sa->esn ? 12 : 8;
	struct gcm_key_data once __rte_aligned(64), *key = sa->ready;
	struct gcm_context_data ctx;
	uint64_t seq = ++sa->seq;

	if (!key) {
		key = &once;
		expand(s, sa, key);
	}
	lo = rte_cpu_to_be_32((uint32_t)seq);
	hi = rte_cpu_to_be_32((uint32_t)(seq >> 32));
	memcpy(esp + 4, &lo, 4);
	memcpy(esp + 8, &hi, 4);
	memcpy(esp + 12, &lo, 4);
	memcpy(nonce, &sa->salt, 4);
	memcpy(nonce + 4, esp + 8, 8);
	memcpy(aad, esp, 4);
	if (sa->esn)
		memcpy(aad + 4, &hi, 4);
	memcpy(aad + aad_len - 4, &lo, 4);
	if (sa->key_len == 16)
		IMB_AES128_GCM_ENC(s->mb, key, &ctx, esp + ESP_HEAD, esp + ESP_HEAD, n, nonce, aad,
				   aad_len, a->data + a->len - ICV, ICV);
	else
		IMB_AES256_GCM_ENC(s->mb, key, &ctx, esp + ESP_HEAD, esp + ESP_HEAD, n, nonce, aad,
				   aad_len, a->data + a->len - ICV, ICV);
}

/* (Re)writes the arena from the templates; ESP frames get the next sequence numbers. */
void
source_fill(struct source *s)
{
	for (uint32_t i = 0, t = 0; i < s->n; i++) {
		struct frame *a = &s->arena[i];

		memcpy(a->data, s->tmpl[t].data, a->len);
		if (a->sa >= 0)
			seal(s, a);
		if (++t == s->n_tmpl)
			t = 0;
	}
}

int
source_load(struct source *s, const char *pcap, const char *sas, uint32_t count)
{
	uint8_t *mem;
	int rc = load_pcap(s, pcap);

	if (!rc && sas)
		rc = load_sas(s, sas);
	if (rc)
		return rc;
	s->n = count > s->n_tmpl ? count / s->n_tmpl * s->n_tmpl : s->n_tmpl;
	mem = big_alloc((size_t)s->n * s->stride);
	s->arena = big_alloc((size_t)s->n * sizeof(*s->arena));
	if (!mem || !s->arena)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->n; i++) {
		s->arena[i] = s->tmpl[i % s->n_tmpl];
		s->arena[i].data = mem + (size_t)i * s->stride;
	}
	source_fill(s);
	return 0;
}
