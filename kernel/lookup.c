/* Finds the listener for a SYN to (U, P).  Attached to each container's network namespace.
 *
 * Runs whenever the kernel looks a listener up: for a SYN, for a SYN that reuses a tuple in
 * TIME_WAIT, for the ACK of a SYN cookie.
 */
int listener_lookup(struct bpf_sk_lookup *ctx)
{
    struct flow_key key = {.peer_port_be = ctx->remote_port,
                           .local_port_be = bpf_htons(ctx->local_port)};
    if (ctx->protocol != IPPROTO_TCP)
        return SK_PASS;
    if (CONSTANT(IPV6_UNDERLAY)) {
        if (ctx->family != AF_INET6_)
            return SK_PASS;
        struct ipv6 local = CONTEXT6(ctx->local_ip6), remote = CONTEXT6(ctx->remote_ip6);
        if (!is_own_underlay6(&local))
            return SK_PASS;
        key.peer_be = number_of(&remote);
    } else {
        if (ctx->local_ip4 != CONSTANT(UNDERLAY_BE))
            return SK_PASS;
        key.peer_be = ctx->remote_ip4;
    }
    struct pending *syn = pending.lookup(&key);
    if (!syn)
        return SK_PASS;
    struct listener_key wanted = listener_of(syn);
    struct bpf_sock *listener = (void *)listeners.lookup(&wanted);
    if (!listener)
        return SK_PASS;
    bpf_sk_assign((void *)ctx, listener, 0);
    bpf_sk_release(listener);
    return SK_PASS;
}
