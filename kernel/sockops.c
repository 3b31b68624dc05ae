/* Follows a host-path connection's life: option in the SYN, entry at accept, release at close.  A
 * new listener makes the container's listeners be looked up again.
 *
 * Attached to the cgroup root (BPF_CGROUP_SOCK_OPS); runs for every TCP socket's events, so each
 * branch returns as soon as the socket is not ours.
 */
#define TCP_SYNCNT_ 7
#define ENOMSG_ 42
#define SO_KEEPALIVE_ 9
#define TCP_KEEPIDLE_ 4
#define TCP_KEEPINTVL_ 5
#define TCP_KEEPCNT_ 6
#define TCP_USER_TIMEOUT_ 18
#define TCPOPT_TIMESTAMP 8

/* Switch off our header options callback: no program must run per packet because of us. */
static __always_inline void no_more_options(struct bpf_sock_ops *ops, struct connection *c)
{
    u32 ours = c->others_callbacks ? 0 : BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
    u32 others = ops->bpf_sock_ops_cb_flags & ~ours;
    bpf_sock_ops_cb_flags_set(ops, others | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void on_connect(struct bpf_sock_ops *ops, struct connection *c)
{
    struct flow_key key = c->flow;
    struct flow *flow = flows.lookup(&key);
    if (flow) {
        flow->since_ns = bpf_ktime_get_ns();
        flow->state = FLOW_OPEN;
    }
    want_callbacks(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* Have the driver probe that host: a SYN was not answered, or was refused by the peer's kernel,
 * or by a firewall in its name. */
static __always_inline void doubt_peer(const struct connection *c)
{
    struct wire_name name = {.underlay_be = c->flow.peer_be, .port_be = c->flow.peer_port_be};
    u64 now_ns = bpf_ktime_get_ns();
    unanswered.update(&name, &now_ns);
}

/* A SYN was not answered: the driver probes its host.  If probes have shown that SYNs do not get
 * through, the program fails within seconds (ETIMEDOUT), and its next attempt takes the overlay. */
static __always_inline void on_timeout(struct bpf_sock_ops *ops, struct connection *c)
{
    u32 host_be = c->flow.peer_be;
    int once = 1;
    if (ops->state != BPF_TCP_SYN_SENT)
        return;
    c->unanswered++;
    u64 *blocked_ns = blocked_hosts.lookup(&host_be);
    if (blocked_ns && *blocked_ns)
        bpf_setsockopt(ops, IPPROTO_TCP, TCP_SYNCNT_, &once, sizeof(once));
    else
        doubt_peer(c);
}

/* The kernel asks about ECN right before it builds the SYN, when all programs have seen the
 * connect(): one that sets flags without regard for others' has done so by now. */
static __always_inline void before_syn(struct bpf_sock_ops *ops, struct connection *c)
{
    c->others_callbacks = ops->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
    want_callbacks(ops, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG |
                            BPF_SOCK_OPS_RTO_CB_FLAG);
}

/* Without timestamps nobody may reuse the tuple before TIME_WAIT has run out.  Both ends must want
 * timestamps: the SYN-ACK shows whether they do. */
static __always_inline void note_timestamps(struct bpf_sock_ops *ops, struct connection *c)
{
    u8 option[10] = {TCPOPT_TIMESTAMP};
    if (bpf_load_hdr_opt(ops, option, sizeof(option), 0) != -ENOMSG_)
        return;
    struct flow_key key = c->flow;
    struct flow *flow = flows.lookup(&key);
    if (flow)
        flow->no_timestamps = 1;
}

static __always_inline void write_option(struct bpf_sock_ops *ops, struct connection *c)
{
    struct syn_option option = {.kind = OPTION_KIND, .length = sizeof(option),
                                .experiment_be = bpf_htons(c->local_addr_be ? OPTION_EXPERIMENT
                                                                            : OPTION_EXPERIMENT6),
                                .port_be = c->peer_port_be, .caller_port_be = c->port_be};
    bpf_store_hdr_opt(ops, &option, sizeof(option), 0);
}

/* The tuple of an earlier connection may still be there, in TIME_WAIT: this one takes it over. */
static __always_inline int enter_flow(struct flow_key *key, struct flow *mine)
{
    if (may_open(mine->sandbox) && add_flow(key, mine))
        return 1;
    struct flow *earlier = flows.lookup(key);
    return earlier && remove_flow(key, earlier->sandbox) && add_flow(key, mine);
}

/* Newer SYNs have evicted this connection's SYN from `pending`: nobody knows any more whom it
 * means, and nothing that it sends gets out except the RST that ends it (is_own_reset). */
static __always_inline void end_soon(struct bpf_sock_ops *ops)
{
    int one = 1, second_ms = 1000;
    bpf_setsockopt(ops, SOL_SOCKET_, SO_KEEPALIVE_, &one, sizeof(one));
    bpf_setsockopt(ops, IPPROTO_TCP, TCP_KEEPIDLE_, &one, sizeof(one));
    bpf_setsockopt(ops, IPPROTO_TCP, TCP_KEEPINTVL_, &one, sizeof(one));
    bpf_setsockopt(ops, IPPROTO_TCP, TCP_KEEPCNT_, &one, sizeof(one));
    bpf_setsockopt(ops, IPPROTO_TCP, TCP_USER_TIMEOUT_, &second_ms, sizeof(second_ms));
    count(REASON_syn_forgotten);
}

/* Is the socket's own address U?  Fills the peer's U. */
static __always_inline int is_at_underlay(struct bpf_sock_ops *ops, u32 *peer_be)
{
    if (!CONSTANT(IPV6_UNDERLAY)) {
        *peer_be = ops->remote_ip4;
        return ops->local_ip4 == CONSTANT(UNDERLAY_BE);
    }
    if (ops->family != AF_INET6_)
        return 0;
    struct ipv6 local = CONTEXT6(ops->local_ip6), remote = CONTEXT6(ops->remote_ip6);
    *peer_be = number_of(&remote);
    return is_own_underlay6(&local);
}

/* Our listener has accepted: the child socket takes over from `pending`. */
static __always_inline void on_accept(struct bpf_sock_ops *ops)
{
    u32 peer_be;
    if (ops->local_port < CONSTANT(PORT_FIRST) || !is_at_underlay(ops, &peer_be)) {
        on_other_accept(ops);
        return;
    }
    struct bpf_sock *sk = ops->sk;
    struct flow_key key = {.peer_be = peer_be,
                           .peer_port_be = bpf_htons(bpf_ntohl(ops->remote_port)),
                           .local_port_be = bpf_htons(ops->local_port)};
    struct pending *syn = pending.lookup(&key);
    u64 cookie = bpf_get_netns_cookie(ops);
    u32 local_port = ops->local_port;
    struct port *port = ports.lookup(&local_port);
    if (!syn && port && port->sandbox == cookie)
        end_soon(ops);
    if (!syn || !sk || syn->sandbox != cookie)
        return;

    struct connection6 names = {};
    if (syn->ipv6 && !find_names6(syn, &names)) {
        end_soon(ops);
        return;
    }
    struct connection child = {.local_addr_be = syn->ipv6 ? 0 : syn->addr_be,
                               .peer_addr_be = syn->ipv6 ? 0 : syn->peer_addr_be,
                               .local_port_be = syn->port_be, .port_be = key.local_port_be,
                               .flow = key};
    struct flow mine = {.sandbox = syn->sandbox, .socket = bpf_get_socket_cookie(ops),
                        .since_ns = bpf_ktime_get_ns(), .ifindex = syn->ifindex,
                        .port_be = key.local_port_be, .state = FLOW_OPEN};
    if (port && port->sandbox == cookie)
        mine.ifindex = port->ifindex; /* another one may carry the host path since the SYN */
    if (!connections.sk_storage_get(sk, &child, BPF_SK_STORAGE_GET_F_CREATE) ||
        (syn->ipv6 && !connections6.sk_storage_get(sk, &names, BPF_SK_STORAGE_GET_F_CREATE)))
        count(REASON_storage_full);
    if (!enter_flow(&key, &mine)) {
        count(REASON_flow_table_full); /* its packets stay allowed while `pending` lasts */
        return;
    }
    want_callbacks(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
    pending.delete(&key);
    count(REASON_accepted);
    tell_connection(ops, &child, EVENT_ACCEPT, REASON_accepted, mine.since_ns, 0);
}

/* The container listens on a new socket, which may now be the listener for any of its addresses. */
static __always_inline void on_listen(struct bpf_sock_ops *ops)
{
    u64 cookie = bpf_get_netns_cookie(ops);
    struct sandbox *sandbox = sandboxes.lookup(&cookie);
    if (!sandbox)
        return;
    struct listener_key name = {.sandbox = cookie, .port_be = bpf_htons(ops->local_port)};
    if (sandbox->count > 1 && ops->sk && ops->sk->bound_dev_if)
        withhold(cookie, NOTE_BOUND_LISTENER, REASON_bound_listener);
    for (u32 i = 0; i < SLIM_ATTACHMENTS && i < sandbox->count; i++) {
        struct attachment *own = &sandbox->attachments[i];
        u32 endpoint_port = bpf_ntohs(own->port_be);
        struct port *port = ports.lookup(&endpoint_port);
        if (port && endpoint_port) /* first: to_container may have looked before, and insert its result after us */
            port->listens++;
        name.vni = own->vni;
        name.addr_be = own->addr_be;
        name.ipv6 = LISTENS_IPV4;
        listeners.delete(&name);
        name.ipv6 = LISTENS_IPV6;
        listeners.delete(&name);
        name.ipv6 = LISTENS_OVER_IPV6;
        listeners.delete(&name);
    }
}

/* The end that closes first keeps the tuple for TIME_WAIT, and may still have to answer.  The
 * end that resets has still to send a RST: the kernel sends it after the change of state.  Only
 * after LAST_ACK (the peer has acknowledged everything) and SYN_SENT is nothing left to send. */
static __always_inline void on_close(struct bpf_sock_ops *ops, struct connection *c, u32 before)
{
    struct flow_key key = c->flow;
    struct flow *flow = flows.lookup(&key);
    if (!flow || flow->socket != bpf_get_socket_cookie(ops))
        return;
    if (before == BPF_TCP_SYN_SENT) {
        if (c->unanswered)
            count(REASON_syn_unanswered);
        else
            doubt_peer(c);
    }
    int failed = before == BPF_TCP_SYN_SENT;
    tell_connection(ops, c, failed ? EVENT_FAILED : EVENT_CLOSE,
                    failed && c->unanswered ? REASON_syn_unanswered
                    : c->local_port_be ? REASON_accepted : REASON_connected,
                    flow->since_ns, before);
    if (before == BPF_TCP_LAST_ACK || before == BPF_TCP_SYN_SENT) {
        remove_flow(&key, flow->sandbox);
        return;
    }
    flow->since_ns = bpf_ktime_get_ns();
    flow->state = FLOW_TIME_WAIT;
}

int sockops(struct bpf_sock_ops *ops)
{
    struct bpf_sock *sk;
    struct connection *c;

    if (ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
        on_accept(ops);
        return 1;
    }
    if (ops->op == BPF_SOCK_OPS_TCP_LISTEN_CB) {
        on_listen(ops);
        return 1;
    }
    if (ops->op == BPF_SOCK_OPS_STATE_CB && ops->args[1] != BPF_TCP_CLOSE)
        return 1;
    if (ops->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ops->op != BPF_SOCK_OPS_NEEDS_ECN &&
        ops->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && ops->op != BPF_SOCK_OPS_HDR_OPT_LEN_CB &&
        ops->op != BPF_SOCK_OPS_WRITE_HDR_OPT_CB && ops->op != BPF_SOCK_OPS_RTO_CB &&
        ops->op != BPF_SOCK_OPS_STATE_CB)
        return 1;
    sk = ops->sk;
    c = sk ? connections.sk_storage_get(sk, 0, 0) : 0;
    if (!c) {
        if (sk)
            follow_other(ops, sk);
        return 1;
    }

    switch (ops->op) {
    case BPF_SOCK_OPS_TCP_CONNECT_CB:
        on_connect(ops, c);
        break;
    case BPF_SOCK_OPS_NEEDS_ECN:
        before_syn(ops, c);
        break;
    case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
        if ((ops->skb_tcp_flags & 0x02) &&
            bpf_reserve_hdr_opt(ops, sizeof(struct syn_option), 0))
            count(REASON_option_no_room);
        break;
    case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
        if (ops->skb_tcp_flags & 0x02)
            write_option(ops, c);
        break;
    case BPF_SOCK_OPS_RTO_CB:
        on_timeout(ops, c);
        break;
    case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
        no_more_options(ops, c);
        note_timestamps(ops, c);
        count(REASON_connected);
        break;
    case BPF_SOCK_OPS_STATE_CB:
        if (ops->args[0] == BPF_TCP_SYN_SENT)
            no_more_options(ops, c);
        on_close(ops, c, ops->args[0]);
        break;
    }
    return 1;
}
