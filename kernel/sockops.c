/* A host-path connection's life: option into the SYN, entry at accept, release at close; and
 * listeners, which are looked for anew when there is one more.
 *
 * Attached to the cgroup root (BPF_CGROUP_SOCK_OPS); runs for every TCP socket's events, so
 * each branch leaves as soon as the socket is not ours.
 */
static __always_inline void on_connect(struct bpf_sock_ops *ops, struct connection *c)
{
    struct flow_key key = c->flow;
    struct flow *flow = flows.lookup(&key);
    if (flow) {
        flow->since_ns = bpf_ktime_get_ns();
        flow->state = FLOW_OPEN;
    }
    bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG |
                                       BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void write_option(struct bpf_sock_ops *ops, struct connection *c)
{
    struct syn_option option = {.kind = OPTION_KIND, .length = sizeof(option),
                                .experiment_be = bpf_htons(OPTION_EXPERIMENT),
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

/* Our listener accepted: the child socket takes over from `pending`. */
static __always_inline void on_accept(struct bpf_sock_ops *ops)
{
    if (ops->local_ip4 != SLIM_UNDERLAY_BE || ops->local_port < SLIM_PORT_FIRST)
        return;
    struct bpf_sock *sk = ops->sk;
    struct flow_key key = {.peer_be = ops->remote_ip4,
                           .peer_port_be = bpf_htons(bpf_ntohl(ops->remote_port)),
                           .local_port_be = bpf_htons(ops->local_port)};
    struct pending *syn = pending.lookup(&key);
    if (!syn || !sk || syn->sandbox != bpf_get_netns_cookie(ops))
        return;

    struct connection child = {.local_addr_be = syn->addr_be, .peer_addr_be = syn->peer_addr_be,
                               .local_port_be = syn->port_be, .port_be = key.local_port_be,
                               .flow = key};
    struct flow mine = {.sandbox = syn->sandbox, .socket = bpf_get_socket_cookie(ops),
                        .since_ns = bpf_ktime_get_ns(), .ifindex = syn->ifindex,
                        .port_be = key.local_port_be, .state = FLOW_OPEN};
    if (!connections.sk_storage_get(sk, &child, BPF_SK_STORAGE_GET_F_CREATE))
        count(REASON_storage_full);
    if (!enter_flow(&key, &mine)) {
        count(REASON_flow_table_full); /* its packets stay allowed while `pending` lasts */
        return;
    }
    bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
    pending.delete(&key);
    count(REASON_accepted);
}

/* The container listens on one socket more: for any of its addresses it may be the one now. */
static __always_inline void on_listen(struct bpf_sock_ops *ops)
{
    u64 cookie = bpf_get_netns_cookie(ops);
    struct sandbox *sandbox = sandboxes.lookup(&cookie);
    if (!sandbox)
        return;
    struct listener_key name = {.sandbox = cookie, .port_be = bpf_htons(ops->local_port)};
    for (u32 i = 0; i < SLIM_ATTACHMENTS && i < sandbox->count; i++) {
        struct attachment *own = &sandbox->attachments[i];
        u32 endpoint_port = bpf_ntohs(own->port_be);
        struct port *port = ports.lookup(&endpoint_port);
        if (port) /* first: to_container may have looked before it, and enter it after us */
            port->listens++;
        name.vni = own->vni;
        name.addr_be = own->addr_be;
        listeners.delete(&name);
    }
}

/* Who closes first keeps the tuple for TIME_WAIT, and may still have to answer for it.  Who
 * resets has a RST to send yet: the kernel sends it after the change of state.  Only after
 * LAST_ACK (the peer has acknowledged everything) and SYN_SENT is nothing left to send. */
static __always_inline void on_close(struct bpf_sock_ops *ops, struct connection *c, u32 before)
{
    struct flow_key key = c->flow;
    struct flow *flow = flows.lookup(&key);
    if (!flow || flow->socket != bpf_get_socket_cookie(ops))
        return;
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
    if (ops->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ops->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
        ops->op != BPF_SOCK_OPS_HDR_OPT_LEN_CB && ops->op != BPF_SOCK_OPS_WRITE_HDR_OPT_CB &&
        ops->op != BPF_SOCK_OPS_STATE_CB)
        return 1;
    sk = ops->sk;
    c = sk ? connections.sk_storage_get(sk, 0, 0) : 0;
    if (!c)
        return 1;

    switch (ops->op) {
    case BPF_SOCK_OPS_TCP_CONNECT_CB:
        on_connect(ops, c);
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
    case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB: /* no program run per packet from here on */
        bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
        break;
    case BPF_SOCK_OPS_STATE_CB:
        on_close(ops, c, ops->args[0]);
        break;
    }
    return 1;
}
