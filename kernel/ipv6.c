/* IPv6 on the host path: virtual IPv6 addresses for connections that are IPv4 on the wire.
 *
 * A client's socket is AF_INET6 and is connected to ::ffff:U, as an IPv4-mapped one.  The SYN's
 * option says that IPv6 was asked for (option.h).  Both ends keep the addresses that their programs
 * see in a storage of its own, for which connections over IPv4 pay nothing (docs/decisions/0016).
 */
static __always_inline int is_mapped(const struct bpf_sock_addr *ctx)
{
    return !ctx->user_ip6[0] && !ctx->user_ip6[1] && ctx->user_ip6[2] == bpf_htonl(0xffff);
}

static __always_inline void map_address(struct bpf_sock_addr *ctx, u32 addr_be)
{
    ctx->user_ip6[0] = 0;
    ctx->user_ip6[1] = 0;
    ctx->user_ip6[2] = bpf_htonl(0xffff);
    ctx->user_ip6[3] = addr_be;
}

static __always_inline void read_address6(const struct bpf_sock_addr *ctx, struct ipv6 *to)
{
    u32 *words = (u32 *)to->words;
    words[0] = ctx->user_ip6[0];
    words[1] = ctx->user_ip6[1];
    words[2] = ctx->user_ip6[2];
    words[3] = ctx->user_ip6[3];
}

static __always_inline void write_address6(struct bpf_sock_addr *ctx, const struct ipv6 *from)
{
    const u32 *words = (const u32 *)from->words;
    ctx->user_ip6[0] = words[0];
    ctx->user_ip6[1] = words[1];
    ctx->user_ip6[2] = words[2];
    ctx->user_ip6[3] = words[3];
}

/* The sandbox's endpoint in the destination's network.  Returns 0 if there is none. */
static __always_inline int attachment6_to(const struct sandbox6 *sandbox, const struct ipv6 *dst,
                                          struct attachment6 *found)
{
    const u64 *to = dst->words;
    for (u32 i = 0; i < SLIM_ATTACHMENTS; i++) {
        if (i >= sandbox->count)
            break;
        const struct attachment6 *own = &sandbox->attachments[i];
        const u64 *addr = own->addr.words, *mask = own->mask.words;
        if (!((to[0] ^ addr[0]) & mask[0]) && !((to[1] ^ addr[1]) & mask[1])) {
            *found = *own;
            return 1;
        }
    }
    return 0;
}

/* The IPv6 address of the sandbox's endpoint in a network.  Returns 0 if that takes no IPv6
 * connections on the host path. */
static __always_inline int own_address6(u64 cookie, u32 vni, struct ipv6 *found)
{
    struct sandbox6 *sandbox = sandboxes6.lookup(&cookie);
    if (!sandbox)
        return 0;
    for (u32 i = 0; i < SLIM_ATTACHMENTS; i++) {
        if (i >= sandbox->count)
            break;
        if (sandbox->attachments[i].vni == vni) {
            *found = sandbox->attachments[i].addr;
            return 1;
        }
    }
    return 0;
}

/* The IPv6 names of an accepted connection.  Returns 0 if an endpoint has gone since its SYN. */
static __always_inline int find_names6(const struct pending *syn, struct connection6 *names)
{
    struct address caller = {.vni = syn->vni, .addr_be = syn->peer_addr_be};
    struct ipv6 *peer = addresses6.lookup(&caller);
    if (!peer || !own_address6(syn->sandbox, syn->vni, &names->local))
        return 0;
    names->peer = *peer;
    return 1;
}

/* Has a program set an option for its IPv6 packets that has no counterpart in IPv4? */
static __always_inline int has_ipv6_options(u64 cookie)
{
    struct note *note = notes.lookup(&cookie);
    return note && note->what & NOTE_IPV6_OPTIONS;
}

/* Options that may be lost: they are about what IPv4 does as well, about datagrams, about what a
 * program is told, or a mere wish (the traffic class, which no tunnel copies to its own header, and
 * the flow label that the kernel chooses).  Any other, like extension headers, IPV6_MINHOPCOUNT and
 * leased flow labels, must be on the packets. */
static __always_inline int may_be_lost(u32 option)
{
    switch (option) {
    case 16: /* IPV6_UNICAST_HOPS */
    case 17: /* IPV6_MULTICAST_IF */
    case 18: /* IPV6_MULTICAST_HOPS */
    case 19: /* IPV6_MULTICAST_LOOP */
    case 20: /* IPV6_JOIN_GROUP */
    case 21: /* IPV6_LEAVE_GROUP */
    case 23: /* IPV6_MTU_DISCOVER */
    case 24: /* IPV6_MTU */
    case 25: /* IPV6_RECVERR */
    case 26: /* IPV6_V6ONLY: asked for certain by bind(), connect.c */
    case 29: /* IPV6_MULTICAST_ALL */
    case 31: /* IPV6_RECVERR_RFC4884 */
    case 49: /* IPV6_RECVPKTINFO */
    case 51: /* IPV6_RECVHOPLIMIT */
    case 60: /* IPV6_RECVPATHMTU */
    case 62: /* IPV6_DONTFRAG */
    case 66: /* IPV6_RECVTCLASS */
    case 67: /* IPV6_TCLASS */
    case 70: /* IPV6_AUTOFLOWLABEL */
    case 72: /* IPV6_ADDR_PREFERENCES */
    case 74: /* IPV6_RECVORIGDSTADDR */
    case 75: /* IPV6_TRANSPARENT */
    case 77: /* IPV6_RECVFRAGSIZE */
    case 78: /* IPV6_FREEBIND */
        return 1;
    }
    return 0;
}
