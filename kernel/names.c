/* Shows programs only virtual addresses, in getsockname(), getpeername() and accept().
 *
 * Attached to the cgroup root; a socket without storage is neither on the host path nor connected
 * to a vip.
 */
static __always_inline struct connection *connection_of(struct bpf_sock_addr *ctx)
{
    struct bpf_sock *sk = ctx->sk;
    return sk ? connections.sk_storage_get(sk, 0, 0) : 0;
}

int getpeername4(struct bpf_sock_addr *ctx)
{
    struct connection *c = connection_of(ctx);
    u32 peer_be = c ? c->peer_addr_be : shown(ctx->sk, ctx->user_ip4);
    ctx->user_ip4 = peer_be;
    if (c && c->peer_port_be)
        ctx->user_port = c->peer_port_be;
    return 1;
}

int getsockname4(struct bpf_sock_addr *ctx)
{
    struct connection *c = connection_of(ctx);
    if (c) {
        ctx->user_ip4 = c->local_addr_be;
        if (c->local_port_be)
            ctx->user_port = c->local_port_be;
    }
    return 1;
}

static __always_inline struct connection6 *connection6_of(struct bpf_sock_addr *ctx,
                                                          const struct connection *c)
{
    struct bpf_sock *sk = ctx->sk;
    return sk && !c->local_addr_be ? connections6.sk_storage_get(sk, 0, 0) : 0;
}

int getpeername6(struct bpf_sock_addr *ctx)
{
    struct connection *c = connection_of(ctx);
    if (!c) {
        if (is_mapped(ctx))
            ctx->user_ip6[3] = shown(ctx->sk, ctx->user_ip6[3]);
        return 1;
    }
    struct connection6 *c6 = connection6_of(ctx, c);
    if (c6)
        write_address6(ctx, &c6->peer);
    else
        map_address(ctx, c->peer_addr_be);
    if (c->peer_port_be)
        ctx->user_port = c->peer_port_be;
    return 1;
}

int getsockname6(struct bpf_sock_addr *ctx)
{
    struct connection *c = connection_of(ctx);
    if (!c)
        return 1;
    struct connection6 *c6 = connection6_of(ctx, c);
    if (c6)
        write_address6(ctx, &c6->local);
    else
        map_address(ctx, c->local_addr_be);
    if (c->local_port_be)
        ctx->user_port = c->local_port_be;
    return 1;
}
