/* The overlay path: carries everything that is not a host-path connection, in VXLAN (RFC 7348)
 * between hosts, and handed over directly on one host.  There is no bridge: endpoints are found by
 * (network, IP address); the inner Ethernet header is filled in, never used for look-ups.
 */
#define FLOOD (-3) /* not a TC_ACT_*: for everybody in the network.  Each program calls flood()
                    * once, since the verifier walks its loop at each call. */
#define CROSS TC_ACT_OK /* from the sender's end to the host's (NETKIT_PASS has the same number) */

/* Drop and count at the host's end, with either kind of pair: a drop at the sender's hook would be
 * an error for the sending program (ENOBUFS).  from_container() tells why. */
static __always_inline int refuse(u32 reason, int at_sender)
{
    if (at_sender)
        return CROSS;
    count(reason);
    return is_told(reason) ? REFUSED - (int)reason : TC_ACT_SHOT;
}

static __always_inline int hand_over(struct __sk_buff *skb, struct delivery *to, int at_sender)
{
    if (at_sender)
        return CROSS;
    count(REASON_overlay_local);
    bpf_skb_store_bytes(skb, 0, to->mac, sizeof(to->mac), 0);
    bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
    return bpf_redirect_peer(to->ifindex, 0);
}

/* Over IPv6 the outer UDP checksum stays: the device at the other end takes no packet without one.
 * U is named as its source: the host may have temporary addresses, which the kernel prefers. */
static __always_inline int set_tunnel(struct __sk_buff *skb, u32 vni, u32 underlay_be)
{
    struct bpf_tunnel_key key = {};
    key.tunnel_id = vni;
    key.tunnel_ttl = 64;
    if (CONSTANT(IPV6_UNDERLAY)) {
        struct ipv6 *host = hosts6.lookup(&underlay_be);
        if (!host)
            return 0;
        struct ipv6 own = own_underlay6();
        __builtin_memcpy(key.remote_ipv6, host->words, sizeof(key.remote_ipv6));
        __builtin_memcpy(key.local_ipv6, own.words, sizeof(key.local_ipv6));
        return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6) == 0;
    }
    key.remote_ipv4 = bpf_ntohl(underlay_be);
    return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX) == 0;
}

static __always_inline int send_to(struct __sk_buff *skb, u32 vni, struct location *to,
                                   int at_sender)
{
    u32 underlay_be = to->underlay_be;
    bpf_skb_store_bytes(skb, 0, to->mac, sizeof(to->mac), 0);
    int verdict = encapsulate(skb, vni, underlay_be);
    if (verdict != BY_DEVICE) {
        count(REASON_overlay_sent);
        return verdict;
    }
    if (!set_tunnel(skb, vni, underlay_be))
        return refuse(REASON_tunnel_failed, at_sender);
    count(REASON_overlay_sent);
    count(REASON_by_device);
    return bpf_redirect(CONSTANT(VXLAN_IFINDEX), 0);
}

/* Head-end replication: send a copy to each receiver.  `remote` 0: to local ones only (the packet
 * came from another host, which has sent its own copies). */
static __always_inline int flood(struct __sk_buff *skb, u32 vni, int remote)
{
    u32 from = skb->ifindex;
    struct flood_key key = {.vni = vni};
    __u8 mac[6] = {};
    count(REASON_flooded);
    /* An interface without ARP sends IPv4 broadcasts to its own MAC: nobody would accept them. */
    if (remote && !bpf_skb_load_bytes(skb, 0, mac, 1) && !(mac[0] & 1)) {
        __builtin_memset(mac, 0xff, sizeof(mac));
        bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0);
    }
    for (u32 i = 0; i < SLIM_FLOOD_TARGETS; i++) {
        key.index = i;
        struct flood_target *target = floods.lookup(&key);
        if (!target)
            return TC_ACT_STOLEN;
        if (target->ifindex) {
            if (target->ifindex != from && bpf_clone_redirect(skb, target->ifindex, 0))
                count(REASON_tunnel_failed);
        } else if (remote) {
            if (!set_tunnel(skb, vni, target->underlay_be) ||
                bpf_clone_redirect(skb, CONSTANT(VXLAN_IFINDEX), 0))
                count(REASON_tunnel_failed);
        }
    }
    key.index = SLIM_FLOOD_TARGETS;
    if (floods.lookup(&key))
        count(REASON_flood_overflow);
    return TC_ACT_STOLEN;
}

