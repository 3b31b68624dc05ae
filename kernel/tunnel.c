/* Writes and strips the overlay path's outer headers (VXLAN, RFC 7348), without the VXLAN device. */
#include <linux/udp.h>

#define NOT_TUNNELLED (-7) /* not a TC_ACT_*: the packet is as it was, and the VXLAN device's */
#define VXLAN_VNI_VALID bpf_htonl(0x08000000)
#define OUTER_TTL 64
#define ECN_MASK 3
#define ECN_CE 3
#define ECN_ECT_0 2

#define MERGED_BYTES 512
#define MERGED_NS 1000000000ULL

struct vxlanhdr {
    __be32 flags;
    __be32 vni; /* in the upper 24 bits */
};

/* What stands between the outer Ethernet header and the inner packet. */
struct outer {
    struct iphdr ip;
    struct udphdr udp;
    struct vxlanhdr vxlan;
    struct ethhdr inner;
} __attribute__((packed));

#define OUTER_BYTES sizeof(struct outer)
#define ENCAPSULATE (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | \
                     BPF_F_ADJ_ROOM_ENCAP_L2_ETH | \
                     BPF_F_ADJ_ROOM_ENCAP_L2(14ULL))
#define DECAP_L3_IPV6 (1ULL << 8) /* Linux 6.3 */

static __always_inline u16 ip_checksum(const struct iphdr *ip)
{
    return fold(bpf_csum_diff(0, 0, (void *)ip, sizeof(*ip), 0));
}

static __always_inline int tunnelled(struct __sk_buff *skb, u32 vni, u32 peer_be)
{
    struct outer outer = {};
    u8 tos = 0;
    u32 bytes = skb->len - sizeof(struct ethhdr) + sizeof(outer);
    if (!CONSTANT(VXLAN_PORT_BE) || skb->gso_size)
        return NOT_TUNNELLED;
    struct next_hop next = find_next_hop(skb, ktime_get_coarse_ns(), peer_be);
    u32 hash = bpf_get_hash_recalc(skb);
    if (bytes > next.mtu || !hash ||
        bpf_skb_load_bytes(skb, 0, &outer.inner, sizeof(outer.inner)))
        return NOT_TUNNELLED;
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr) + 1, &tos, 1))
            return NOT_TUNNELLED;
    } else {
        u16 first;
        if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &first, 2))
            return NOT_TUNNELLED;
        tos = bpf_ntohs(first) >> 4;
    }
    if (bpf_skb_adjust_room(skb, sizeof(outer), BPF_ADJ_ROOM_MAC, ENCAPSULATE))
        return NOT_TUNNELLED;
    tos &= ECN_MASK;
    hash ^= hash << 16;
    outer.ip.version = 4;
    outer.ip.ihl = 5;
    outer.ip.tos = tos == ECN_CE ? ECN_ECT_0 : tos;
    outer.ip.tot_len = bpf_htons(bytes);
    outer.ip.id = bpf_get_prandom_u32();
    outer.ip.ttl = OUTER_TTL;
    outer.ip.protocol = IPPROTO_UDP;
    outer.ip.saddr = CONSTANT(UNDERLAY_BE);
    outer.ip.daddr = peer_be;
    outer.ip.check = ip_checksum(&outer.ip);
    outer.udp.source = bpf_htons((((u64)hash * CONSTANT(HASH_PORT_COUNT)) >> 32) +
                                 CONSTANT(HASH_PORT_FIRST));
    outer.udp.dest = CONSTANT(VXLAN_PORT_BE);
    outer.udp.len = bpf_htons(bytes - sizeof(outer.ip));
    outer.vxlan.flags = VXLAN_VNI_VALID;
    outer.vxlan.vni = bpf_htonl(vni << 8);
    if (bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &outer, sizeof(outer), 0))
        return TC_ACT_SHOT;
    return by_next_hop(next.addr_be);
}

static __always_inline int is_merged(struct __sk_buff *skb, u16 flow_be, u8 protocol)
{
    u64 now_ns = ktime_get_coarse_ns();
    u32 slot = bpf_ntohs(flow_be) % SLIM_MERGED;
    u64 *until_ns = merged.lookup(&slot);
    if (!until_ns)
        return 1;
    if (skb->gso_size || (protocol == IPPROTO_TCP && skb->len > MERGED_BYTES)) {
        *until_ns = now_ns + MERGED_NS;
        return 1;
    }
    return now_ns <= *until_ns;
}

static __always_inline int untunnelled(struct __sk_buff *skb)
{
    const u32 at = sizeof(struct ethhdr);
    if (!readable(skb, at + sizeof(struct outer) + sizeof(struct iphdr)))
        return TC_ACT_OK;
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct outer *outer = data + at;
    struct iphdr *inner = (void *)(outer + 1);
    if ((void *)(inner + 1) > end || outer->udp.dest != CONSTANT(VXLAN_PORT_BE))
        return TC_ACT_OK;
    if (outer->ip.frag_off & bpf_htons(IP_FRAGMENT_MASK) || outer->udp.check ||
        outer->ip.tos & 1 ||
        bpf_ntohs(outer->ip.tot_len) + at != skb->len ||
        bpf_ntohs(outer->udp.len) + at + sizeof(struct iphdr) != skb->len ||
        outer->vxlan.flags != VXLAN_VNI_VALID || outer->vxlan.vni & bpf_htonl(0xff) ||
        outer->inner.h_proto != bpf_htons(ETH_P_IP) || inner->version != 4 ||
        is_merged(skb, outer->udp.source, inner->protocol))
        return TC_ACT_OK;
    u32 vni = bpf_ntohl(outer->vxlan.vni) >> 8, outer_be = outer->ip.saddr;
    struct address from = {.vni = vni, .addr_be = inner->saddr};
    struct address to = {.vni = vni, .addr_be = inner->daddr};
    struct iphdr ip = outer->ip;
    u8 macs[12];
    __builtin_memcpy(macs, &outer->inner, sizeof(macs));
    struct location *sender = directory.lookup(&from);
    struct delivery *local = endpoints.lookup(&to);
    if (!sender || sender->underlay_be != outer_be || outer_be == CONSTANT(UNDERLAY_BE) || !local ||
        ip_checksum(&ip))
        return TC_ACT_OK;
    if (bpf_skb_adjust_room(skb, -(s32)sizeof(struct outer), BPF_ADJ_ROOM_MAC,
                            BPF_F_ADJ_ROOM_NO_CSUM_RESET))
        return TC_ACT_OK;
    bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
    bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
    count(REASON_overlay_received);
    return bpf_redirect_peer(local->ifindex, 0);
}
