/* The host's side of the wire: the veths' host ends and the underlay device (tc ingress). */

/* `ip`: an IPv6 header over an IPv6 underlay, else one of IPv4 without options. */
static __always_inline int is_bare(const void *ip, const struct tcphdr *tcp)
{
    const struct iphdr *ip4 = ip;
    const struct ipv6hdr *ip6 = ip;
    return CONSTANT(IPV6_UNDERLAY)
               ? bpf_ntohs(ip6->payload_len) == tcp->doff * 4
               : bpf_ntohs(ip4->tot_len) == sizeof(*ip4) + tcp->doff * 4;
}

static __always_inline int is_bare_ack(const void *ip, const struct tcphdr *tcp)
{
    return is_bare(ip, tcp) && tcp->ack && !(tcp->syn | tcp->fin | tcp->rst);
}

/* Is it a bare RST from the sandbox's own endpoint port?  It answers a segment of a connection that
 * is forgotten here.  The port belongs to this endpoint alone, so the RST can end nobody else's
 * connection; remembering such segments instead would let outsiders fill `pending`. */
static __always_inline int is_own_reset(const void *ip, const struct tcphdr *tcp,
                                        const struct veth *veth)
{
    u32 local_port = bpf_ntohs(tcp->source);
    if (!tcp->rst || tcp->syn || !is_bare(ip, tcp))
        return 0;
    struct port *port = ports.lookup(&local_port);
    return port && port->sandbox == veth->sandbox;
}

/* `flow`: 0 for the answer to a SYN, which has no flow yet. */
static __always_inline int to_wire(struct __sk_buff *skb, struct flow *flow, u32 dst_be)
{
    if (CONSTANT(IPV6_UNDERLAY)) /* `next_hop` has room for IPv4 only */
        return send_by(0);
    u64 now_ns = ktime_get_coarse_ns();
    if (flow && now_ns <= flow->next_hop_until_ns)
        return send_by(flow->next_hop_be);
    struct next_hop found = find_next_hop(skb, now_ns, dst_be);
    if (flow) {
        flow->next_hop_be = found.addr_be;
        flow->next_hop_until_ns = found.until_ns;
    }
    return send_by(found.addr_be);
}

/* Between containers of one host, connections go directly, by the overlay path's hand_over().
 * What still comes here: connections that an earlier version opened on the host path, and
 * sockets that an earlier, failed connect() to another host has bound to U, which nothing else
 * could carry. */
static __always_inline int to_neighbour(struct __sk_buff *skb, const struct flow_key *key,
                                        int syn, u32 doff)
{
    struct flow_key there = {.peer_be = CONSTANT(UNDERLAY_BE), .peer_port_be = key->local_port_be,
                             .local_port_be = key->peer_port_be};
    int verdict = deliver(skb, &there, syn, doff);
    if (verdict == NOT_OURS || verdict == PROBED) {
        count(REASON_no_endpoint);
        return TC_ACT_SHOT;
    }
    return verdict;
}

/* A TCP packet with the host's source address: allowed only in a connection of this sandbox.
 * `ip`: its header (is_bare).  `dst_be`: U of the host that it is for. */
static __always_inline int check_and_send(struct __sk_buff *skb, const void *ip,
                                          const struct tcphdr *tcp, u32 dst_be, int at_sender)
{
    u32 ifindex = skb->ifindex, doff = tcp->doff;
    if (at_sender && dst_be == CONSTANT(UNDERLAY_BE))
        return CROSS; /* before any look-up: the host's end makes them */
    int syn = is_syn(tcp);
    struct flow_key key = {.peer_be = dst_be, .peer_port_be = tcp->dest,
                           .local_port_be = tcp->source};
    struct flow *flow = flows.lookup(&key);
    if (!flow || syn || flow->ifindex != ifindex) { /* all except an open connection's packets */
        struct veth *veth = veths.lookup(&ifindex);
        if (!veth || !veth->sandbox)
            return refuse(veth ? REASON_spoofed_source : REASON_unknown_veth, at_sender);
        if (!flow) {
            struct pending *answered = pending.lookup(&key); /* SYN-ACK, or RST: refused */
            int allowed = answered ? !syn && answered->sandbox == veth->sandbox
                                   : is_own_reset(ip, tcp, veth);
            if (!allowed)
                flow = flows.lookup(&key); /* accepted on another CPU in between? */
            if (!allowed && !flow)
                return refuse(is_bare_ack(ip, tcp) ? REASON_late_ack : REASON_foreign_flow,
                              at_sender);
        }
        if (flow && flow->sandbox != veth->sandbox)
            return refuse(REASON_foreign_flow, at_sender);
        if (flow) /* claimed while another interface began to carry the sandbox's host path */
            flow->ifindex = ifindex;
        struct syn_option option;
        if (syn && flow &&
            (!option_read(skb, host_path_tcp_at(), doff, &option) ||
             option.caller_port_be != flow->port_be))
            return refuse(REASON_forged_option, at_sender);
    }
    if (dst_be == CONSTANT(UNDERLAY_BE))
        return to_neighbour(skb, &key, syn, doff);
    return to_wire(skb, flow, dst_be);
}

