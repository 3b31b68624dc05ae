/* Delivers host-path packets into a container of this host.  Used by the wire's hook and, for the
 * connections that to_neighbour() still carries, by the veths' hooks.
 */
#define NOT_OURS (-2) /* not a TC_ACT_*: no endpoint's here, the caller decides */
#define ADMITTED (-4)
#define PROBED (-5) /* a peer's driver asks whether its SYNs arrive: they do */

/* Mark a packet: inside the container, to_container looks up sockets only for marked packets. */
static __always_inline void seek_listener(struct __sk_buff *skb)
{
    skb->mark = SLIM_SEEK;
}

static __always_inline struct listener_key listener_of(const struct pending *syn)
{
    struct listener_key name = {.sandbox = syn->sandbox, .vni = syn->vni,
                                .addr_be = syn->addr_be, .port_be = syn->port_be,
                                .ipv6 = CONSTANT(IPV6_UNDERLAY) ? LISTENS_OVER_IPV6
                                                                : syn->ipv6};
    return name;
}

/* Is the listener of an earlier SYN still valid?  It is removed from the map when it closes, and
 * when the container begins to listen on any other socket (sockops). */
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

/* Reasons that end before a SYN is retransmitted: rules or routes are put back, or the driver looks
 * at changed tables (mostly dockerd has set the container's DNS rules). */
static __always_inline int withheld_for_a_moment(u64 sandbox, u32 why)
{
    if (why != REASON_own_rules)
        return why == REASON_routing_lost || why & WITHHELD_LOOKING;
    struct note *note = notes.lookup(&sandbox);
    if (note && note->what & NOTE_RULES)
        return 1;
    u32 *now = withheld.lookup(&sandbox); /* has the driver begun to look since, or decided? */
    return !now || *now & WITHHELD_LOOKING;
}

/* Tell a caller that has not heard yet: it fails at once, and its next attempt takes the
 * overlay. */
static __always_inline int tell_withheld(struct __sk_buff *skb, u64 sandbox, u32 why)
{
    count(REASON_syn_withheld);
    u32 came_by = skb->ifindex;
    if (withheld_for_a_moment(sandbox, why) ||
        (CONSTANT(IPV6_UNDERLAY) ? turn_into_unreachable6(skb, 0)
                                 : turn_into_unreachable(skb, UNREACHABLE_FILTERED)))
        return TC_ACT_SHOT;
    return came_by == CONSTANT(UNDERLAY_IFINDEX) ? bpf_redirect(came_by, 0) : answer(skb);
}

/* Admit a SYN, or drop it: only endpoints of the same network may call, by their own name.
 * Returns ADMITTED and remembers the SYN, or returns a verdict, NOT_OURS or PROBED.  A probe tests
 * the wire, not the endpoint: it is answered even for ports that have no owner yet. */
static __always_inline int admit(struct __sk_buff *skb, const struct flow_key *key,
                                 const struct port *callee, u32 doff)
{
    struct syn_option option = {};
    struct address *caller = 0;
    u32 reason, kept_off;
    if (!option_read(skb, host_path_tcp_at(), doff, &option)) {
        option.port_be = 0;
        if (!callee->sandbox)
            return NOT_OURS;
        reason = REASON_syn_no_option;
        goto refused;
    }
    struct wire_name name = {.underlay_be = key->peer_be, .port_be = option.caller_port_be};
    caller = reverse.lookup(&name);
    if (caller && !option.port_be) /* nobody can listen there */
        return PROBED;
    if (!callee->sandbox)
        return NOT_OURS;
    if (!caller && !option.port_be) {
        count(REASON_probe_unknown);
        return TC_ACT_SHOT;
    }
    if (!caller) {
        reason = REASON_syn_unknown_caller;
        goto refused;
    }
    if (caller->vni != callee->vni) {
        reason = REASON_syn_other_network;
        goto refused;
    }
    u64 sandbox = callee->sandbox;
    u32 *why = withheld.lookup(&sandbox);
    if (why) {
        kept_off = *why;
        goto withheld;
    }
    int ipv6 = option_means_ipv6(&option);
    if (CONSTANT(IPV6_UNDERLAY) && !ipv6) { /* no driver calls IPv4 addresses by IPv6 */
        reason = REASON_syn_no_option;
        goto refused;
    }
    if (ipv6) {
        struct ipv6 own;
        if (!addresses6.lookup(caller)) {
            reason = REASON_syn_unknown_caller;
            goto refused;
        }
        if (!own_address6(sandbox, callee->vni, &own) || has_ipv6_options(sandbox)) {
            kept_off = REASON_ipv6_options;
            goto withheld;
        }
    }
    struct pending syn = {.sandbox = callee->sandbox, .vni = callee->vni,
                          .addr_be = callee->addr_be, .peer_addr_be = caller->addr_be,
                          .port_be = option.port_be, .ifindex = callee->ifindex,
                          .ipv6 = ipv6};
    if (pending.update((struct flow_key *)key, &syn)) {
        count(REASON_pending_full);
        return TC_ACT_SHOT;
    }
    if (!listener_known(&syn))
        seek_listener(skb);
    return ADMITTED;
withheld:
    tell_refused_syn(key, sandbox, callee->vni, callee->addr_be, option.port_be, caller->addr_be,
                     REASON_syn_withheld);
    return tell_withheld(skb, sandbox, kept_off);
refused:
    count(reason);
    tell_refused_syn(key, callee->sandbox, callee->vni, callee->addr_be, option.port_be,
                     caller && caller->vni == callee->vni ? caller->addr_be : 0, reason);
    return TC_ACT_SHOT;
}

/* `key`: the flow as seen from this host, so its peer is the packet's source. */
static __always_inline int deliver(struct __sk_buff *skb, struct flow_key *key, int syn, u32 doff)
{
    u32 local_port = bpf_ntohs(key->local_port_be);
    if (local_port >= CONSTANT(PORT_FIRST) && local_port <= CONSTANT(PORT_LAST)) {
        struct port *port = ports.lookup(&local_port);
        if (!port || (!port->sandbox && !syn))
            return NOT_OURS;
        if (syn) {
            int verdict = admit(skb, key, port, doff);
            if (verdict != ADMITTED)
                return verdict;
        }
        if (port->assigned) /* an ACK may answer a SYN cookie */
            seek_listener(skb);
        return bpf_redirect_peer(port->ifindex, 0);
    }
    struct flow *flow = flows.lookup(key);
    return flow ? bpf_redirect_peer(flow->ifindex, 0) : NOT_OURS;
}
