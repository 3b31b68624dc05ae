/* connect(): swap the virtual destination for the peer's (U, P), once per connection.
 *
 * Attached to the cgroup root (BPF_CGROUP_INET4_CONNECT, INET6_CONNECT for IPv4-mapped
 * destinations).  Any doubt leaves the destination alone: the overlay path carries it.
 */

/* bcc 0.26 does not know this helper.  Kernels without MPTCP refuse programs that call it,
 * unless the call is unreachable: the verifier follows constants. */
static void *(*skc_to_mptcp_sock)(void *sk) = (void *)196;

#define EHOSTUNREACH_ 113
#define CLAIM_ATTEMPTS 16
#define CLAIM_STALE_NS 5000000000ULL      /* a claim whose SYN never left */
#define TIME_WAIT_NS 60000000000ULL       /* TCP_TIMEWAIT_LEN */
#define SO_REUSEADDR_ 2
#define SO_MARK_ 36

/* May `mine` take this entry over?  An open flow: never.  Our own TIME_WAIT: at once, if the kernel
 * lets its tuple be reused (tcp_twsk_unique), that is, if the connection had timestamps. */
static __always_inline int claim_stale(const struct flow *theirs, const struct flow *mine)
{
    s64 age_ns = mine->since_ns - theirs->since_ns; /* below 0: inserted after we began */
    if (theirs->state == FLOW_TIME_WAIT)
        return (theirs->sandbox == mine->sandbox && !theirs->no_timestamps) ||
               age_ns > TIME_WAIT_NS;
    return theirs->state == FLOW_CLAIMED &&
           (theirs->socket == mine->socket || age_ns > CLAIM_STALE_NS);
}

/* Checking an entry and removing it are two steps.  Without this lock, a second taker that
 * checked the old entry would remove the one that the first taker has inserted since, and both
 * would use the tuple. */
static __always_inline int begin_removal(struct flow_key *key)
{
    u64 now_ns = bpf_ktime_get_ns();
    return takeovers.insert(key, &now_ns) == 0;
}

static __always_inline void end_removal(struct flow_key *key)
{
    takeovers.delete(key);
}

static __always_inline int take_over(struct flow_key *key, struct flow *mine)
{
    if (!begin_removal(key))
        return 0;
    struct flow *theirs = flows.lookup(key);
    int taken = theirs && claim_stale(theirs, mine) && remove_flow(key, theirs->sandbox) &&
                add_flow(key, mine);
    end_removal(key);
    return taken;
}

/* `room`: may this sandbox open another flow? */
static __always_inline int claim(struct flow_key *key, struct flow *mine, int room)
{
    if (room && add_flow(key, mine))
        return 1;
    struct flow *theirs = flows.lookup(key);
    return theirs && claim_stale(theirs, mine) && take_over(key, mine);
}

static __always_inline void release_claim(struct flow_key *key, u64 socket)
{
    if (!begin_removal(key))
        return; /* somebody is taking it over: it is stale */
    struct flow *flow = flows.lookup(key);
    if (flow && flow->socket == socket)
        remove_flow(key, flow->sandbox);
    end_removal(key);
}

/* Bind the socket to (U, port).  `mapped`: it is an IPv6 socket. */
static __always_inline int bind_underlay(struct bpf_sock_addr *ctx, u16 port_be, int mapped)
{
    if (mapped) {
        struct sockaddr_in6 local6 = {};
        local6.sin6_family = 10; /* AF_INET6 */
        local6.sin6_port = port_be;
        local6.sin6_addr.s6_addr32[2] = bpf_htonl(0xffff);
        local6.sin6_addr.s6_addr32[3] = CONSTANT(UNDERLAY_BE);
        return bpf_bind(ctx, (void *)&local6, sizeof(local6));
    }
    struct sockaddr_in local = {};
    local.sin_family = 2; /* AF_INET */
    local.sin_port = port_be;
    local.sin_addr.s_addr = CONSTANT(UNDERLAY_BE);
    return bpf_bind(ctx, (void *)&local, sizeof(local));
}

/* The n-th client port, from one or two ranges that driver/client_ports.py chooses. */
static __always_inline u32 client_port(u32 n)
{
    u32 port = CONSTANT(CLIENT_FIRST) + n % CONSTANT(CLIENT_COUNT);
    return port < CONSTANT(CLIENT_GAP_FIRST) ? port : port + CONSTANT(CLIENT_GAP);
}

/* Find a source port that nobody on this host uses towards the peer, and bind it. */
static __always_inline int claim_any_port(struct bpf_sock_addr *ctx, struct flow_key *key,
                                          struct flow *mine, int mapped, int room)
{
    int one = 1;
    u32 start = bpf_get_prandom_u32();
    bpf_setsockopt(ctx, SOL_SOCKET_, SO_REUSEADDR_, &one, sizeof(one));
    for (u32 i = 0; i < CLAIM_ATTEMPTS; i++) {
        u32 port = client_port(start + i);
        key->local_port_be = bpf_htons(port);
        if (!claim(key, mine, room))
            continue;
        if (bind_underlay(ctx, key->local_port_be, mapped) == 0)
            return 1;
        release_claim(key, mine->socket);
    }
    return 0;
}

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
    return 1;
}

/* Where a connect() goes: what the program asked for, and what becomes of it. */
struct destination {
    u32 asked_be;
    u32 addr_be;           /* the endpoint's address: a task's, if a vip was asked for */
    struct location *peer; /* not 0: use the host path, to this (U, P) */
};

/* `own`: the sandbox's endpoint in the destination's network, 0 if there is none.
 * Returns ALLOW or DENY, with to->peer filled if the destination is to be swapped. */
