/* tc ingress of a container's own interface, inside its namespace: finds the listener for a SYN,
 * because sockets can be looked up here.  Checks nothing: a container that removes this hook only
 * cuts off its own listeners.
 */

/* State of the socket that the tuple on the wire finds; 0 if there is none. */
static __always_inline u32 state_on_wire(struct __sk_buff *skb, const struct flow_key *key)
{
    struct bpf_sock_tuple wire = {};
    wire.ipv4.saddr = key->peer_be;
    wire.ipv4.sport = key->peer_port_be;
    wire.ipv4.daddr = CONSTANT(UNDERLAY_BE);
    wire.ipv4.dport = key->local_port_be;
    struct bpf_sock *found = bpf_skc_lookup_tcp(skb, &wire, sizeof(wire.ipv4),
                                                BPF_F_CURRENT_NETNS, 0);
    if (!found)
        return 0;
    u32 state = found->state;
    bpf_sk_release(found);
    return state;
}

/* The listener that a SYN with virtual addresses would find, 0 if there is none; the caller releases
 * it.  IPv6: from the unspecified address, so that no connection on the overlay path is found. */
static __always_inline struct bpf_sock *find_listener(struct __sk_buff *skb,
                                                      const struct flow_key *key,
                                                      const struct pending *syn)
{
    struct bpf_sock_tuple wanted = {};
    if (!syn->ipv6) {
        wanted.ipv4.saddr = syn->peer_addr_be;
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

/* Is this the listener for IPv4, too?  Else it may have IPV6_V6ONLY, and listener_lookup() cannot
 * give it to a packet of IPv4. */
static __always_inline int takes_ipv4(struct __sk_buff *skb, const struct pending *syn,
                                      struct bpf_sock *listener)
{
    struct bpf_sock_tuple wanted = {};
    wanted.ipv4.daddr = syn->addr_be;
    wanted.ipv4.dport = syn->port_be;
    struct bpf_sock *found = bpf_sk_lookup_tcp(skb, &wanted, sizeof(wanted.ipv4),
                                               BPF_F_CURRENT_NETNS, 0);
    if (!found)
        return 0;
    int same = found == listener;
    bpf_sk_release(found);
    return same;
}

/* listener_lookup() cannot give a listener that no SOCKHASH takes, nor one for IPv6 only, to a
 * packet of IPv4: assign it here, unless another socket has to see the packet first.  A socket in
 * TIME_WAIT answers the SYN itself, which makes the caller clear it away and try again soon; if the
 * SYN went straight to the listener, it would be lost until TIME_WAIT ends. */
static __always_inline void assign(struct __sk_buff *skb, const struct flow_key *key,
                                   struct bpf_sock *listener)
{
    u32 state = state_on_wire(skb, key);
    if (state && state != BPF_TCP_LISTEN)
        return;
    bpf_sk_assign(skb, listener, 0);
    count(REASON_listener_assigned);
}

int to_container(struct __sk_buff *skb)
{
    struct headers4 h;
    if (skb->mark != SLIM_SEEK)
        return TC_ACT_OK;
    skb->mark = 0; /* it has served its purpose, and others' rules must not see it */
    if (skb->protocol != bpf_htons(ETH_P_IP) || !headers_tcp4(skb, &h) || h.tcp->psh || h.tcp->fin ||
        h.tcp->rst || h.tcp->syn == h.tcp->ack || h.ip->daddr != CONSTANT(UNDERLAY_BE))
        return TC_ACT_OK; /* from here on: a SYN, or an ACK that may answer a SYN cookie */
    int syn_only = h.tcp->syn;
    u32 local_port = bpf_ntohs(h.tcp->dest);
    struct port *port = ports.lookup(&local_port);
    if (!port || !(syn_only || port->assigned))
        return TC_ACT_OK;
    struct flow_key key = {.peer_be = h.ip->saddr, .peer_port_be = h.tcp->source,
                           .local_port_be = h.tcp->dest};
    struct pending *syn = pending.lookup(&key);
    if (!syn || !(syn_only || syn->assigned))
        return TC_ACT_OK;
    struct listener_key name = listener_of(syn);
    u16 listens = port->listens;

    struct bpf_sock *listener = find_listener(skb, &key, syn);
    if (!listener) {
        count(REASON_no_listener);
        return TC_ACT_OK;
    }
    if (listener->state != BPF_TCP_LISTEN) {
        bpf_sk_release(listener);
        count(REASON_no_listener);
        return TC_ACT_OK;
    }
    if ((syn->ipv6 && !takes_ipv4(skb, syn, listener)) ||
        listeners.update(&name, (void *)listener)) {
        syn->assigned = 1;
        port->assigned = 1;
        assign(skb, &key, listener);
    } else if (*(volatile u16 *)&port->listens != listens) { /* a new listener since we looked */
        listeners.delete(&name);
    }
    bpf_sk_release(listener);
    return TC_ACT_OK;
}
