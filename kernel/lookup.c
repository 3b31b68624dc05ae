/* Finds the listener for a SYN to (U, P).  Attached to each container's network namespace.
 *
 * Runs whenever the kernel looks a listener up: for a SYN, for a SYN that reuses a tuple in
 * TIME_WAIT, for the ACK of a SYN cookie.
 */
int listener_lookup(struct bpf_sk_lookup *ctx)
{
    if (ctx->protocol != IPPROTO_TCP || ctx->local_ip4 != CONSTANT(UNDERLAY_BE))
        return SK_PASS;
    struct flow_key key = {.peer_be = ctx->remote_ip4, .peer_port_be = ctx->remote_port,
                           .local_port_be = bpf_htons(ctx->local_port)};
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
