/* The TCP option that a SYN of the host path carries (docs/wire.md).
 *
 * Experimental option 254 with an experiment id (RFC 6994), 8 bytes, and always the last
 * option of the header: the kernel writes options of BPF programs after its own, so nobody
 * has to search for it.
 */
#ifndef SLIM_OPTION_H
#define SLIM_OPTION_H

#include <linux/types.h>

#define OPTION_KIND 254
#define OPTION_EXPERIMENT 0x5e1d

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
           o->experiment_be == bpf_htons(OPTION_EXPERIMENT);
}

/* Read the last 8 bytes of a TCP header that starts `tcp_offset` bytes into the packet. */
static __always_inline int option_read(struct __sk_buff *skb, __u32 tcp_offset, __u32 doff,
                                       struct syn_option *o)
{
    if (doff * 4 < 20 + sizeof(*o))
        return 0;
    return bpf_skb_load_bytes(skb, tcp_offset + doff * 4 - sizeof(*o), o, sizeof(*o)) == 0 &&
           option_valid(o);
}

#endif
