/* Host-path packets on their way into a container of this host; used by the wire's hook and,
 * for peers on the same host, by the veths' hooks.
 */
#define NOT_OURS (-2) /* beside TC_ACT_*: nobody's here, the caller decides */

/* Inside the container to_container has to look sockets up only for what is marked so. */
static __always_inline void seek_listener(struct __sk_buff *skb)
{
    skb->mark = SLIM_SEEK;
}

static __always_inline struct listener_key listener_of(const struct pending *syn)
{
    struct listener_key name = {.sandbox = syn->sandbox, .vni = syn->vni,
                                .addr_be = syn->addr_be, .port_be = syn->port_be};
    return name;
}

/* Is the listener of an earlier SYN still the one?  It is gone from the map when it has closed,
 * and when the container has begun to listen on any other socket (sockops). */
static __always_inline int listener_known(const struct pending *syn)
{
    struct listener_key name = listener_of(syn);
    struct bpf_sock *known = (void *)listeners.lookup(&name);
    if (!known)
        return 0;
    int listening = known->state == BPF_TCP_LISTEN;
    bpf_sk_release(known);
    return listening;
}

/* Let a SYN in, or drop it: only endpoints of the same network may call, by their own name.
 * Returns 1 and remembers the SYN, or 0. */
static __always_inline int admit(struct __sk_buff *skb, const struct flow_key *key,
                                 const struct port *callee, u32 doff)
{
    struct syn_option option;
    if (!option_read(skb, sizeof(struct ethhdr) + sizeof(struct iphdr), doff, &option)) {
        count(REASON_syn_no_option);
        return 0;
    }
    struct wire_name name = {.underlay_be = key->peer_be, .port_be = option.caller_port_be};
    struct address *caller = reverse.lookup(&name);
    if (!caller) {
        count(REASON_syn_unknown_caller);
        return 0;
    }
    if (caller->vni != callee->vni) {
        count(REASON_syn_other_network);
        return 0;
    }
    struct pending syn = {.sandbox = callee->sandbox, .vni = callee->vni,
                          .addr_be = callee->addr_be, .peer_addr_be = caller->addr_be,
                          .port_be = option.port_be, .ifindex = callee->ifindex};
    if (pending.update((struct flow_key *)key, &syn)) {
        count(REASON_pending_full);
        return 0;
    }
    if (!listener_known(&syn))
        seek_listener(skb);
    return 1;
}

/* `key` is the flow as seen from this host: peer = the packet's source. */
static __always_inline int deliver(struct __sk_buff *skb, struct flow_key *key, int syn, u32 doff)
{
    u32 local_port = bpf_ntohs(key->local_port_be);
    if (local_port >= SLIM_PORT_FIRST && local_port <= SLIM_PORT_LAST) {
        struct port *port = ports.lookup(&local_port);
        if (!port || !port->sandbox)
            return NOT_OURS;
        if (syn && !admit(skb, key, port, doff))
            return TC_ACT_SHOT;
        if (port->assigned) /* an ACK may answer a SYN cookie */
            seek_listener(skb);
        return bpf_redirect_peer(port->ifindex, 0);
    }
    struct flow *flow = flows.lookup(key);
    return flow ? bpf_redirect_peer(flow->ifindex, 0) : NOT_OURS;
}