/* A packet with the host's source address. */
static __always_inline int host_path_out(struct __sk_buff *skb, int at_sender)
{
    struct headers4 h;
    if (!headers_tcp4(skb, &h))
        return refuse(REASON_spoofed_source, at_sender);
    return check_and_send(skb, h.ip, h.tcp, h.ip->daddr, at_sender);
}

static __always_inline int host_path_out6(struct __sk_buff *skb, int at_sender)
{
    struct headers6 h;
    if (!headers_tcp6(skb, &h))
        return refuse(REASON_spoofed_source, at_sender);
    struct ipv6 to = copied6(&h.ip->daddr);
    return check_and_send(skb, h.ip, h.tcp, number_of(&to), at_sender);
}

/* Does the packet have the address that this host has in an IPv6 underlay as its source? */
static __always_inline int is_from_underlay6(struct __sk_buff *skb)
{
    struct headers6 h;
    if (skb->protocol != bpf_htons(ETH_P_IPV6) || !headers_ip6(skb, &h))
        return 0;
    struct ipv6 from = copied6(&h.ip->saddr);
    return is_own_underlay6(&from);
}

static __always_inline int overlay_out(struct __sk_buff *skb, const struct veth *veth,
                                       int at_sender)
{
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        struct headers4 h;
        if (!headers_ip4(skb, &h))
            return refuse(REASON_malformed, at_sender);
        if (h.ip->saddr == veth->addr_be && veth->addr_be)
            return overlay4(skb, veth, h.ip->daddr, at_sender);
        return refuse(REASON_spoofed_source, at_sender);
    }
    if (skb->protocol == bpf_htons(ETH_P_IPV6))
        return overlay6(skb, veth, at_sender);
    return refuse(REASON_not_ip, at_sender);
}

/* Decide whether a container's packet may be sent, and where to.  `at_sender` (a constant): the
 * hook is at the container's own end, which cannot hand packets to another container of this
 * host. */
static __always_inline int sent(struct __sk_buff *skb, int at_sender)
{
    struct headers4 h;
    if (skb->vlan_present) /* the tag would go out with the packet: into another network */
        return refuse(REASON_vlan_tag, at_sender);
    if (!CONSTANT(IPV6_UNDERLAY) && skb->protocol == bpf_htons(ETH_P_IP) && headers_ip4(skb, &h) &&
        h.ip->saddr == CONSTANT(UNDERLAY_BE))
        return host_path_out(skb, at_sender);
    if (CONSTANT(IPV6_UNDERLAY) && is_from_underlay6(skb))
        return host_path_out6(skb, at_sender);
    u32 ifindex = skb->ifindex;
    struct veth *veth = veths.lookup(&ifindex);
    if (!veth)
        return refuse(REASON_unknown_veth, at_sender);
    int verdict = overlay_out(skb, veth, at_sender);
    if (verdict != FLOOD)
        return verdict;
    return at_sender ? CROSS : flood(skb, veth->vni, 1);
}

/* tc ingress of the host's end of a pair. */
int from_container(struct __sk_buff *skb)
{
    int verdict = sent(skb, 0);
    if (verdict > REFUSED)
        return verdict;
    tell_refused(skb, REFUSED - verdict);
    return TC_ACT_SHOT;
}

/* netkit's hook at a container's end: packets that may go to other hosts leave from here.  All
 * others, including those to be dropped, cross to the host's end by a queue and a soft interrupt,
 * where from_container() decides.  A host without netkit never runs this. */
int from_container_direct(struct __sk_buff *skb)
{
    return sent(skb, 1);
}

/* Deliver an ICMP error (fragmentation needed, unreachable) about a container's connection to its
 * socket.  The inner header is our own packet's: source U. */
static __always_inline int icmp_error(struct __sk_buff *skb)
{
    struct {
        struct iphdr ip;
        u16 sport_be, dport_be;
    } inner;
    struct icmphdr icmp;
    const u32 at = sizeof(struct ethhdr) + sizeof(struct iphdr);
    if (bpf_skb_load_bytes(skb, at, &icmp, sizeof(icmp)) ||
        (icmp.type != ICMP_DEST_UNREACH && icmp.type != ICMP_TIME_EXCEEDED &&
         icmp.type != ICMP_PARAMETERPROB))
        return TC_ACT_OK;
    if (bpf_skb_load_bytes(skb, at + sizeof(icmp), &inner, sizeof(inner)) ||
        inner.ip.ihl != 5 || inner.ip.protocol != IPPROTO_TCP ||
        inner.ip.saddr != CONSTANT(UNDERLAY_BE))
        return TC_ACT_OK;
    struct flow_key key = {.peer_be = inner.ip.daddr, .peer_port_be = inner.dport_be,
                           .local_port_be = inner.sport_be};
    int verdict = deliver(skb, &key, 0, 0);
    return verdict == NOT_OURS ? TC_ACT_OK : verdict;
}

