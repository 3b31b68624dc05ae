/* Follows connections of containers from their establishment to their end, for events.c: those on the
 * host path, and, while somebody watches, the others.  Called by sockops.
 */

/* All programs attached there share a socket's callback flags: we add ours to the others', and
 * remove only our own. */
static __always_inline void want_callbacks(struct bpf_sock_ops *ops, u32 flags)
{
    bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | flags);
}

/* A connection on the host path.  `since_ns`: when it was opened; `before`: the state it has left. */
static __always_inline void tell_connection(struct bpf_sock_ops *ops, const struct connection *c,
                                            u32 kind, u32 reason, u64 since_ns, u32 before)
{
    if (!is_watched() || !is_followed(bpf_get_netns_cookie(ops)))
        return;
    u32 endpoint_port = bpf_ntohs(c->port_be);
    struct wire_name name = {.underlay_be = c->flow.peer_be, .port_be = c->flow.peer_port_be};
    struct port *own = ports.lookup(&endpoint_port);
    struct address *task = c->local_port_be ? 0 : reverse.lookup(&name);
    struct bpf_sock *sk = ops->sk;
    struct connection6 *names = sk && !c->local_addr_be ? connections6.sk_storage_get(sk, 0, 0) : 0;
    u64 socket = bpf_get_socket_cookie(ops);
    struct event *event = new_event(kind, reason);
    if (!event)
        return;
    event->socket = socket;
    if (kind != EVENT_ACCEPT) {
        event->lasted_ns = event->at_ns - since_ns;
        event->bytes_in = ops->bytes_received;
        event->bytes_out = ops->bytes_acked;
        event->before = before;
    }
    if (names) {
        event->local = names->local;
        event->peer = names->peer;
    } else {
        write_mapped(&event->local, c->local_addr_be);
        write_mapped(&event->peer, c->peer_addr_be);
        if (task && task->addr_be != c->peer_addr_be)
            event->task_be = task->addr_be;
    }
    event->vni = own ? own->vni : 0;
    event->host_be = c->flow.peer_be;
    event->inbound = c->local_port_be != 0; /* as names.c has it */
    event->local_port_be = c->local_port_be ? c->local_port_be : c->flow.local_port_be;
    event->peer_port_be = c->peer_port_be ? c->peer_port_be : c->flow.peer_port_be;
    events.ringbuf_submit(event, 0);
}

/* Each word by itself: the kernel lets nobody read two of them at once. */
static __always_inline void read_remote6(struct bpf_sock_ops *ops, struct ipv6 *to)
{
    volatile __u32 *words = (volatile __u32 *)to->words;
    words[0] = ops->remote_ip6[0];
    words[1] = ops->remote_ip6[1];
    words[2] = ops->remote_ip6[2];
    words[3] = ops->remote_ip6[3];
}

/* In which of its networks has a sandbox been called, and where does the caller live?  Fills `event`;
 * returns 0 if it is none of slim's. */
static __always_inline int find_caller(struct bpf_sock_ops *ops, u64 cookie,
                                       struct sandbox *sandbox, struct event *event)
{
    struct attachment own;
    struct attachment6 own6;
    struct location *location;
    if (attachment_to(sandbox, ops->remote_ip4, &own)) {
        struct address caller = {.vni = own.vni, .addr_be = ops->remote_ip4};
        if (own.addr_be != ops->local_ip4)
            return 0;
        write_mapped(&event->local, own.addr_be);
        write_mapped(&event->peer, caller.addr_be);
        event->vni = own.vni;
        location = directory.lookup(&caller);
    } else {
        struct sandbox6 *sandbox6 = sandboxes6.lookup(&cookie);
        struct ipv6 peer;
        read_remote6(ops, &peer);
        if (ops->family != AF_INET6_ || !sandbox6 || !attachment6_to(sandbox6, &peer, &own6))
            return 0;
        struct address6 caller = {.vni = own6.vni};
        __builtin_memcpy(caller.addr, peer.words, sizeof(caller.addr));
        event->local = own6.addr;
        event->peer = peer;
        event->vni = own6.vni;
        location = directory6.lookup(&caller);
    }
    event->host_be = location ? location->underlay_be : 0;
    return 1;
}

/* A connection that was not made on the host path is established at its server. */
static __always_inline void on_other_accept(struct bpf_sock_ops *ops)
{
    struct bpf_sock *sk = ops->sk;
    if (!is_watched() || !sk)
        return;
    u64 cookie = bpf_get_netns_cookie(ops);
    if (!is_followed(cookie))
        return;
    struct sandbox *sandbox = sandboxes.lookup(&cookie);
    if (!sandbox)
        return;
    struct event *event = watched.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!event)
        return;
    begin_event(event, EVENT_ACCEPT, REASON_local);
    if (!find_caller(ops, cookie, sandbox, event)) {
        watched.sk_storage_delete(sk);
        return;
    }
    if (event->host_be != CONSTANT(UNDERLAY_BE))
        event->reason = REASON_overlay_received;
    event->socket = bpf_get_socket_cookie(ops);
    event->inbound = 1;
    event->local_port_be = bpf_htons(ops->local_port);
    event->peer_port_be = bpf_htons(bpf_ntohl(ops->remote_port));
    tell_stored(event);
    want_callbacks(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* Any other event of a socket that is not on the host path: only what was told before has a storage. */
static __always_inline void follow_other(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
    if ((ops->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ops->op != BPF_SOCK_OPS_STATE_CB) ||
        !is_watched() || !is_followed(bpf_get_netns_cookie(ops)))
        return;
    struct event *event = watched.sk_storage_get(sk, 0, 0);
    if (!event)
        return;
    if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB) { /* the kernel has chosen its port */
        event->local_port_be = bpf_htons(ops->local_port);
        want_callbacks(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
        return;
    }
    u64 now_ns = bpf_ktime_get_ns();
    event->kind = ops->args[0] == BPF_TCP_SYN_SENT ? EVENT_FAILED : EVENT_CLOSE;
    event->before = ops->args[0];
    event->lasted_ns = now_ns - event->at_ns;
    event->at_ns = now_ns;
    event->bytes_in = ops->bytes_received;
    event->bytes_out = ops->bytes_acked;
    tell_stored(event);
}
