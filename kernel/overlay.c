/* The overlay path: carries everything that is not a host-path connection, in VXLAN (RFC 7348)
 * between hosts, and handed over directly on one host.  There is no bridge: endpoints are found by
 * (network, IP address); the inner Ethernet header is filled in, never used for look-ups.
 */
#define FLOOD (-3) /* not a TC_ACT_*: for everybody in the network.  Each program calls flood()
                    * once, since the verifier walks its loop at each call. */
#define CROSS TC_ACT_OK /* from the sender's end to the host's (NETKIT_PASS has the same number) */

/* Drop and count at the host's end, with either kind of pair: a drop at the sender's hook would be
 * an error for the sending program (ENOBUFS). */
static __always_inline int refuse(u32 reason, int at_sender)
{
    if (at_sender)
        return CROSS;
    count(reason);
    return TC_ACT_SHOT;
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

static __always_inline int set_tunnel(struct __sk_buff *skb, u32 vni, u32 underlay_be)
{
    struct bpf_tunnel_key key = {};
    key.tunnel_id = vni;
    key.remote_ipv4 = bpf_ntohl(underlay_be);
    key.tunnel_ttl = 64;
    return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX) == 0;
}

static __always_inline int send_to(struct __sk_buff *skb, u32 vni, struct location *to,
                                   int at_sender)
{
    u32 underlay_be = to->underlay_be;
    bpf_skb_store_bytes(skb, 0, to->mac, sizeof(to->mac), 0);
    int verdict = tunnelled(skb, vni, underlay_be);
    if (verdict != NOT_TUNNELLED) {
        count(REASON_overlay_sent);
        return verdict;
    }
    if (!set_tunnel(skb, vni, underlay_be))
        return refuse(REASON_tunnel_failed, at_sender);
    count(REASON_overlay_sent);
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

/* The VNI and the inner destination identify the endpoint; the inner source must live on the host
 * that the outer source names. */
static __always_inline int arrived(struct __sk_buff *skb, const struct location *sender,
                                   u32 outer_be, const struct delivery *to, int everybody)
{
    if (!sender || sender->underlay_be != outer_be || outer_be == CONSTANT(UNDERLAY_BE)) {
        count(REASON_overlay_wrong_host);
        return TC_ACT_SHOT;
    }
    if (to) {
        count(REASON_overlay_received);
        bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
        return bpf_redirect_peer(to->ifindex, 0);
    }
    if (everybody)
        return FLOOD;
    count(REASON_overlay_no_endpoint);
    return TC_ACT_SHOT;
}

static __always_inline int receive(struct __sk_buff *skb, u32 vni, u32 outer_be)
{
    if (skb->vlan_present) {
        count(REASON_vlan_tag);
        return TC_ACT_SHOT;
    }
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        struct headers4 h;
        if (!headers_ip4(skb, &h)) {
            count(REASON_malformed);
            return TC_ACT_SHOT;
        }
        struct address from = {.vni = vni, .addr_be = h.ip->saddr};
        struct address to = {.vni = vni, .addr_be = h.ip->daddr};
        struct location *sender = directory.lookup(&from);
        struct delivery *local = endpoints.lookup(&to);
        /* Only the sender's host knows a subnet's broadcast address; here a group MAC shows it,
         * in a frame from a registered host of this network. */
        int everybody = is_multicast4(to.addr_be) || (h.eth->h_dest[0] & 1);
        return arrived(skb, sender, outer_be, local, everybody);
    }
    if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        struct address6 from = {.vni = vni}, to = {.vni = vni};
        if (bpf_skb_load_bytes(skb, 14 + 8, from.addr, 16) ||
            bpf_skb_load_bytes(skb, 14 + 24, to.addr, 16)) {
            count(REASON_malformed);
            return TC_ACT_SHOT;
        }
        struct location *sender = directory6.lookup(&from);
        struct delivery *local = endpoints6.lookup(&to);
        return arrived(skb, sender, outer_be, local, to.addr[0] == 0xff);
    }
    count(REASON_not_ip);
    return TC_ACT_SHOT;
}

/* tc ingress of the VXLAN device. */
int from_overlay(struct __sk_buff *skb)
{
    struct bpf_tunnel_key key = {};
    if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0)) {
        count(REASON_tunnel_failed);
        return TC_ACT_SHOT;
    }
    int verdict = receive(skb, key.tunnel_id, bpf_htonl(key.remote_ipv4));
    return verdict == FLOOD ? flood(skb, key.tunnel_id, 0) : verdict;
}
