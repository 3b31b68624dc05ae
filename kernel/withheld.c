/* Sandboxes that keep their new connections off the host path, in both directions: what their
 * programs were promised needs the virtual addresses on the wire.  Connections that are open go on.
 *
 * The driver decides (datapath/withheld.py); what cannot wait for it is decided here, at once.
 */
#define SOL_IP_ 0
#define SOL_IPV6_ 41
#define SOL_SOCKET_ 1
#define SO_BINDTODEVICE_ 25
#define SO_BINDTOIFINDEX_ 62
#define TCP_MD5SIG_ 14
#define TCP_MD5SIG_EXT_ 32
#define TCP_AO_ADD_KEY_ 38
#define MD5SIG_BYTES 216 /* struct tcp_md5sig, and where its tcpm_keylen is */
#define MD5SIG_KEYLEN_AT 130
#define IPPROTO_MPTCP_ 262
#define OPTION_SEEN 4096 /* as many bytes of an option's value do programs see */
#define IPT_SO_SET_REPLACE_ 64 /* IP6T_SO_SET_REPLACE as well */

/* Leave a note for the driver, which looks through them each second, and act on it already.  A
 * sandbox that is not finished yet has notes, too: its programs may be faster. */
static __always_inline void withhold(u64 cookie, u64 what, u32 why)
{
    struct note fresh = {.since_ns = bpf_ktime_get_ns(), .what = what};
    struct note *note = notes.lookup(&cookie);
    if (!note && notes.insert(&cookie, &fresh))
        note = notes.lookup(&cookie); /* another CPU was the first */
    if (note)
        __sync_fetch_and_or(&note->what, what);
    if (!notes.lookup(&cookie)) /* the driver has just taken away what it has settled */
        notes.insert(&cookie, &fresh);
    withheld.insert(&cookie, &why); /* whoever was first has decided the same */
}

static __always_inline int is_tcp(const struct bpf_sockopt *ctx)
{
    return ctx->sk &&
           (ctx->sk->protocol == IPPROTO_TCP || ctx->sk->protocol == IPPROTO_MPTCP_);
}

/* What the kernel will take for too short is no key, nor is one of no bytes: it removes one. */
static __always_inline int is_md5_key(const struct bpf_sockopt *ctx)
{
    const u8 *value = ctx->optval, *end = ctx->optval_end;
    if (value + MD5SIG_BYTES > end)
        return 0;
    return *(const u16 *)(value + MD5SIG_KEYLEN_AT) != 0;
}

/* Keys of TCP-MD5 (RFC 2385) and TCP-AO (RFC 5925) are for addresses: those on the wire. */
static __always_inline int is_key(const struct bpf_sockopt *ctx)
{
    if (ctx->optname == TCP_MD5SIG_ || ctx->optname == TCP_MD5SIG_EXT_)
        return is_md5_key(ctx) && is_tcp(ctx);
    return ctx->optname == TCP_AO_ADD_KEY_ && is_tcp(ctx);
}

/* A listener is looked up as if called by way of the first interface. */
static __always_inline int is_device_of_listener(const struct bpf_sockopt *ctx)
{
    return (ctx->optname == SO_BINDTODEVICE_ || ctx->optname == SO_BINDTOIFINDEX_) &&
           is_tcp(ctx) && ctx->sk->state == BPF_TCP_LISTEN;
}

/* setsockopt() of any socket: it is never refused and never changed here.  The kernel does not show
 * those of 32-bit programs to any program (docs/security.md).
 *
 * The value is left as it is: a program of a nested cgroup, which ran before, may have put another
 * into its place.  Of one that is too long for us the kernel takes the original. */
int setsockopt(struct bpf_sockopt *ctx)
{
    u64 what = 0;
    u32 why = 0;
    if (ctx->optlen > OPTION_SEEN)
        ctx->optlen = 0;
    switch (ctx->level) {
    case IPPROTO_TCP:
        if (is_key(ctx)) {
            what = NOTE_KEYS;
            why = REASON_keys;
        }
        break;
    case SOL_SOCKET_:
        if (is_device_of_listener(ctx)) {
            what = NOTE_BOUND_LISTENER;
            why = REASON_bound_listener;
        }
        break;
    case SOL_IP_:
    case SOL_IPV6_: /* iptables-legacy tells nobody; nftables' changes come as netlink messages */
        if (ctx->optname == IPT_SO_SET_REPLACE_) {
            what = NOTE_RULES;
            why = REASON_own_rules;
        }
        break;
    }
    if (what) {
        u64 cookie = bpf_get_netns_cookie(ctx);
        if (cookie != CONSTANT(HOST_NETNS))
            withhold(cookie, what, why);
    }
    return 1;
}