static __always_inline int overlay4(struct __sk_buff *skb, const struct veth *veth, u32 dst_be,
                                    int at_sender)
{
    struct address to = {.vni = veth->vni, .addr_be = dst_be};
    struct delivery *local = endpoints.lookup(&to);
    if (local)
        return hand_over(skb, local, at_sender);
    struct location *remote = directory.lookup(&to);
    if (remote && remote->underlay_be != CONSTANT(UNDERLAY_BE))
        return send_to(skb, veth->vni, remote, at_sender);
    if (is_multicast4(dst_be) || dst_be == veth->broadcast_be)
        return FLOOD;
    struct service *service = services.lookup(&to);
    if (service && service->count)
        return at_sender ? CROSS : answer_ping(skb);
    int verdict = at_sender ? NOT_TOLD : tell_unreachable(skb, veth->vni, dst_be);
    return verdict == NOT_TOLD ? refuse(REASON_unknown_destination, at_sender) : verdict;
}

static __always_inline int same_address6(const __u8 *a, const __u8 *b)
{
    const u64 *x = (const u64 *)a, *y = (const u64 *)b;
    return x[0] == y[0] && x[1] == y[1];
}

static __always_inline int overlay6(struct __sk_buff *skb, const struct veth *veth, int at_sender)
{
    u64 src[2], dst[2];
    struct address6 to = {.vni = veth->vni};
    if (bpf_skb_load_bytes(skb, 14 + 8, src, 16) || bpf_skb_load_bytes(skb, 14 + 24, dst, 16))
        return refuse(REASON_malformed, at_sender);
    __u8 *first = (__u8 *)src;
    if (first[0] == 0xfe && (first[1] & 0xc0) == 0x80)
        return refuse(REASON_link_local6, at_sender);
    if ((!src[0] && !src[1]) || !same_address6((__u8 *)src, veth->addr6))
        return refuse((src[0] || src[1]) ? REASON_spoofed_source : REASON_link_local6, at_sender);
    __builtin_memcpy(to.addr, dst, 16);
    struct delivery *local = endpoints6.lookup(&to);
    if (local)
        return hand_over(skb, local, at_sender);
    struct location *remote = directory6.lookup(&to);
    if (remote && remote->underlay_be != CONSTANT(UNDERLAY_BE))
        return send_to(skb, veth->vni, remote, at_sender);
    if (to.addr[0] == 0xff)
        return FLOOD;
    int verdict = at_sender ? NOT_TOLD : tell_unreachable6(skb, &to);
    return verdict == NOT_TOLD ? refuse(REASON_unknown_destination, at_sender) : verdict;
}

/* What is known of a packet from another host. */
struct arrival {
    struct location *sender; /* its inner source's; 0: nobody's */
    struct delivery *to;     /* 0: no endpoint of this host */
    int everybody;
};

/* Look the ends up: the VNI and the inner destination identify the endpoint.  `at`: offset of the
 * inner IP header.  Returns 0, or the reason why it cannot be delivered. */
