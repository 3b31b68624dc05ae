/* This host's address in an IPv6 underlay, and other hosts'.  In maps all go by their numbers
 * (`hosts6`), so the host path's checks are the same as over IPv4 (docs/decisions/0020).
 *
 * Over an IPv6 underlay every packet of the host path is one of IPv6, else none is.
 */

/* Bytes from the frame's start to the TCP header of a packet of the host path. */
static __always_inline u32 host_path_tcp_at(void)
{
    return sizeof(struct ethhdr) +
           (CONSTANT(IPV6_UNDERLAY) ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
}

static __always_inline struct ipv6 own_underlay6(void)
{
    struct ipv6 own = {.words = {CONSTANT(UNDERLAY6_HIGH), CONSTANT(UNDERLAY6_LOW)}};
    return own;
}

static __always_inline int is_own_underlay6(const struct ipv6 *address)
{
    return address->words[0] == CONSTANT(UNDERLAY6_HIGH) &&
           address->words[1] == CONSTANT(UNDERLAY6_LOW);
}

/* Copy an address of a packet, or of a socket, which need not be aligned to 8 bytes. */
static __always_inline struct ipv6 copied6(const void *address)
{
    struct ipv6 copy;
    __builtin_memcpy(copy.words, address, sizeof(copy.words));
    return copy;
}

/* The same of a program's context, which may only be read word by word: the compiler must not see
 * that these lie side by side. */
#define CONTEXT6(words_)                                                                     \
    ({                                                                                       \
        u32 one_ = (words_)[0], two_ = (words_)[1], three_ = (words_)[2], four_ = (words_)[3]; \
        asm volatile("" : "+r"(one_), "+r"(two_), "+r"(three_), "+r"(four_));                \
        struct in6_addr read_ = {.s6_addr32 = {one_, two_, three_, four_}};                  \
        copied6(&read_);                                                                     \
    })

/* U of the host with this address; 0: no host that this one knows, and no key of any map. */
static __always_inline u32 number_of(struct ipv6 *address)
{
    u32 *number_be = numbers6.lookup(address);
    return number_be ? *number_be : 0;
}

/* Is the IPv6 socket bound to this host's own address in the underlay? */
static __always_inline int is_bound_to_underlay6(const struct bpf_sock *sk)
{
    struct ipv6 bound = CONTEXT6(sk->src_ip6);
    return is_own_underlay6(&bound);
}

static __always_inline int bind_underlay6(struct bpf_sock_addr *ctx, u16 port_be)
{
    struct ipv6 own = own_underlay6();
    struct sockaddr_in6 local = {};
    local.sin6_family = 10; /* AF_INET6 */
    local.sin6_port = port_be;
    __builtin_memcpy(&local.sin6_addr, own.words, sizeof(local.sin6_addr));
    return bpf_bind(ctx, (void *)&local, sizeof(local));
}
