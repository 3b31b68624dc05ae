/* The way to other hosts: next hops, and the underlay device. */

/* bcc 0.26 declares bpf_redirect_neigh without its flags. */
static long (*redirect_neigh)(u32 ifindex, void *params, int plen, u64 flags) = (void *)152;
static u64 (*ktime_get_coarse_ns)(void) = (void *)160;

#define NEXT_HOP_NS 1000000000ULL

/* A route look-up costs as much as all of these programs, so there is one per second and host:
 * often enough to follow a change of routes without anybody's help.  The MTU is not known (1)
 * while the next hop's neighbour entry is not. */
static __always_inline struct next_hop find_next_hop(struct __sk_buff *skb, u64 now_ns, u32 dst_be)
{
    struct next_hop *known = next_hops.lookup(&dst_be);
    if (known && now_ns <= known->until_ns)
        return *known;
    struct bpf_fib_lookup route = {.family = 2 /* AF_INET */, .l4_protocol = IPPROTO_TCP,
                                   .ifindex = CONSTANT(UNDERLAY_IFINDEX),
                                   .ipv4_src = CONSTANT(UNDERLAY_BE), .ipv4_dst = dst_be,
                                   .tot_len = 1 /* so the answer is the route's MTU */};
    int found = bpf_fib_lookup(skb, &route, sizeof(route), BPF_FIB_LOOKUP_OUTPUT);
    int usable = (found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH) &&
                 route.ifindex == CONSTANT(UNDERLAY_IFINDEX) &&
                 route.family == 2; /* not usable: "via inet6", which does not fit into next_hop */
    struct next_hop fresh = {.until_ns = now_ns + NEXT_HOP_NS,
                             .addr_be = usable ? route.ipv4_dst : 0,
                             .mtu = usable ? route.mtu_result : 0};
    next_hops.update(&dst_be, &fresh);
    return fresh;
}

/* Send by the underlay device.  `next_hop_be` 0: the kernel finds it. */
static __always_inline int send_by(u32 next_hop_be)
{
    struct bpf_redir_neigh next_hop = {.nh_family = 2 /* AF_INET */, .ipv4_nh = next_hop_be};
    if (next_hop_be)
        return redirect_neigh(CONSTANT(UNDERLAY_IFINDEX), &next_hop, sizeof(next_hop), 0);
    return redirect_neigh(CONSTANT(UNDERLAY_IFINDEX), 0, 0, 0);
}