static __always_inline u32 find_ends(struct __sk_buff *skb, u32 at, __be16 protocol, u32 vni,
                                     struct arrival *found)
{
    if (protocol == bpf_htons(ETH_P_IP)) {
        struct iphdr ip;
        u8 mac;
        if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 4 ||
            bpf_skb_load_bytes(skb, at - sizeof(struct ethhdr), &mac, 1))
            return REASON_malformed;
        struct address from = {.vni = vni, .addr_be = ip.saddr};
        struct address to = {.vni = vni, .addr_be = ip.daddr};
        found->sender = directory.lookup(&from);
        found->to = endpoints.lookup(&to);
        /* Only the sender's host knows a subnet's broadcast address; here a group MAC shows it,
         * in a frame from a registered host of this network. */
        found->everybody = is_multicast4(to.addr_be) || mac & 1;
        return 0;
    }
    if (protocol == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr ip;
        struct address6 from = {.vni = vni}, to = {.vni = vni};
        if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
            return REASON_malformed;
        __builtin_memcpy(from.addr, &ip.saddr, sizeof(from.addr));
        __builtin_memcpy(to.addr, &ip.daddr, sizeof(to.addr));
        found->sender = directory6.lookup(&from);
        found->to = endpoints6.lookup(&to);
        found->everybody = to.addr[0] == 0xff;
        return 0;
    }
    return REASON_not_ip;
}

/* The inner source must live on the host that the outer source names. */
static __always_inline int lives_on(const struct location *sender, u32 outer_be)
{
    return sender && sender->underlay_be == outer_be && outer_be != CONSTANT(UNDERLAY_BE);
}

static __always_inline int refuse_arrived(u32 reason)
{
    count(reason);
    return TC_ACT_SHOT;
}

static __always_inline int receive(struct __sk_buff *skb, u32 vni, u32 outer_be)
{
    struct arrival found;
    if (skb->vlan_present)
        return refuse_arrived(REASON_vlan_tag);
    u32 reason = find_ends(skb, sizeof(struct ethhdr), skb->protocol, vni, &found);
    if (reason)
        return refuse_arrived(reason);
    if (!lives_on(found.sender, outer_be))
        return refuse_arrived(REASON_overlay_wrong_host);
    if (!found.to)
        return found.everybody ? FLOOD : refuse_arrived(REASON_overlay_no_endpoint);
    count(REASON_overlay_received);
    count(REASON_by_device);
    bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
    return bpf_redirect_peer(found.to->ifindex, 0);
}

/* U of the host that the outer header names; 0: none that this host knows. */
static __always_inline u32 sender_of(const struct bpf_tunnel_key *key)
{
    if (!CONSTANT(IPV6_UNDERLAY))
        return bpf_htonl(key->remote_ipv4);
    struct ipv6 host;
    __builtin_memcpy(host.words, key->remote_ipv6, sizeof(host.words));
    return number_of(&host);
}

/* tc ingress of the VXLAN device.  Its port is open for both IPv4 and IPv6; the kernel gives no key
 * of a packet whose outer header is of the other kind. */
int from_overlay(struct __sk_buff *skb)
{
    struct bpf_tunnel_key key = {};
    if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key),
                               CONSTANT(IPV6_UNDERLAY) ? BPF_F_TUNINFO_IPV6 : 0)) {
        count(REASON_tunnel_failed);
        return TC_ACT_SHOT;
    }
    int verdict = receive(skb, key.tunnel_id, sender_of(&key));
    return verdict == FLOOD ? flood(skb, key.tunnel_id, 0) : verdict;
}

/* A UDP packet on the wire, for this host.  Whatever receive() would not simply hand over takes the
 * device (TC_ACT_OK), and meets it there.  Streams are looked for first, since all else would be
 * done twice for them: a stranger can take the gain from a flow, which is all. */
static __always_inline int receive_directly(struct __sk_buff *skb)
{
    struct outer outer;
    struct arrival found;
    const u32 at = sizeof(struct ethhdr);
    if (bpf_skb_load_bytes(skb, at, &outer, sizeof(outer)) ||
        outer.udp.dest != CONSTANT(VXLAN_PORT_BE) || !outer.udp.dest ||
        is_stream(skb, at + sizeof(outer), outer.inner.h_proto) ||
        !is_encapsulated(&outer, skb->len - at) ||
        find_ends(skb, at + sizeof(outer), outer.inner.h_proto, bpf_ntohl(outer.vxlan.vni) >> 8,
                  &found) ||
        !lives_on(found.sender, outer.ip.saddr) || !found.to || decapsulate(skb, &outer))
        return TC_ACT_OK;
    count(REASON_overlay_received);
    return bpf_redirect_peer(found.to->ifindex, 0);
}
