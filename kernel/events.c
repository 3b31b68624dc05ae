/* Tells the driver what becomes of connections, and what was refused: the map `events`.
 *
 * While nobody follows (`slim flows --follow`), a connection costs a look into an array.  Refusals are
 * told at any time, but only a few a second of each container and reason; the rest is a number.
 */
#define REFUSALS_TOLD 8 /* a second, of each sandbox and reason */
#define SECOND_NS 1000000000ULL
#define REFUSED (-1000) /* not a TC_ACT_*: REFUSED - reason: drop the packet, and tell why */

/* Does anybody follow connections? */
static __always_inline int is_watched(void)
{
    u32 until = WATCH_UNTIL;
    u64 *until_ns = watch.lookup(&until);
    return until_ns && *until_ns && bpf_ktime_get_ns() < *until_ns;
}

/* If so: those of this sandbox? */
static __always_inline int is_followed(u64 sandbox)
{
    u32 only = WATCH_SANDBOX;
    u64 *followed = watch.lookup(&only);
    return !followed || !*followed || *followed == sandbox;
}

static __always_inline void count_lost(void)
{
    u32 lost = WATCH_LOST;
    u64 *events_lost = watch.lookup(&lost);
    if (events_lost)
        __sync_fetch_and_add(events_lost, 1);
}

/* How many refusals an event is to speak of; 0: it is not to be told. */
static __always_inline u32 refusals_to_tell(u64 sandbox, u32 reason)
{
    struct refusal_key name = {.sandbox = sandbox, .reason = reason};
    u64 now_ns = bpf_ktime_get_ns();
    struct refusals *seen = refused.lookup(&name);
    if (!seen) {
        struct refusals first = {.since_ns = now_ns};
        refused.insert(&name, &first); /* or another CPU was the first */
        seen = refused.lookup(&name);
        if (!seen)
            return 0;
    }
    if (now_ns - seen->since_ns >= SECOND_NS) {
        seen->since_ns = now_ns;
        seen->told = 0;
    }
    if (seen->told >= REFUSALS_TOLD) {
        __sync_fetch_and_add(&seen->more, 1);
        return 0;
    }
    __sync_fetch_and_add(&seen->told, 1);
    u32 more = seen->more;
    seen->more = 0;
    return more + 1;
}

static __always_inline void write_mapped(struct ipv6 *to, u32 addr_be)
{
    u32 *words = (u32 *)to->words;
    words[0] = 0;
    words[1] = 0;
    words[2] = bpf_htonl(0xffff);
    words[3] = addr_be;
}

static __always_inline void begin_event(struct event *event, u32 kind, u32 reason)
{
    __builtin_memset(event, 0, sizeof(*event));
    event->at_ns = bpf_ktime_get_ns();
    event->kind = kind;
    event->reason = reason;
}

/* Room for an event, 0 if there is none; the caller submits it. */
static __always_inline struct event *new_event(u32 kind, u32 reason)
{
    struct event *event = events.ringbuf_reserve(sizeof(struct event));
    if (!event) {
        count_lost();
        return 0;
    }
    begin_event(event, kind, reason);
    return event;
}

/* An event of a socket's storage, which stays there for the connection's end. */
static __always_inline void tell_stored(struct event *event)
{
    if (events.ringbuf_output(event, sizeof(*event), 0))
        count_lost();
}

/* Tell of a packet that a container has sent in vain; it is as it was sent. */
static __always_inline void tell_refused(struct __sk_buff *skb, u32 reason)
{
    u32 ifindex = skb->ifindex;
    u8 protocol = 0;
    struct veth *veth = veths.lookup(&ifindex);
    u32 times = refusals_to_tell(veth ? veth->sandbox : 0, reason);
    int ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
    const u32 at = sizeof(struct ethhdr);
    u32 behind = at + (ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
    if (!times || (!ipv6 && skb->protocol != bpf_htons(ETH_P_IP)))
        return;
    struct event *event = new_event(EVENT_REFUSED, reason);
    if (!event)
        return;
    event->times = times;
    if (veth) {
        event->vni = veth->vni;
        if (ipv6)
            __builtin_memcpy(event->local.words, veth->addr6, sizeof(veth->addr6));
        else
            write_mapped(&event->local, veth->addr_be);
    }
    if (ipv6) {
        bpf_skb_load_bytes(skb, at + 24, event->peer.words, sizeof(event->peer));
        bpf_skb_load_bytes(skb, at + 6, &protocol, 1);
    } else {
        u32 addr_be = 0;
        bpf_skb_load_bytes(skb, at + 16, &addr_be, sizeof(addr_be));
        bpf_skb_load_bytes(skb, at + 9, &protocol, 1);
        write_mapped(&event->peer, addr_be);
    }
    if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
        u16 port_be = 0;
        bpf_skb_load_bytes(skb, behind + 2, &port_be, sizeof(port_be));
        event->peer_port_be = port_be;
    }
    events.ringbuf_submit(event, 0);
}

/* Is a container's refused packet worth a line?  Others are of no connection (ARP, neighbour
 * discovery), or answer what has ended. */
static __always_inline int is_told(u32 reason)
{
    return reason == REASON_spoofed_source || reason == REASON_foreign_flow ||
           reason == REASON_forged_option || reason == REASON_vlan_tag ||
           reason == REASON_unknown_veth;
}

/* Tell of a SYN for a container.  `caller_be`: its virtual address, 0: not known; `port_be`: the
 * virtual port it is for, 0: it does not say. */
static __always_inline void tell_refused_syn(const struct flow_key *key, u64 sandbox, u32 vni,
                                             u32 addr_be, u16 port_be, u32 caller_be, u32 reason)
{
    u32 times = refusals_to_tell(sandbox, reason);
    if (!times)
        return;
    struct event *event = new_event(EVENT_REFUSED, reason);
    if (!event)
        return;
    event->times = times;
    event->inbound = 1;
    event->vni = vni;
    event->host_be = key->peer_be;
    write_mapped(&event->local, addr_be);
    write_mapped(&event->peer, caller_be ? caller_be : key->peer_be);
    event->local_port_be = port_be;
    event->peer_port_be = key->peer_port_be;
    events.ringbuf_submit(event, 0);
}
