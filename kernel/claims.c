/* Claims source ports towards a peer: no two sockets of this host may use one tuple.
 *
 * All containers share U, and each namespace's kernel knows its own ports only.
 */
#define EINVAL_ 22
#define EADDRNOTAVAIL_ 99
#define CLAIM_ATTEMPTS 16
#define CLAIM_STALE_NS 5000000000ULL      /* a claim whose SYN never left */
#define TIME_WAIT_NS 60000000000ULL       /* TCP_TIMEWAIT_LEN */
#define SO_REUSEADDR_ 2

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

/* Bind the socket to (U, port).  `ip6`: it is an IPv6 socket. */
static __always_inline int bind_underlay(struct bpf_sock_addr *ctx, u16 port_be, int ip6)
{
    if (CONSTANT(IPV6_UNDERLAY))
        return bind_underlay6(ctx, port_be);
    if (ip6) {
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

#define BOUND 1
#define NO_PORT 0
#define NO_IPV4 (-1) /* bind() refuses an IPv4-mapped address: the socket has IPV6_V6ONLY */
#define NO_UNDERLAY6 (-2) /* bind() refuses U: the container's ip_nonlocal_bind was switched off */

/* Find a source port that nobody on this host uses towards the peer, and bind it.  No helper tells
 * whether a socket has IPV6_V6ONLY, and bpf_bind() changes nothing if it has. */
static __always_inline int claim_any_port(struct bpf_sock_addr *ctx, struct flow_key *key,
                                          struct flow *mine, int ip6, int room)
{
    int one = 1;
    u32 start = bpf_get_prandom_u32();
    bpf_setsockopt(ctx, SOL_SOCKET_, SO_REUSEADDR_, &one, sizeof(one));
    for (u32 i = 0; i < CLAIM_ATTEMPTS; i++) {
        u32 port = client_port(start + i);
        key->local_port_be = bpf_htons(port);
        if (!claim(key, mine, room))
            continue;
        int error = bind_underlay(ctx, key->local_port_be, ip6);
        if (error == 0)
            return BOUND;
        release_claim(key, mine->socket);
        if (ip6 && error == -EINVAL_)
            return NO_IPV4;
        if (CONSTANT(IPV6_UNDERLAY) && error == -EADDRNOTAVAIL_)
            return NO_UNDERLAY6;
    }
    return NO_PORT;
}
