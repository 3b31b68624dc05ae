/* The TCP option that a SYN of the host path carries (docs/wire.md).
 *
 * Experimental option 254 with an experiment id (RFC 6994), 8 bytes.  It is the header's last
 * option, since the kernel writes options of BPF programs after its own; so nobody has to search
 * for it, unless another program of the same hooks has written an option after ours.
 */
#ifndef SLIM_OPTION_H
#define SLIM_OPTION_H

#include <linux/types.h>

#define OPTION_KIND 254
#define OPTION_EXPERIMENT 0x5e1d
#define OPTION_EXPERIMENT6 0x5e16 /* the same, but the endpoints' IPv6 addresses are meant */

struct syn_option {
    __u8 kind;
    __u8 length; /* 8 */
    __u16 experiment_be;
    __u16 port_be;        /* virtual destination port */
    __u16 caller_port_be; /* the caller's endpoint port P */
};

static __always_inline int option_valid(const struct syn_option *o)
{
    return o->kind == OPTION_KIND && o->length == sizeof(*o) &&
           (o->experiment_be == bpf_htons(OPTION_EXPERIMENT) ||
            o->experiment_be == bpf_htons(OPTION_EXPERIMENT6));
}

static __always_inline int option_means_ipv6(const struct syn_option *o)
{
    return o->experiment_be == bpf_htons(OPTION_EXPERIMENT6);
}

#define OPTION_PLACES 24 /* 40 bytes, less ours, less the options that every SYN has */

/* Search backwards, byte by byte.  The pattern is 32 bits long; if somebody puts it elsewhere on
 * purpose, both hosts find it there. */
static __always_inline int option_search(struct __sk_buff *skb, __u32 last, struct syn_option *o)
{
    for (__u32 i = 1; i <= OPTION_PLACES; i++) {
        asm volatile("" : "+r"(i)); /* keep `i` a number that the verifier can track */
        if (bpf_skb_load_bytes(skb, last - i, o, sizeof(*o)) == 0 && option_valid(o))
            return 1;
    }
    return 0;
}

/* Read our option from the TCP header that starts `tcp_offset` bytes into the packet. */
static __always_inline int option_read(struct __sk_buff *skb, __u32 tcp_offset, __u32 doff,
                                       struct syn_option *o)
{
    if (doff * 4 < 20 + sizeof(*o))
        return 0;
    __u32 last = tcp_offset + doff * 4 - sizeof(*o);
    if (bpf_skb_load_bytes(skb, last, o, sizeof(*o)))
        return 0; /* the header claims to be longer than the packet */
    return option_valid(o) || option_search(skb, last, o);
}

#endif