/* The same over an IPv6 underlay (RFC 4443): also "packet too big". */
static __always_inline int icmp6_error(struct __sk_buff *skb)
{
    struct {
        struct ipv6hdr ip;
        u16 sport_be, dport_be;
    } inner;
    u8 type;
    const u32 at = sizeof(struct ethhdr) + sizeof(struct ipv6hdr);
    if (bpf_skb_load_bytes(skb, at, &type, sizeof(type)) || type >= ICMPV6_FIRST_QUERY ||
        bpf_skb_load_bytes(skb, at + sizeof(struct icmphdr), &inner, sizeof(inner)) ||
        inner.ip.nexthdr != IPPROTO_TCP)
        return TC_ACT_OK;
    struct ipv6 from = copied6(&inner.ip.saddr), to = copied6(&inner.ip.daddr);
    if (!is_own_underlay6(&from))
        return TC_ACT_OK;
    struct flow_key key = {.peer_be = number_of(&to), .peer_port_be = inner.dport_be,
                           .local_port_be = inner.sport_be};
    int verdict = deliver(skb, &key, 0, 0);
    return verdict == NOT_OURS ? TC_ACT_OK : verdict;
}

/* VXLAN over IPv6 is the device's. */
static __always_inline int from_wire6(struct __sk_buff *skb)
{
    struct headers6 h;
    if (skb->protocol != bpf_htons(ETH_P_IPV6) || !headers_ip6(skb, &h))
        return TC_ACT_OK;
    struct ipv6 from = copied6(&h.ip->saddr), to = copied6(&h.ip->daddr);
    if (!is_own_underlay6(&to) || is_own_underlay6(&from) /* a martian */)
        return TC_ACT_OK;
    if (h.ip->nexthdr == IPPROTO_ICMPV6)
        return icmp6_error(skb);
    if (!headers_tcp6(skb, &h))
        return TC_ACT_OK;
    struct flow_key key = {.peer_be = number_of(&from), .peer_port_be = h.tcp->source,
                           .local_port_be = h.tcp->dest};
    int syn = is_syn(h.tcp), rst = h.tcp->rst;
    int verdict = deliver(skb, &key, syn, h.tcp->doff);
    if (verdict == PROBED)
        return turn_into_answer6(skb) ? TC_ACT_SHOT : send_by(0);
    if (verdict != NOT_OURS)
        return verdict;
    return rst && is_answer(skb, &key) ? TC_ACT_SHOT : TC_ACT_OK;
}

/* tc ingress of the underlay device.  Packets for no container pass unchanged. */
int from_wire(struct __sk_buff *skb)
{
    struct headers4 h;
    if (skb->pkt_type != 0 /* PACKET_HOST: a redirect would make a stranger's frame ours */ ||
        skb->vlan_present /* another network's, on the same cable */)
        return TC_ACT_OK;
    if (CONSTANT(IPV6_UNDERLAY))
        return from_wire6(skb);
    if (skb->protocol != bpf_htons(ETH_P_IP) || !headers_ip4(skb, &h) ||
        h.ip->daddr != CONSTANT(UNDERLAY_BE) || h.ip->ihl != 5)
        return TC_ACT_OK;
    if (h.ip->protocol == IPPROTO_ICMP)
        return icmp_error(skb);
    if (h.ip->protocol == IPPROTO_UDP)
        return receive_directly(skb);
    if (!headers_tcp4(skb, &h))
        return TC_ACT_OK;
    struct flow_key key = {.peer_be = h.ip->saddr, .peer_port_be = h.tcp->source,
                           .local_port_be = h.tcp->dest};
    int syn = is_syn(h.tcp), rst = h.tcp->rst;
    u32 doff = h.tcp->doff;
    if (h.ip->saddr == CONSTANT(UNDERLAY_BE))
        return TC_ACT_OK; /* a martian: the host's stack drops it */
    int verdict = deliver(skb, &key, syn, doff);
    if (verdict == PROBED) /* answer by the way that the SYN-ACK would take */
        return turn_into_answer(skb) ? TC_ACT_SHOT : to_wire(skb, 0, key.peer_be);
    if (verdict != NOT_OURS)
        return verdict;
    return rst && is_answer(skb, &key) ? TC_ACT_SHOT : TC_ACT_OK;
}
