/* tc ingress of a container's own interface, inside its namespace: find the listener that a
 * SYN means, where sockets can be looked up.  Checks nothing: a container that removes this
 * hook only cuts off its own listeners.
 */
int to_container(struct __sk_buff *skb)
{
    struct headers4 h;
    if (skb->protocol != bpf_htons(ETH_P_IP) || !headers_tcp4(skb, &h) || !is_syn(h.tcp) ||
        h.ip->daddr != SLIM_UNDERLAY_BE)
        return TC_ACT_OK;
    struct flow_key key = {.peer_be = h.ip->saddr, .peer_port_be = h.tcp->source,
                           .local_port_be = h.tcp->dest};
    struct pending *syn = pending.lookup(&key);
    if (!syn)
        return TC_ACT_OK;
    struct bpf_sock_tuple wanted = {};
    wanted.ipv4.saddr = syn->peer_addr_be;
    wanted.ipv4.sport = key.peer_port_be;
    wanted.ipv4.daddr = syn->addr_be;
    wanted.ipv4.dport = syn->port_be;
    struct listener_key name = {.vni = syn->vni, .addr_be = syn->addr_be,
                                .port_be = syn->port_be};

    struct bpf_sock *listener = bpf_sk_lookup_tcp(skb, &wanted, sizeof(wanted.ipv4),
                                                  BPF_F_CURRENT_NETNS, 0);
    if (!listener) {
        count(REASON_no_listener);
        return TC_ACT_OK;
    }
    if (listener->state != BPF_TCP_LISTEN) {
        bpf_sk_release(listener);
        count(REASON_no_listener);
        return TC_ACT_OK;
    }
    struct bpf_sock *known = (void *)listeners.lookup(&name);
    int same = known == listener;
    if (known)
        bpf_sk_release(known);
    if (!same && listeners.update(&name, (void *)listener)) {
        bpf_sk_assign(skb, listener, 0);
        count(REASON_listener_assigned);
    }
    bpf_sk_release(listener);
    return TC_ACT_OK;
}
