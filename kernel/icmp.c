/* Sends ICMP errors (RFC 792, RFC 4443), so that what cannot succeed fails soon and says why.
 *
 * The undeliverable packet itself is turned into the answer.
 */
#define UNREACHABLE_HOST 1       /* codes of ICMP_DEST_UNREACH: EHOSTUNREACH to programs */
#define UNREACHABLE_FILTERED 13
#define UNREACHABLE6_ADDRESS 3   /* code of ICMPV6_DEST_UNREACH: the same */
#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_FIRST_QUERY 128   /* types below are errors */
#define ICMPV6_REDIRECT 137
#define NEXTHDR_FRAGMENT_ 44
#define FRAGMENT6_BYTES 8
#define QUOTED_BEYOND 8 /* bytes quoted after the IP header: ports, sequence numbers */
#define CHECKSUM4_BEHIND 36 /* bytes: more than what precedes the checksummed part */
#define CHECKSUM6_BEHIND 56

struct unreachable {
    struct iphdr ip;
    struct icmphdr icmp;
    u8 quoted[sizeof(struct iphdr) + QUOTED_BEYOND];
};

struct unreachable6 {
    struct ipv6hdr ip;
    struct icmphdr icmp;
    u8 quoted[sizeof(struct ipv6hdr) + FRAGMENT6_BYTES + QUOTED_BEYOND];
};

static __always_inline u16 fold(u32 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

/* Resize `skb` to `bytes`, which the answer then overwrites.  A checksum that the device was still
 * to fill in (CHECKSUM_PARTIAL) would be written into the answer: the kernel forgets it when the
 * position where it starts is cut out, with `behind` bytes. */
static __always_inline int make_room(struct __sk_buff *skb, u32 bytes, u32 behind)
{
    return bpf_skb_change_tail(skb, bytes + behind, 0) ||
           bpf_skb_adjust_room(skb, -(s32)behind, BPF_ADJ_ROOM_MAC, 0);
}

static __always_inline int turn_macs(struct __sk_buff *skb, const u8 *macs)
{
    u8 turned[12];
    __builtin_memcpy(turned, macs + 6, 6);
    __builtin_memcpy(turned + 6, macs, 6);
    return bpf_skb_store_bytes(skb, 0, turned, sizeof(turned), 0);
}

/* Turn `skb`, an IPv4 packet without options, into an error to its sender, from the address that it
 * was for.  Returns 0; if not 0, the packet is unusable and must be dropped. */
static __always_inline int turn_into_unreachable(struct __sk_buff *skb, u8 code)
{
    struct unreachable answer = {};
    u8 macs[12];
    const u32 at = sizeof(struct ethhdr);
    if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) ||
        bpf_skb_load_bytes(skb, at, answer.quoted, sizeof(answer.quoted)) ||
        make_room(skb, at + sizeof(answer), CHECKSUM4_BEHIND))
        return -1;
    struct iphdr *asked = (void *)answer.quoted;
    answer.ip.version = 4;
    answer.ip.ihl = 5;
    answer.ip.ttl = 64;
    answer.ip.tot_len = bpf_htons(sizeof(answer));
    answer.ip.protocol = IPPROTO_ICMP;
    answer.ip.saddr = asked->daddr;
    answer.ip.daddr = asked->saddr;
    answer.ip.check = fold(bpf_csum_diff(0, 0, (void *)&answer.ip, sizeof(answer.ip), 0));
    answer.icmp.type = ICMP_DEST_UNREACH;
    answer.icmp.code = code;
    answer.icmp.checksum_be = fold(bpf_csum_diff(
        0, 0, (void *)&answer.icmp, sizeof(answer.icmp) + sizeof(answer.quoted), 0));
    return turn_macs(skb, macs) ||
           bpf_skb_store_bytes(skb, at, &answer, sizeof(answer), BPF_F_INVALIDATE_HASH);
}

/* The same for an IPv6 packet.  `fragment`: it has a fragment header, which is quoted, too; else
 * that part of the answer's room stays zero. */
static __always_inline int turn_into_unreachable6(struct __sk_buff *skb, int fragment)
{
    struct unreachable6 answer = {};
    u8 macs[12];
    const u32 at = sizeof(struct ethhdr);
    const u32 all = sizeof(answer), less = all - FRAGMENT6_BYTES;
    if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) ||
        bpf_skb_load_bytes(skb, at, answer.quoted, sizeof(answer.quoted) - FRAGMENT6_BYTES))
        return -1;
    if (fragment) {
        if (bpf_skb_load_bytes(skb, at, answer.quoted, sizeof(answer.quoted)) ||
            make_room(skb, at + all, CHECKSUM6_BEHIND))
            return -1;
    } else if (make_room(skb, at + less, CHECKSUM6_BEHIND)) {
        return -1;
    }
    struct ipv6hdr *asked = (void *)answer.quoted;
    u32 payload = (fragment ? all : less) - sizeof(answer.ip);
    u32 pseudo[2] = {bpf_htonl(payload), bpf_htonl(IPPROTO_ICMPV6)};
    answer.ip.version = 6;
    answer.ip.payload_len = bpf_htons(payload);
    answer.ip.nexthdr = IPPROTO_ICMPV6;
    answer.ip.hop_limit = 64;
    answer.ip.saddr = asked->daddr;
    answer.ip.daddr = asked->saddr;
    answer.icmp.type = ICMPV6_DEST_UNREACH;
    answer.icmp.code = UNREACHABLE6_ADDRESS;
    s64 sum = bpf_csum_diff(0, 0, (void *)&answer.ip.saddr, 2 * sizeof(answer.ip.saddr), 0);
    sum = bpf_csum_diff(0, 0, (void *)pseudo, sizeof(pseudo), sum);
    answer.icmp.checksum_be = fold(bpf_csum_diff(
        0, 0, (void *)&answer.icmp, sizeof(answer.icmp) + sizeof(answer.quoted), sum));
    if (turn_macs(skb, macs))
        return -1;
    return fragment ? bpf_skb_store_bytes(skb, at, &answer, all, BPF_F_INVALIDATE_HASH)
                    : bpf_skb_store_bytes(skb, at, &answer, less, BPF_F_INVALIDATE_HASH);
}

