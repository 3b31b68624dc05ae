/* connect(): swap the virtual destination for the peer's (U, P), once per connection.
 *
 * Attached to the cgroup root (BPF_CGROUP_INET4_CONNECT, INET6_CONNECT).  Any doubt leaves the
 * destination alone: the overlay path carries it.
 */

/* bcc 0.26 does not know this helper.  Kernels without MPTCP refuse programs that call it,
 * unless the call is unreachable: the verifier follows constants. */
static void *(*skc_to_mptcp_sock)(void *sk) = (void *)196;

#define EHOSTUNREACH_ 113
#define SO_MARK_ 36

/* Is it a subflow of an MPTCP socket?  getsockname() and getpeername() then run on the MPTCP
 * socket, which has no storage: the program would see the host's addresses. */
static __always_inline int is_mptcp(struct bpf_sock *sk)
{
    return CONSTANT(MPTCP) && skc_to_mptcp_sock(sk) != 0;
}

/* Untie a socket that an earlier, failed connect() left tied to the host path. */
static __always_inline int forget_earlier(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                          u64 socket)
{
    struct connection *earlier = connections.sk_storage_get(sk, 0, 0);
    if (!earlier)
        return 0;
    struct flow_key key = earlier->flow;
    release_claim(&key, socket);
    if (earlier->marked) {
        int none = 0;
        bpf_setsockopt(ctx, SOL_SOCKET_, SO_MARK_, &none, sizeof(none));
    }
    connections.sk_storage_delete(sk);
    connections6.sk_storage_delete(sk);
    return 1;
}

/* Where a connect() goes: what the program asked for, and what becomes of it. */
struct destination {
    u32 asked_be;
    u32 addr_be;           /* the endpoint's address: a task's, if a vip was asked for */
    u32 ipv6;              /* 1: `asked6` was asked for, and both above are 0 */
    struct ipv6 asked6;
    struct ipv6 own6;      /* of the sandbox's endpoint in that network */
    struct location *peer; /* not 0: use the host path, to this (U, P) */
    struct ipv6 *host6;    /* over an IPv6 underlay: the address that U stands for */
    u32 why;               /* enum reason: why not, or how; 0: it is none of slim's */
    u32 host_be;           /* U of the peer's host; 0: not known */
};

static __always_inline void decide(struct destination *to, u32 reason)
{
    count(reason);
    to->why = reason;
}

static __always_inline struct location *locate(u32 vni, const struct destination *to)
{
    if (to->ipv6) {
        struct address6 wanted = {.vni = vni};
        __builtin_memcpy(wanted.addr, to->asked6.words, sizeof(wanted.addr));
        return directory6.lookup(&wanted);
    }
    struct address wanted = {.vni = vni, .addr_be = to->addr_be};
    return directory.lookup(&wanted);
}

static __always_inline int is_own(const struct attachment *own, const struct destination *to)
{
    return to->ipv6 ? to->asked6.words[0] == to->own6.words[0] &&
                          to->asked6.words[1] == to->own6.words[1]
                    : to->addr_be == own->addr_be;
}

/* Is the socket bound to an address, perhaps by us?  `ip6`: it is an IPv6 socket. */
static __always_inline int is_bound(struct bpf_sock *sk, const struct destination *to, int ip6)
{
    if (!ip6)
        return sk->src_ip4 != 0;
    return sk->src_ip6[3] || (to->ipv6 && (sk->src_ip6[0] | sk->src_ip6[1] | sk->src_ip6[2]));
}

/* Store what the program must see.  Returns 0 if there is no memory. */
static __always_inline int store(struct bpf_sock *sk, struct connection *init,
                                 const struct destination *to)
{
    if (!connections.sk_storage_get(sk, init, BPF_SK_STORAGE_GET_F_CREATE))
        return 0;
    if (!to->ipv6)
        return 1;
    struct connection6 names = {.local = to->own6, .peer = to->asked6};
    if (connections6.sk_storage_get(sk, &names, BPF_SK_STORAGE_GET_F_CREATE))
        return 1;
    connections.sk_storage_delete(sk);
    return 0;
}

/* `own`: the sandbox's endpoint in the destination's network, 0 if there is none.
 * Returns ALLOW or DENY, with to->peer filled if the destination is to be swapped. */
static __always_inline int take_host_path(struct bpf_sock_addr *ctx, struct sandbox *sandbox,
                                          u64 cookie, const struct attachment *own,
                                          struct destination *to, int ip6)
{
    struct bpf_sock *sk = ctx->sk;
    if (!sk)
        return ALLOW;
    u64 socket = bpf_get_socket_cookie(ctx);
    u32 source_be = ip6 ? sk->src_ip6[3] : sk->src_ip4;
    u32 source_port = sk->src_port;
    int earlier = forget_earlier(ctx, sk, socket);
    int tied = earlier && (CONSTANT(IPV6_UNDERLAY) ? ip6 && is_bound_to_underlay6(sk)
                                                   : source_be == CONSTANT(UNDERLAY_BE));

