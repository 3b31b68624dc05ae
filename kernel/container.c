/* tc ingress of a container's own interface, inside its namespace: finds the listener for a SYN,
 * because sockets can be looked up here.  Checks nothing: a container that removes this hook only
 * cuts off its own listeners.
 */

#define ESOCKTNOSUPPORT_ 94

/* State of the socket that the tuple on the wire finds; 0 if there is none. */
static __always_inline u32 state_on_wire(struct __sk_buff *skb, const struct flow_key *key)
{
    struct bpf_sock_tuple wire = {};
    u32 bytes = sizeof(wire.ipv4);
    if (CONSTANT(IPV6_UNDERLAY)) {
        u32 peer_be = key->peer_be;
        struct ipv6 own = own_underlay6(), *peer = hosts6.lookup(&peer_be);
        if (!peer)
            return 0;
        bytes = sizeof(wire.ipv6);
        __builtin_memcpy(wire.ipv6.saddr, peer->words, sizeof(wire.ipv6.saddr));
        wire.ipv6.sport = key->peer_port_be;
        __builtin_memcpy(wire.ipv6.daddr, own.words, sizeof(wire.ipv6.daddr));
        wire.ipv6.dport = key->local_port_be;
    } else {
        wire.ipv4.saddr = key->peer_be;
        wire.ipv4.sport = key->peer_port_be;
        wire.ipv4.daddr = CONSTANT(UNDERLAY_BE);
        wire.ipv4.dport = key->local_port_be;
    }
    struct bpf_sock *found = bpf_skc_lookup_tcp(skb, &wire, bytes, BPF_F_CURRENT_NETNS, 0);
    if (!found)
        return 0;
    u32 state = found->state;
    bpf_sk_release(found);
    return state;
}

/* The listener that a SYN with virtual addresses would find, 0 if there is none; the caller releases
 * it.  From the unspecified address: a connection on the overlay path, open or in TIME_WAIT, may
 * have the caller's name, and is another one.  With the caller's port, by which the kernel chooses
 * among listeners with SO_REUSEPORT. */
static __always_inline struct bpf_sock *find_listener(struct __sk_buff *skb,
                                                      const struct flow_key *key,
                                                      const struct pending *syn)
{
    struct bpf_sock_tuple wanted = {};
    if (!syn->ipv6) {
        wanted.ipv4.sport = key->peer_port_be;
        wanted.ipv4.daddr = syn->addr_be;
        wanted.ipv4.dport = syn->port_be;
        return bpf_sk_lookup_tcp(skb, &wanted, sizeof(wanted.ipv4), BPF_F_CURRENT_NETNS, 0);
    }
    struct ipv6 own;
    if (!own_address6(syn->sandbox, syn->vni, &own))
        return 0;
    wanted.ipv6.sport = key->peer_port_be;
    __builtin_memcpy(wanted.ipv6.daddr, own.words, sizeof(wanted.ipv6.daddr));
    wanted.ipv6.dport = syn->port_be;
    return bpf_sk_lookup_tcp(skb, &wanted, sizeof(wanted.ipv6), BPF_F_CURRENT_NETNS, 0);
}

/* Do two listeners at one port have the same address?  Then they are one, or of one SO_REUSEPORT
 * group, of which each look-up chooses one. */
static __always_inline int at_one_address6(const struct bpf_sock *one, const struct bpf_sock *other)
{
    return one->family == AF_INET6_ && other->family == AF_INET6_ &&
           !((one->src_ip6[0] ^ other->src_ip6[0]) | (one->src_ip6[1] ^ other->src_ip6[1]) |
             (one->src_ip6[2] ^ other->src_ip6[2]) | (one->src_ip6[3] ^ other->src_ip6[3]));
}

/* Put the listener where listener_lookup() takes it from.  Returns 0 if that could not give it to a
 * packet of IPv4: no SOCKHASH takes it, or it is no listener for IPv4, too, and may have
 * IPV6_V6ONLY. */
static __always_inline int remember_listener(struct __sk_buff *skb, struct listener_key *name,
                                             struct bpf_sock *listener)
{
    if (name->ipv6 != LISTENS_IPV6)
        return !listeners.update(name, (void *)listener);
    struct bpf_sock_tuple wanted = {};
    wanted.ipv4.daddr = name->addr_be;
    wanted.ipv4.dport = name->port_be;
    struct bpf_sock *found = bpf_sk_lookup_tcp(skb, &wanted, sizeof(wanted.ipv4),
                                               BPF_F_CURRENT_NETNS, 0);
    if (!found)
        return 0;
    int done = at_one_address6(found, listener) && !listeners.update(name, (void *)found);
    bpf_sk_release(found);
    return done;
}