/* RFC 1122, 3.2.2: send no error about an error, a fragment other than the first, or a broadcast on
 * the link (whom the IP address meant is for the caller to know).  Packets with IP options are not
 * answered either: turn_into_unreachable() does not handle options. */
static __always_inline int may_be_answered(struct __sk_buff *skb)
{
    struct iphdr ip;
    u8 mac, type;
    const u32 at = sizeof(struct ethhdr);
    if (bpf_skb_load_bytes(skb, 0, &mac, 1) || bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) ||
        bpf_skb_load_bytes(skb, at + sizeof(ip), &type, 1) || mac & 1 || ip.ihl != 5 ||
        ip.frag_off & bpf_htons(IP_OFFSET_MASK))
        return 0;
    return ip.protocol != IPPROTO_ICMP ||
           !(type == ICMP_DEST_UNREACH || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT ||
             type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB);
}

/* RFC 4443, 2.4 (e).  Extension headers other than a first fragment's are not parsed: what follows
 * them might be an error, so it is not answered. */
static __always_inline int may_be_answered6(struct __sk_buff *skb, int *fragment)
{
    struct {
        u8 next, reserved;
        u16 offset_be;
        u32 id;
    } part;
    u8 mac, next, type;
    u32 at = sizeof(struct ethhdr) + sizeof(struct ipv6hdr);
    *fragment = 0;
    if (bpf_skb_load_bytes(skb, 0, &mac, 1) || mac & 1 ||
        bpf_skb_load_bytes(skb, sizeof(struct ethhdr) + 6, &next, 1))
        return 0;
    if (next == NEXTHDR_FRAGMENT_) {
        if (bpf_skb_load_bytes(skb, at, &part, sizeof(part)) || part.offset_be & bpf_htons(0xfff8))
            return 0;
        *fragment = 1;
        next = part.next;
        at += FRAGMENT6_BYTES;
    }
    if (next == IPPROTO_TCP || next == IPPROTO_UDP)
        return 1;
    return next == IPPROTO_ICMPV6 && !bpf_skb_load_bytes(skb, at, &type, 1) &&
           type >= ICMPV6_FIRST_QUERY && type != ICMPV6_REDIRECT;
}

/* Is it time to report that nobody has the address?  The sender is told 3 s after its first
 * attempt, as on a bridge, where ARP takes as long: so it does not give up a peer that is just
 * starting. */
static __always_inline int is_in_vain(const struct attempt_key *name)
{
    u64 now_ns = bpf_ktime_get_ns();
    struct attempt *before = attempts.lookup((struct attempt_key *)name);
    if (!before || now_ns - before->last_ns > ATTEMPT_FORGOTTEN_NS) {
        struct attempt first = {.first_ns = now_ns, .last_ns = now_ns};
        attempts.update((struct attempt_key *)name, &first);
        return 0;
    }
    before->last_ns = now_ns;
    if (now_ns - before->first_ns < ATTEMPT_NS || now_ns - before->told_ns < TOLD_AGAIN_NS)
        return 0;
    before->told_ns = now_ns;
    return 1;
}

/* Send it back to the container that it came from. */
static __always_inline int answer(struct __sk_buff *skb)
{
    bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
    return bpf_redirect_peer(skb->ifindex, 0);
}

#define NOT_TOLD (-6) /* not a TC_ACT_*: the packet must be dropped */

/* Tell the sender, a container of this host, if it is time.  Returns a verdict, or NOT_TOLD. */
static __always_inline int tell_unreachable(struct __sk_buff *skb, u32 vni, u32 addr_be)
{
    struct attempt_key name = {.vni = vni, .ifindex = skb->ifindex};
    *(u32 *)(name.addr + 12) = addr_be;
    if (!may_be_answered(skb) || !is_in_vain(&name))
        return NOT_TOLD;
    tell_refused(skb, REASON_told_unreachable);
    if (turn_into_unreachable(skb, UNREACHABLE_HOST))
        return NOT_TOLD;
    count(REASON_told_unreachable);
    return answer(skb);
}

static __always_inline int tell_unreachable6(struct __sk_buff *skb, const struct address6 *to)
{
    int fragment;
    struct attempt_key name = {.vni = to->vni, .ifindex = skb->ifindex};
    __builtin_memcpy(name.addr, to->addr, sizeof(name.addr));
    if (!may_be_answered6(skb, &fragment) || !is_in_vain(&name))
        return NOT_TOLD;
    tell_refused(skb, REASON_told_unreachable);
    if (turn_into_unreachable6(skb, fragment))
        return NOT_TOLD;
    count(REASON_told_unreachable);
    return answer(skb);
}