    if (!own || is_own(own, to))
        goto elsewhere;
    struct location *location = locate(own->vni, to);
    if (!location) {
        decide(to, REASON_unknown_peer);
        goto elsewhere;
    }
    to->host_be = location->underlay_be;
    if (location->underlay_be == CONSTANT(UNDERLAY_BE) && !tied) { /* no wire between: see overlay.c */
        decide(to, REASON_local);
        return ALLOW;
    }
    if (is_dead(location)) {
        decide(to, REASON_host_dead);
        set_retval(-EHOSTUNREACH_); /* at once, instead of two minutes of SYNs */
        return DENY;
    }
    if (CONSTANT(IPV6_UNDERLAY)) {
        to->host6 = hosts6.lookup(&location->underlay_be);
        /* A socket of IPv4 cannot connect over IPv6, nor does its listener, which may have an IPv4
         * socket when an IPv4-mapped address is called, take packets of IPv6. */
        if (!to->ipv6 || !to->host6) {
            decide(to, REASON_ipv6_underlay);
            goto elsewhere;
        }
    }
    u32 *why = withheld.lookup(&cookie);
    if (why) {
        decide(to, *why & WITHHELD_WHY);
        goto elsewhere;
    }
    if (!location->port_be || !own->port_be) {
        decide(to, REASON_overlay_only);
        goto elsewhere;
    }
    if (to->ipv6 && has_ipv6_options(cookie)) {
        decide(to, REASON_ipv6_options);
        goto elsewhere;
    }
    if (blocked_hosts.lookup(&location->underlay_be)) {
        decide(to, REASON_peer_blocked);
        goto elsewhere;
    }
    if ((!tied && is_bound(sk, to, ip6)) || sk->bound_dev_if) {
        decide(to, REASON_bound_address);
        goto elsewhere;
    }
    if (is_mptcp(sk)) {
        decide(to, REASON_mptcp_client);
        goto elsewhere;
    }
    if (source_port >= CONSTANT(PORT_FIRST) && source_port <= CONSTANT(PORT_LAST)) {
        decide(to, REASON_bound_port); /* replies to it would go to an endpoint */
        goto elsewhere;
    }
    if (to->ipv6 && source_port && !tied) { /* bind() cannot be asked a second time */
        decide(to, REASON_ipv6_only);
        goto elsewhere;
    }

    struct connection init = {};
    struct flow mine = {.sandbox = cookie, .socket = socket, .since_ns = bpf_ktime_get_ns(),
                        .ifindex = sandbox->ifindex, .port_be = own->port_be,
                        .state = FLOW_CLAIMED};
    struct flow_key key = {.peer_be = location->underlay_be, .peer_port_be = location->port_be,
                           .local_port_be = bpf_htons(source_port)};
    int room = may_open(cookie);
    if (source_port) {
        if (!claim(&key, &mine, room)) {
            decide(to, room ? REASON_flow_refused : REASON_share_used);
            goto elsewhere;
        }
        if (!tied) {
            int mark = CONSTANT(MARK);
            if (bpf_setsockopt(ctx, SOL_SOCKET_, SO_MARK_, &mark, sizeof(mark))) {
                release_claim(&key, socket);
                decide(to, REASON_flow_refused);
                goto elsewhere;
            }
            init.marked = 1;
        }
    } else {
        int found = claim_any_port(ctx, &key, &mine, ip6, room);
        if (found != BOUND) {
            decide(to, found == NO_IPV4 ? REASON_ipv6_only
                                         : found == NO_UNDERLAY6 ? REASON_routing_lost
                                         : room ? REASON_ports_busy : REASON_share_used);
            return ALLOW;
        }
    }

    init.local_addr_be = own->addr_be; /* both are 0 for IPv6 */
    init.peer_addr_be = to->asked_be;
    init.peer_port_be = ctx->user_port;
    init.port_be = own->port_be;
    init.flow = key;
    if (!store(sk, &init, to)) {
        release_claim(&key, socket);
        decide(to, REASON_storage_full);
        return source_port ? ALLOW : DENY; /* already bound to U: no way back */
    }
    to->peer = location;
    return ALLOW;

elsewhere:
    if (!tied)
        return ALLOW;
    decide(to, REASON_reconnect_refused); /* bound to U by us: the overlay would drop it silently */
    return DENY;
}