static __always_inline int take_host_path(struct bpf_sock_addr *ctx, struct sandbox *sandbox,
                                          u64 cookie, const struct attachment *own,
                                          struct destination *to, int mapped)
{
    struct bpf_sock *sk = ctx->sk;
    if (!sk)
        return ALLOW;
    u64 socket = bpf_get_socket_cookie(ctx);
    u32 source_be = mapped ? sk->src_ip6[3] : sk->src_ip4;
    u32 source_port = sk->src_port;
    int earlier = forget_earlier(ctx, sk, socket);
    int tied = earlier && source_be == CONSTANT(UNDERLAY_BE);

    if (!own || to->addr_be == own->addr_be)
        goto elsewhere;
    struct address wanted = {.vni = own->vni, .addr_be = to->addr_be};
    struct location *location = directory.lookup(&wanted);
    if (!location) {
        count(REASON_unknown_peer);
        goto elsewhere;
    }
    if (location->underlay_be == CONSTANT(UNDERLAY_BE) && !tied) { /* no wire between: see overlay.c */
        count(REASON_local);
        return ALLOW;
    }
    if (is_dead(location)) {
        count(REASON_host_dead);
        set_retval(-EHOSTUNREACH_); /* at once, instead of two minutes of SYNs */
        return DENY;
    }
    u32 *why = withheld.lookup(&cookie);
    if (why) {
        count(*why);
        goto elsewhere;
    }
    if (!location->port_be || !own->port_be) {
        count(REASON_overlay_only);
        goto elsewhere;
    }
    if (blocked_hosts.lookup(&location->underlay_be)) {
        count(REASON_peer_blocked);
        goto elsewhere;
    }
    if ((source_be && !tied) || sk->bound_dev_if) {
        count(REASON_bound_address);
        goto elsewhere;
    }
    if (is_mptcp(sk)) {
        count(REASON_mptcp_client);
        goto elsewhere;
    }
    if (source_port >= CONSTANT(PORT_FIRST) && source_port <= CONSTANT(PORT_LAST)) {
        count(REASON_bound_port); /* replies to it would go to an endpoint */
        goto elsewhere;
    }

    struct connection init = {}, *connection;
    struct flow mine = {.sandbox = cookie, .socket = socket, .since_ns = bpf_ktime_get_ns(),
                        .ifindex = sandbox->ifindex, .port_be = own->port_be,
                        .state = FLOW_CLAIMED};
    struct flow_key key = {.peer_be = location->underlay_be, .peer_port_be = location->port_be,
                           .local_port_be = bpf_htons(source_port)};
    int room = may_open(cookie);
    if (source_port) {
        if (!claim(&key, &mine, room)) {
            count(room ? REASON_flow_refused : REASON_share_used);
            goto elsewhere;
        }
        if (!tied) {
            int mark = CONSTANT(MARK);
            if (bpf_setsockopt(ctx, SOL_SOCKET_, SO_MARK_, &mark, sizeof(mark))) {
                release_claim(&key, socket);
                count(REASON_flow_refused);
                goto elsewhere;
            }
            init.marked = 1;
        }
    } else if (!claim_any_port(ctx, &key, &mine, mapped, room)) {
        count(room ? REASON_ports_busy : REASON_share_used);
        return ALLOW;
    }

    init.local_addr_be = own->addr_be;
    init.peer_addr_be = to->asked_be;
    init.peer_port_be = ctx->user_port;
    init.port_be = own->port_be;
    init.flow = key;
    connection = connections.sk_storage_get(sk, &init, BPF_SK_STORAGE_GET_F_CREATE);
    if (!connection) {
        release_claim(&key, socket);
        count(REASON_storage_full);
        return source_port ? ALLOW : DENY; /* already bound to U: no way back */
    }
    to->peer = location;
    return ALLOW;

elsewhere:
    if (!tied)
        return ALLOW;
    count(REASON_reconnect_refused); /* bound to U by us: the overlay would drop it silently */
    return DENY;
}

/* Returns ALLOW or DENY, with `to` filled. */
static __always_inline int find_way(struct bpf_sock_addr *ctx, struct destination *to, int mapped)
{
    struct attachment own = {};
    int tcp = ctx->protocol == IPPROTO_TCP;
    if (!tcp && ctx->protocol != IPPROTO_UDP)
        return ALLOW;
    u64 cookie = bpf_get_netns_cookie(ctx);
    struct sandbox *sandbox = sandboxes.lookup(&cookie);
    if (!sandbox)
        return ALLOW;
    int ours = attachment_to(sandbox, to->asked_be, &own);
    if (ours) {
        struct address name = {.vni = own.vni, .addr_be = to->asked_be};
        struct service *service = services.lookup(&name);
        if (service) {
            to->addr_be = choose(&name, service);
            if (!to->addr_be)
                return refuse_service();
            count(REASON_service_chosen);
        }
    }
    int verdict = tcp ? take_host_path(ctx, sandbox, cookie, ours ? &own : 0, to, mapped) : ALLOW;
    if (verdict == ALLOW && !to->peer && ctx->sk) {
        if (to->addr_be == to->asked_be)
            chosen.sk_storage_delete(ctx->sk);
        else
            remember(ctx->sk, to->asked_be, to->addr_be, 0);
    }
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
    if (!is_mapped(ctx))
        return ALLOW;
    struct destination to = {.asked_be = ctx->user_ip6[3], .addr_be = ctx->user_ip6[3]};
    int verdict = find_way(ctx, &to, 1);
    if (to.peer) {
        ctx->user_ip6[3] = to.peer->underlay_be;
        ctx->user_port = to.peer->port_be;
    } else if (to.addr_be != to.asked_be) {
        ctx->user_ip6[3] = to.addr_be;
    }
    return verdict;
}
