/* Gives direct access to a packet's headers.  Pure: no map access, no verdicts. */
#ifndef SLIM_PACKET_H
#define SLIM_PACKET_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/tcp.h>

/* RFC 792; linux/icmp.h would pull the C library's headers in. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_REDIRECT 5
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
struct icmphdr {
    __u8 type;
    __u8 code;
    __u16 checksum_be;
    __u32 rest_be;
};

#define IP_FRAGMENT_MASK 0x3fff /* "more fragments" and the offset: any of it = a fragment */
#define IP_OFFSET_MASK 0x1fff   /* any of it = a fragment other than the first */

struct headers4 {
    struct ethhdr *eth;
    struct iphdr *ip;
    struct tcphdr *tcp; /* only after headers_tcp4() */
};

/* Make the first `bytes` bytes readable by direct access, if the packet is that long. */
static __always_inline int readable(struct __sk_buff *skb, __u32 bytes)
{
    if ((void *)(long)skb->data + bytes <= (void *)(long)skb->data_end)
        return 1;
    return skb->len >= bytes && bpf_skb_pull_data(skb, bytes) == 0;
}

static __always_inline int headers_ip4(struct __sk_buff *skb, struct headers4 *h)
{
    if (!readable(skb, sizeof(*h->eth) + sizeof(*h->ip)))
        return 0;
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    h->eth = data;
    h->ip = data + sizeof(*h->eth);
    return (void *)(h->ip + 1) <= end && h->ip->version == 4;
}

/* Whole, unfragmented TCP without IP options: the only kind the host path carries. */
static __always_inline int headers_tcp4(struct __sk_buff *skb, struct headers4 *h)
{
    if (!readable(skb, sizeof(*h->eth) + sizeof(*h->ip) + sizeof(*h->tcp)))
        return 0;
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    h->eth = data;
    h->ip = data + sizeof(*h->eth);
    h->tcp = (void *)(h->ip + 1);
    return (void *)(h->tcp + 1) <= end && h->ip->ihl == 5 && h->ip->protocol == IPPROTO_TCP &&
           !(h->ip->frag_off & bpf_htons(IP_FRAGMENT_MASK));
}

struct headers6 {
    struct ipv6hdr *ip;
    struct tcphdr *tcp;
};

static __always_inline int headers_ip6(struct __sk_buff *skb, struct headers6 *h)
{
    const __u32 at = sizeof(struct ethhdr);
    if (!readable(skb, at + sizeof(*h->ip)))
        return 0;
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    h->ip = data + at;
    return (void *)(h->ip + 1) <= end && h->ip->version == 6;
}

/* TCP without extension headers: the only kind that the host path carries over IPv6. */
static __always_inline int headers_tcp6(struct __sk_buff *skb, struct headers6 *h)
{
    const __u32 at = sizeof(struct ethhdr);
    if (!readable(skb, at + sizeof(*h->ip) + sizeof(*h->tcp)))
        return 0;
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    h->ip = data + at;
    h->tcp = (void *)(h->ip + 1);
    return (void *)(h->tcp + 1) <= end && h->ip->version == 6 && h->ip->nexthdr == IPPROTO_TCP;
}

static __always_inline int is_syn(const struct tcphdr *tcp)
{
    return tcp->syn && !tcp->ack;
}

/* 224.0.0.0/4, 255.255.255.255; the caller has to know a subnet's own broadcast address. */
static __always_inline int is_multicast4(__u32 addr_be)
{
    return (addr_be & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || addr_be == 0xffffffff;
}

#endif
