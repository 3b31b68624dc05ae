/* Probes: does a SYN with our option get from one host to another?  (docs/wire.md)
 *
 * The driver sends a SYN to virtual port 0 of a peer's endpoint.  The peer's wire hook answers with
 * a RST whose window says that slim has seen the option; a firewall that refuses in its name does
 * not know that value.  No container takes part, and the answer reaches no socket.
 */
#define PROOF bpf_htons(OPTION_EXPERIMENT)

struct bare_segment {
    struct iphdr ip;
    struct tcphdr tcp;
};

/* Turn `skb`, a SYN, into its answer.  Returns 0; if not 0, the packet must be dropped. */
static __always_inline int turn_into_answer(struct __sk_buff *skb)
{
    struct bare_segment asked, answer = {};
    struct {
        u32 from_be, to_be;
        u16 protocol_be, bytes_be;
    } pseudo = {};
    const u32 at = sizeof(struct ethhdr);
    if (bpf_skb_load_bytes(skb, at, &asked, sizeof(asked)) ||
        bpf_skb_change_tail(skb, at + sizeof(answer), 0))
        return -1;
    answer.ip.version = 4;
    answer.ip.ihl = 5;
    answer.ip.ttl = 64;
    answer.ip.frag_off = bpf_htons(0x4000); /* "don't fragment", like the kernel's own */
    answer.ip.tot_len = bpf_htons(sizeof(answer));
    answer.ip.protocol = IPPROTO_TCP;
    answer.ip.saddr = pseudo.from_be = asked.ip.daddr;
    answer.ip.daddr = pseudo.to_be = asked.ip.saddr;
    answer.ip.check = fold(bpf_csum_diff(0, 0, (void *)&answer.ip, sizeof(answer.ip), 0));
    answer.tcp.source = asked.tcp.dest;
    answer.tcp.dest = asked.tcp.source;
    answer.tcp.ack_seq = bpf_htonl(bpf_ntohl(asked.tcp.seq) + 1);
    answer.tcp.doff = sizeof(answer.tcp) / 4;
    answer.tcp.rst = 1;
    answer.tcp.ack = 1;
    answer.tcp.window = PROOF;
    pseudo.protocol_be = bpf_htons(IPPROTO_TCP);
    pseudo.bytes_be = bpf_htons(sizeof(answer.tcp));
    u32 sum = bpf_csum_diff(0, 0, (void *)&pseudo, sizeof(pseudo), 0);
    answer.tcp.check = fold(bpf_csum_diff(0, 0, (void *)&answer.tcp, sizeof(answer.tcp), sum));
    return bpf_skb_store_bytes(skb, at, &answer, sizeof(answer), BPF_F_INVALIDATE_HASH);
}

/* The same over an IPv6 underlay. */
static __always_inline int turn_into_answer6(struct __sk_buff *skb)
{
    struct {
        struct ipv6hdr ip;
        struct tcphdr tcp;
    } asked, answer = {};
    const u32 at = sizeof(struct ethhdr);
    if (bpf_skb_load_bytes(skb, at, &asked, sizeof(asked)) ||
        bpf_skb_change_tail(skb, at + sizeof(answer), 0))
        return -1;
    u32 pseudo[2] = {bpf_htonl(sizeof(answer.tcp)), bpf_htonl(IPPROTO_TCP)};
    answer.ip.version = 6;
    answer.ip.payload_len = bpf_htons(sizeof(answer.tcp));
    answer.ip.nexthdr = IPPROTO_TCP;
    answer.ip.hop_limit = 64;
    answer.ip.saddr = asked.ip.daddr;
    answer.ip.daddr = asked.ip.saddr;
    answer.tcp.source = asked.tcp.dest;
    answer.tcp.dest = asked.tcp.source;
    answer.tcp.ack_seq = bpf_htonl(bpf_ntohl(asked.tcp.seq) + 1);
    answer.tcp.doff = sizeof(answer.tcp) / 4;
    answer.tcp.rst = 1;
    answer.tcp.ack = 1;
    answer.tcp.window = PROOF;
    u32 sum = bpf_csum_diff(0, 0, (void *)&answer.ip.saddr, 2 * sizeof(answer.ip.saddr), 0);
    sum = bpf_csum_diff(0, 0, (void *)pseudo, sizeof(pseudo), sum);
    answer.tcp.check = fold(bpf_csum_diff(0, 0, (void *)&answer.tcp, sizeof(answer.tcp), sum));
    return bpf_skb_store_bytes(skb, at, &answer, sizeof(answer), BPF_F_INVALIDATE_HASH);
}

/* Is it the answer to a probe of this host's driver?  If so, note it: it is needed no further. */
static __always_inline int is_answer(struct __sk_buff *skb, struct flow_key *key)
{
    struct tcphdr tcp;
    struct probe *probe = probes.lookup(key);
    if (!probe || bpf_skb_load_bytes(skb, host_path_tcp_at(), &tcp, sizeof(tcp)) ||
        !tcp.ack || tcp.ack_seq != probe->ack_be)
        return 0;
    probe->window_be = tcp.window;
    probe->answered = 1;
    return 1;
}
