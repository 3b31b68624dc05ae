/* Keeps sandboxes' new connections off the host path, in both directions, if what their programs
 * rely on needs the virtual addresses on the wire.  Open connections continue.
 *
 * The driver decides (datapath/withheld.py); what cannot wait for it is decided here, at once.
 */
#define AF_INET6_ 10
#define SOL_IP_ 0
#define SOL_IPV6_ 41
#define SOL_SOCKET_ 1
#define SO_REUSEPORT_ 15
#define SO_BINDTODEVICE_ 25
#define SO_BINDTOIFINDEX_ 62
#define TCP_MD5SIG_ 14
#define TCP_MD5SIG_EXT_ 32
#define TCP_AO_ADD_KEY_ 38
#define MD5SIG_BYTES 216 /* size of struct tcp_md5sig, and offset of its tcpm_keylen */
#define MD5SIG_KEYLEN_AT 130
#define IPPROTO_MPTCP_ 262
#define OPTION_SEEN 4096 /* bytes of an option's value that programs see */
#define IPT_SO_SET_REPLACE_ 64 /* IP6T_SO_SET_REPLACE as well */

/* Leave a note for the driver, which reads the notes each second, and act on it at once.  A sandbox
 * that is not finished yet gets notes, too: its programs may be faster. */
static __always_inline void withhold(u64 cookie, u64 what, u32 why)
{
    struct note fresh = {.since_ns = bpf_ktime_get_ns(), .what = what};
    struct note *note = notes.lookup(&cookie);
    if (!note && notes.insert(&cookie, &fresh))
        note = notes.lookup(&cookie); /* another CPU was the first */
    if (note)
        __sync_fetch_and_or(&note->what, what);
    if (!notes.lookup(&cookie)) /* the driver has just removed what it has settled */
        notes.insert(&cookie, &fresh);
    if (why) /* else the note alone says it */
        withheld.insert(&cookie, &why); /* an earlier writer has decided the same */
}

static __always_inline int is_tcp(const struct bpf_sockopt *ctx)
{
    return ctx->sk &&
           (ctx->sk->protocol == IPPROTO_TCP || ctx->sk->protocol == IPPROTO_MPTCP_);
}

/* A value that the kernel rejects as too short is no key, nor is one of zero bytes: it removes
 * one. */
static __always_inline int is_md5_key(const struct bpf_sockopt *ctx)
{
    const u8 *value = ctx->optval, *end = ctx->optval_end;
    if (value + MD5SIG_BYTES > end)
        return 0;
    return *(const u16 *)(value + MD5SIG_KEYLEN_AT) != 0;
}

/* Keys of TCP-MD5 (RFC 2385) and TCP-AO (RFC 5925) belong to addresses: those on the wire. */
static __always_inline int is_key(const struct bpf_sockopt *ctx)
{
    if (ctx->optname == TCP_MD5SIG_ || ctx->optname == TCP_MD5SIG_EXT_)
        return is_md5_key(ctx) && is_tcp(ctx);
    return ctx->optname == TCP_AO_ADD_KEY_ && is_tcp(ctx);
}

/* A listener is looked up as if the SYN came by the first interface. */
static __always_inline int is_device_of_listener(const struct bpf_sockopt *ctx)
{
    return (ctx->optname == SO_BINDTODEVICE_ || ctx->optname == SO_BINDTOIFINDEX_) &&
           is_tcp(ctx) && ctx->sk->state == BPF_TCP_LISTEN;
}

/* bpf_sk_assign() refuses these sockets before Linux 6.6.  Only MPTCP's listeners, and those for IPv6
 * alone, need to be assigned (container.c); whether one is for IPv6 alone is not to be seen here. */
static __always_inline int is_group_not_assigned(const struct bpf_sockopt *ctx)
{
    return !CONSTANT(ASSIGNS_GROUPS) && ctx->optname == SO_REUSEPORT_ && is_tcp(ctx);
}

/* setsockopt() of any socket: never refused and never changed here.  The kernel does not show calls
 * of 32-bit programs to any BPF program (docs/security.md).
 *
 * The value is left as it is: a nested cgroup's program, which ran before, may have replaced it.
 * If the value is too long for us, the kernel uses the original. */
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
        } else if (is_group_not_assigned(ctx)) {
            if (ctx->sk->protocol == IPPROTO_MPTCP_) {
                what = NOTE_LISTENER_GROUP;
                why = REASON_listener_group;
            } else if (ctx->sk->family == AF_INET6_) {
                what = NOTE_IPV6_OPTIONS;
            }
        }
        break;
    case SOL_IPV6_:
        if (ctx->optname != IPT_SO_SET_REPLACE_ && !may_be_lost(ctx->optname) && is_tcp(ctx)) {
            what = NOTE_IPV6_OPTIONS;
            break;
        } /* fall through */
    case SOL_IP_: /* iptables-legacy tells nobody; nftables' changes come as netlink messages */
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
