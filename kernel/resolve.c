/* tc ingress of lo inside a container: hands queries for Docker's name server to slim's.
 *
 * Both listen at 127.0.0.11 in the container's namespace.  Docker's NAT rules have turned port 53
 * into its server's by the time a packet comes here, and would turn it again: redirecting the
 * packet makes the kernel forget its NAT entry.  So each query, also on a socket that has been
 * connected for hours, goes to slim's server while its driver is well, and else to Docker's.
 */
#define NAME_SERVER 0x7f00000b /* 127.0.0.11 */
#define NAME_PORT 53

struct query_headers {
    struct iphdr *ip;
    u16 *ports; /* source, destination */
};

static __always_inline int query_headers(struct __sk_buff *skb, struct query_headers *h)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    h->ip = data + sizeof(struct ethhdr);
    h->ports = (void *)(h->ip + 1);
    return skb->protocol == bpf_htons(ETH_P_IP) && (void *)(h->ports + 2) <= end &&
           h->ip->ihl == 5 && !(h->ip->frag_off & bpf_htons(IP_FRAGMENT_MASK)) &&
           (h->ip->protocol == IPPROTO_UDP || h->ip->protocol == IPPROTO_TCP);
}

/* Replace a port; `at`: where it lies in the transport header. */
static __always_inline void replace_port(struct __sk_buff *skb, u8 protocol, u32 at, u16 from_be,
                                         u16 to_be)
{
    const u32 transport = sizeof(struct ethhdr) + sizeof(struct iphdr);
    if (protocol == IPPROTO_UDP)
        bpf_l4_csum_replace(skb, transport + 6, from_be, to_be, BPF_F_MARK_MANGLED_0 | sizeof(u16));
    else
        bpf_l4_csum_replace(skb, transport + 16, from_be, to_be, sizeof(u16));
    bpf_skb_store_bytes(skb, transport + at, &to_be, sizeof(to_be), 0);
}

static __always_inline int names_are_served(void)
{
    u32 key = 0;
    u64 *until_ns = names_until.lookup(&key);
    return until_ns && bpf_ktime_get_ns() < *until_ns;
}

/* Does slim's server take this packet?  Its driver may not have opened it yet, or have given it up.
 * A TCP connection stays with the server that it was opened to. */
static __always_inline int is_served(struct __sk_buff *skb, u8 protocol, u32 source_addr_be,
                                     u16 source_be, int syn)
{
    struct bpf_sock_tuple to = {};
    to.ipv4.saddr = source_addr_be;
    to.ipv4.sport = source_be;
    to.ipv4.daddr = bpf_htonl(NAME_SERVER);
    to.ipv4.dport = bpf_htons(SLIM_NAMES_PORT);
    struct bpf_sock *server = protocol == IPPROTO_UDP
        ? bpf_sk_lookup_udp(skb, &to, sizeof(to.ipv4), BPF_F_CURRENT_NETNS, 0)
        : bpf_skc_lookup_tcp(skb, &to, sizeof(to.ipv4), BPF_F_CURRENT_NETNS, 0);
    if (!server)
        return 0;
    int listens = protocol == IPPROTO_TCP && server->state == BPF_TCP_LISTEN;
    bpf_sk_release(server);
    return !listens || syn;
}

int name_query(struct __sk_buff *skb)
{
    struct query_headers h;
    if (!query_headers(skb, &h))
        return TC_ACT_OK;
    u8 protocol = h.ip->protocol;
    u32 source_addr_be = h.ip->saddr;
    u16 source_be = h.ports[0], destination_be = h.ports[1];
    struct tcphdr *tcp = (void *)h.ports;
    int syn = protocol == IPPROTO_TCP && (void *)(tcp + 1) <= (void *)(long)skb->data_end &&
              tcp->syn && !tcp->ack;
    if (h.ip->saddr == bpf_htonl(NAME_SERVER)) {
        if (source_be == bpf_htons(SLIM_NAMES_PORT))
            replace_port(skb, protocol, 0, source_be, bpf_htons(NAME_PORT));
        return TC_ACT_OK;
    }
    if (h.ip->daddr != bpf_htonl(NAME_SERVER) || destination_be == bpf_htons(SLIM_NAMES_PORT) ||
        skb->mark == SLIM_NAMES_MARK || !names_are_served() ||
        !is_served(skb, protocol, source_addr_be, source_be, syn))
        return TC_ACT_OK;
    count(REASON_name_query);
    replace_port(skb, protocol, sizeof(u16), destination_be, bpf_htons(SLIM_NAMES_PORT));
    return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}
