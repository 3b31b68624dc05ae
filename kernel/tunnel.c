/* Writes and strips the overlay path's outer headers (VXLAN, RFC 7348) in tc: most packets are
 * spared the VXLAN device and its second walk through the stack (docs/decisions/0017).
 *
 * What goes out is what the device would send.  Any packet that needs more than these headers, or
 * is in doubt, takes the device, which also has the socket for which GRO merges packets on arrival.
 */
#include <linux/udp.h>

#define BY_DEVICE (-7) /* not a TC_ACT_*: the packet is unchanged, for the VXLAN device */
#define OUTER_TTL 64   /* also the tunnel key's */
#define ECN_MASK 3
#define ECN_ECT_0 2
#define ECN_CE 3
#define VXLAN_HAS_VNI bpf_htonl(0x08000000) /* all other flags are reserved, or extensions */
#define DECAP_L3_IPV6 (1ULL << 8) /* BPF_F_ADJ_ROOM_DECAP_L3_IPV6, Linux 6.3 */

#define STREAM_BYTES 1000 /* of a TCP packet with its IP header: longer ones may be a stream's */
#define STREAM_NS 1000000000ULL /* long past what the device's queue may hold */

struct vxlanhdr {
    __be32 flags;
    __be32 vni; /* in the upper 24 bits */
};

/* What stands between the outer Ethernet header and the inner IP header. */
struct outer {
    struct iphdr ip;
    struct udphdr udp;
    struct vxlanhdr vxlan;
    struct ethhdr inner;
} __attribute__((packed));

#define ENCAPSULATED                                                                          \
    (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |                             \
     BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(sizeof(struct ethhdr)))

static __always_inline u16 ip_checksum(const struct iphdr *ip)
{
    return fold(bpf_csum_diff(0, 0, (void *)ip, sizeof(*ip), 0));
}

/* The flow's group, the same for both directions, and the protocol above IP (in IPv6: behind no
 * extension header).  `at`: offset of the IP header. */
static __always_inline u32 group_of(struct __sk_buff *skb, u32 at, __be16 kind, u8 *protocol)
{
    struct ipv6hdr ip6 = {};
    struct iphdr ip = {};
    __be16 ports[2] = {};
    u32 mixed;
    if (kind == bpf_htons(ETH_P_IP)) {
        bpf_skb_load_bytes(skb, at, &ip, sizeof(ip));
        mixed = ip.saddr ^ ip.daddr;
        *protocol = ip.protocol;
        at += ip.ihl * 4;
    } else {
        bpf_skb_load_bytes(skb, at, &ip6, sizeof(ip6));
        mixed = ip6.saddr.s6_addr32[3] ^ ip6.daddr.s6_addr32[3];
        *protocol = ip6.nexthdr;
        at += sizeof(ip6);
    }
    bpf_skb_load_bytes(skb, at, ports, sizeof(ports));
    mixed ^= ports[0] ^ ports[1];
    return mixed * 0x9e3779b1 >> 16 & (SLIM_STREAMS - 1); /* Knuth's multiplicative hash */
}

/* Is the packet, or was one of its flow within the last second, in either direction, of a kind that
 * the kernel cuts or GRO merges?  Streams take the device, with their acknowledgements: its GRO
 * merges what the underlay's has not, and no packet may overtake another in its queue. */
static __always_inline int is_stream(struct __sk_buff *skb, u32 at, __be16 kind)
{
    u8 protocol;
    u32 group = group_of(skb, at, kind, &protocol);
    u64 now_ns = ktime_get_coarse_ns();
    u64 *until_ns = streams.lookup(&group);
    if (!until_ns)
        return 1;
    if (skb->gso_size || (protocol == IPPROTO_TCP && skb->len - at > STREAM_BYTES)) {
        *until_ns = now_ns + STREAM_NS;
        return 1;
    }
    return now_ns <= *until_ns;
}

/* The outer header's ECN bits are the inner one's, except "congestion experienced": RFC 6040, 4.1,
 * compatibility mode. */
static __always_inline u8 outer_tos(struct __sk_buff *skb)
{
    __be16 first = 0; /* of the IP header: version, then TOS or traffic class */
    bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &first, sizeof(first));
    u8 tos = skb->protocol == bpf_htons(ETH_P_IP) ? bpf_ntohs(first) : bpf_ntohs(first) >> 4;
    return (tos & ECN_MASK) == ECN_CE ? ECN_ECT_0 : tos & ECN_MASK;
}