/* listener_lookup() cannot give a listener that no SOCKHASH takes, nor one for IPv6 only, to a
 * packet of IPv4: assign it here, unless another socket has to see the packet first.  A socket in
 * TIME_WAIT answers the SYN itself, which makes the caller clear it away and try again soon; if the
 * SYN went straight to the listener, it would be lost until TIME_WAIT ends. */
static __always_inline int assign(struct __sk_buff *skb, const struct flow_key *key,
                                  const struct pending *syn, struct bpf_sock *listener)
{
    u32 state = state_on_wire(skb, key);
    if (state && state != BPF_TCP_LISTEN)
        return TC_ACT_OK;
    if (bpf_sk_assign(skb, listener, 0) != -ESOCKTNOSUPPORT_) {
        count(REASON_listener_assigned);
        return TC_ACT_OK;
    }
    /* A socket of before slim's hook at setsockopt(), with SO_REUSEPORT, before Linux 6.6.  Without
     * a listener the kernel would answer with a RST; the SYN that is sent again is told. */
    withhold(syn->sandbox, syn->ipv6 ? NOTE_IPV6_OPTIONS : NOTE_LISTENER_GROUP,
             syn->ipv6 ? 0 : REASON_listener_group);
    return TC_ACT_SHOT;
}

/* A packet of the host path: its flow as seen from this host, and its TCP header; 0: none. */
static __always_inline struct tcphdr *arrived4(struct __sk_buff *skb, struct flow_key *key)
{
    struct headers4 h;
    if (skb->protocol != bpf_htons(ETH_P_IP) || !headers_tcp4(skb, &h) ||
        h.ip->daddr != CONSTANT(UNDERLAY_BE))
        return 0;
    key->peer_be = h.ip->saddr;
    return h.tcp;
}

static __always_inline struct tcphdr *arrived6(struct __sk_buff *skb, struct flow_key *key)
{
    struct headers6 h;
    if (skb->protocol != bpf_htons(ETH_P_IPV6) || !headers_tcp6(skb, &h))
        return 0;
    struct ipv6 from = copied6(&h.ip->saddr), to = copied6(&h.ip->daddr);
    if (!is_own_underlay6(&to))
        return 0;
    key->peer_be = number_of(&from);
    return h.tcp;
}

int to_container(struct __sk_buff *skb)
{
    struct flow_key key = {};
    if (skb->mark != SLIM_SEEK)
        return TC_ACT_OK;
    skb->mark = 0; /* it has served its purpose, and others' rules must not see it */
    struct tcphdr *tcp = CONSTANT(IPV6_UNDERLAY) ? arrived6(skb, &key) : arrived4(skb, &key);
    if (!tcp || tcp->psh || tcp->fin || tcp->rst || tcp->syn == tcp->ack)
        return TC_ACT_OK; /* from here on: a SYN, or an ACK that may answer a SYN cookie */
    int syn_only = tcp->syn;
    key.peer_port_be = tcp->source;
    key.local_port_be = tcp->dest;
    u32 local_port = bpf_ntohs(tcp->dest);
    struct port *port = ports.lookup(&local_port);
    if (!port || !(syn_only || port->assigned))
        return TC_ACT_OK;
    struct pending *syn = pending.lookup(&key);
    if (!syn || !(syn_only || syn->assigned))
        return TC_ACT_OK;
    struct listener_key name = listener_of(syn);
    u16 listens = port->listens;
    int verdict = TC_ACT_OK;

    struct bpf_sock *listener = find_listener(skb, &key, syn);
    int listening = listener && listener->state == BPF_TCP_LISTEN;
    if (!listening) {
        if (listener)
            bpf_sk_release(listener);
        count(REASON_no_listener);
        tell_refused_syn(&key, syn->sandbox, syn->vni, syn->addr_be, syn->port_be,
                         syn->peer_addr_be, REASON_no_listener);
        return TC_ACT_OK;
    }
    if (!remember_listener(skb, &name, listener)) {
        syn->assigned = 1;
        port->assigned = 1;
        verdict = assign(skb, &key, syn, listener);
    } else if (*(volatile u16 *)&port->listens != listens) { /* a new listener since we looked */
        listeners.delete(&name);
    }
    bpf_sk_release(listener);
    return verdict;
}