/* As attachment_to(), for IPv6: fills what of `own` its caller needs, and to->own6. */
static __always_inline int find_own6(u64 cookie, struct destination *to, struct attachment *own)
{
    struct attachment6 found = {};
    struct sandbox6 *sandbox = sandboxes6.lookup(&cookie);
    if (!sandbox || !attachment6_to(sandbox, &to->asked6, &found))
        return 0;
    own->vni = found.vni;
    own->port_be = found.port_be;
    to->own6 = found.addr;
    return 1;
}

/* Tell whoever follows how a connect() goes, and at any time that it was refused.  The socket keeps
 * what was told, for its end (followed.c). */
static __always_inline void tell_connect(struct bpf_sock_addr *ctx, u64 cookie,
                                         const struct attachment *own,
                                         const struct destination *to, int verdict)
{
    struct bpf_sock *sk = ctx->sk;
    u32 times = 0, kind = EVENT_CONNECT, reason = to->peer ? REASON_connected : to->why;
    if (!sk || !(to->peer || to->why))
        return;
    if (verdict == DENY) {
        kind = EVENT_REFUSED;
        times = refusals_to_tell(cookie, reason);
        if (!times)
            return;
    } else if (!is_watched() || !is_followed(cookie)) {
        return;
    }
    struct event *event = watched.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!event)
        return;
    begin_event(event, kind, reason);
    event->socket = bpf_get_socket_cookie(ctx);
    event->times = times;
    event->vni = own->vni;
    event->host_be = to->host_be;
    event->peer_port_be = ctx->user_port;
    if (to->ipv6) {
        event->local = to->own6;
        event->peer = to->asked6;
    } else {
        write_mapped(&event->local, own->addr_be);
        write_mapped(&event->peer, to->asked_be);
        if (to->addr_be != to->asked_be)
            event->task_be = to->addr_be;
    }
    tell_stored(event);
}

/* `ip6`: the socket is an IPv6 one.  Returns ALLOW or DENY, with `to` filled. */
static __always_inline int find_way(struct bpf_sock_addr *ctx, struct destination *to, int ip6)
{
    struct attachment own = {};
    int tcp = ctx->protocol == IPPROTO_TCP, verdict = ALLOW;
    if (!tcp && (to->ipv6 || ctx->protocol != IPPROTO_UDP)) /* no service has an IPv6 address */
        return ALLOW;
    u64 cookie = bpf_get_netns_cookie(ctx);
    struct sandbox *sandbox = sandboxes.lookup(&cookie);
    if (!sandbox)
        return ALLOW;
    int ours = to->ipv6 ? find_own6(cookie, to, &own) : attachment_to(sandbox, to->asked_be, &own);
    if (ours && !to->ipv6) {
        struct address name = {.vni = own.vni, .addr_be = to->asked_be};
        struct service *service = services.lookup(&name);
        if (service) {
            to->addr_be = choose(&name, service);
            if (!to->addr_be) {
                to->why = REASON_service_empty;
                verdict = refuse_service();
                goto told;
            }
            count(REASON_service_chosen);
        }
    }
    if (tcp)
        verdict = take_host_path(ctx, sandbox, cookie, ours ? &own : 0, to, ip6);
    if (verdict == ALLOW && !to->peer && ctx->sk && !to->ipv6) {
        if (to->addr_be == to->asked_be)
            chosen.sk_storage_delete(ctx->sk);
        else
            remember(ctx->sk, to->asked_be, to->addr_be, 0);
    }
told:
    if (tcp)
        tell_connect(ctx, cookie, ours ? &own : &sandbox->attachments[0], to, verdict);
    return verdict;
}

int connect4(struct bpf_sock_addr *ctx)
{
    struct destination to = {.asked_be = ctx->user_ip4, .addr_be = ctx->user_ip4};
    int verdict = find_way(ctx, &to, 0);
    if (to.peer) {
        ctx->user_ip4 = to.peer->underlay_be;
        ctx->user_port = to.peer->port_be;
    } else if (to.addr_be != to.asked_be) {
        ctx->user_ip4 = to.addr_be;
    }
    return verdict;
}

int connect6(struct bpf_sock_addr *ctx)
{
    struct destination to = {};
    if (is_mapped(ctx)) {
        to.asked_be = to.addr_be = ctx->user_ip6[3];
    } else {
        to.ipv6 = 1;
        read_address6(ctx, &to.asked6);
    }
    int verdict = find_way(ctx, &to, 1);
    if (to.peer) {
        if (!CONSTANT(IPV6_UNDERLAY))
            map_address(ctx, to.peer->underlay_be);
        else if (to.host6)
            write_address6(ctx, to.host6);
        ctx->user_port = to.peer->port_be;
    } else if (to.addr_be != to.asked_be) {
        ctx->user_ip6[3] = to.addr_be;
    }
    return verdict;
}