/* Hosts' routers may spread flows by it.  The kernel's own formula, udp_flow_src_port(). */
static __always_inline __be16 source_port(u32 hash)
{
    hash ^= hash << 16;
    return bpf_htons((((u64)hash * CONSTANT(VXLAN_SOURCE_COUNT)) >> 32) +
                     CONSTANT(VXLAN_SOURCE_FIRST));
}

/* Send a packet, whose Ethernet header is complete, to another host.  Returns a verdict, or
 * BY_DEVICE: there the kernel also fragments what exceeds the route's MTU, and asks who has an
 * address. */
static __always_inline int encapsulate(struct __sk_buff *skb, u32 vni, u32 host_be)
{
    struct outer outer = {};
    u32 bytes = skb->len - sizeof(struct ethhdr) + sizeof(outer);
    if (!CONSTANT(VXLAN_PORT_BE) || is_stream(skb, sizeof(struct ethhdr), skb->protocol))
        return BY_DEVICE;
    struct next_hop way = find_next_hop(skb, ktime_get_coarse_ns(), host_be);
    u32 hash = bpf_get_hash_recalc(skb);
    if (bytes > way.mtu || !hash ||
        bpf_skb_load_bytes(skb, 0, &outer.inner, sizeof(outer.inner)))
        return BY_DEVICE;
    outer.ip.version = 4;
    outer.ip.ihl = sizeof(outer.ip) / 4;
    outer.ip.tos = outer_tos(skb);
    outer.ip.tot_len = bpf_htons(bytes);
    outer.ip.id = bpf_get_prandom_u32(); /* a router may fragment it */
    outer.ip.ttl = OUTER_TTL;
    outer.ip.protocol = IPPROTO_UDP;
    outer.ip.saddr = CONSTANT(UNDERLAY_BE);
    outer.ip.daddr = host_be;
    outer.ip.check = ip_checksum(&outer.ip);
    outer.udp.source = source_port(hash);
    outer.udp.dest = CONSTANT(VXLAN_PORT_BE);
    outer.udp.len = bpf_htons(bytes - sizeof(outer.ip));
    outer.vxlan.flags = VXLAN_HAS_VNI;
    outer.vxlan.vni = bpf_htonl(vni << 8);
    if (bpf_skb_adjust_room(skb, sizeof(outer), BPF_ADJ_ROOM_MAC, ENCAPSULATED))
        return BY_DEVICE; /* the container has encapsulated it already */
    if (bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &outer, sizeof(outer), 0))
        return TC_ACT_SHOT;
    return send_by(way.addr_be);
}

/* Is it, to the tunnel's port, what encapsulate() writes?  `bytes`: without the Ethernet header.
 * Not, among others, where the device would copy the outer header's ECN bits to the inner one. */
static __always_inline int is_encapsulated(const struct outer *outer, u32 bytes)
{
    return !outer->udp.check && bpf_ntohs(outer->ip.tot_len) == bytes &&
           bpf_ntohs(outer->udp.len) == bytes - sizeof(outer->ip) &&
           !(outer->ip.frag_off & bpf_htons(IP_FRAGMENT_MASK)) &&
           !(outer->ip.tos & ECN_MASK & ~ECN_ECT_0) &&
           outer->vxlan.flags == VXLAN_HAS_VNI && !(outer->vxlan.vni & bpf_htonl(0xff)) &&
           !ip_checksum(&outer->ip);
}

/* Strip the outer headers of a packet from the wire, in place.  Returns 0 if that is done; else it
 * is unchanged.  Checksums that the device has found right stay so: as in the kernel, the first is
 * the outer one's. */
static __always_inline int decapsulate(struct __sk_buff *skb, const struct outer *outer)
{
    u64 flags = BPF_F_ADJ_ROOM_NO_CSUM_RESET;
    if (outer->inner.h_proto == bpf_htons(ETH_P_IPV6))
        flags |= DECAP_L3_IPV6;
    if (bpf_skb_adjust_room(skb, -(s32)sizeof(*outer), BPF_ADJ_ROOM_MAC, flags))
        return -1;
    bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
    bpf_skb_store_bytes(skb, 0, (void *)&outer->inner, sizeof(outer->inner), 0);
    return 0;
}
