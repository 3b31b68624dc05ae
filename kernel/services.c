/* Vips: one virtual address in front of all tasks of a service.
 *
 * A task is chosen once per connection, or per socket for datagrams.  The socket then talks to the
 * task's own address, by whichever path that takes, and programs see the vip.  No packet is
 * rewritten.
 */
#define ALLOW 1
#define DENY 0
#define CHOICE_ATTEMPTS 32 /* the first quarter of them at random */
#define ECONNREFUSED_ 111

/* bcc 0.26 has no such helper (Linux 5.18). */
static int (*set_retval)(int value) = (void *)187;

/* Copies the attachment, so that the code that follows is verified once, not once per slot. */
static __always_inline int attachment_to(const struct sandbox *sandbox, u32 dst_be,
                                         struct attachment *found)
{
    for (u32 i = 0; i < SLIM_ATTACHMENTS; i++) {
        if (i >= sandbox->count)
            break;
        if ((dst_be & sandbox->attachments[i].mask_be) == sandbox->attachments[i].subnet_be) {
            *found = sandbox->attachments[i];
            return 1;
        }
    }
    return 0;
}

static __always_inline int is_dead(const struct location *location)
{
    u64 *until_ns = dead_hosts.lookup((u32 *)&location->underlay_be);
    return until_ns && bpf_ktime_get_ns() < *until_ns;
}

/* A task is there while its endpoint is in the directory, on a host that is not dead.  The list of
 * tasks alone does not tell: it comes from the swarm's managers, and later. */
static __always_inline int is_there(u32 vni, u32 addr_be)
{
    struct address name = {.vni = vni, .addr_be = addr_be};
    struct location *location = directory.lookup(&name);
    return location && !is_dead(location);
}

/* Choose a backend that is there, 0 if none was found.  Random picks come first, which suffice
 * while most are there; then backends in a row. */
static __always_inline u32 choose(const struct address *name, const struct service *service)
{
    u32 start = bpf_get_prandom_u32(), count = service->count;
    struct backend_key key = {.vni = name->vni, .service_be = name->addr_be,
                              .generation = service->generation};
    if (!count)
        return 0;
    for (u32 i = 0; i < CHOICE_ATTEMPTS; i++) {
        key.index = (i < CHOICE_ATTEMPTS / 4 ? bpf_get_prandom_u32() : start + i) % count;
        u32 *backend = backends.lookup(&key);
        if (backend && is_there(name->vni, *backend))
            return *backend;
    }
    return 0;
}

static __always_inline int refuse_service(void)
{
    count(REASON_service_empty);
    set_retval(-ECONNREFUSED_);
    return DENY;
}

/* The backend of an earlier datagram to this vip; 0 if there is none or the list has changed. */
static __always_inline u32 chosen_before(struct bpf_sock *sk, u32 service_be, u32 generation)
{
    struct choices *choices = chosen.sk_storage_get(sk, 0, 0);
    if (!choices)
        return 0;
    for (u32 i = 0; i < SLIM_CHOICES; i++) {
        struct choice *slot = &choices->slots[i];
        if (slot->service_be == service_be && slot->generation == generation) {
            slot->used = ++choices->uses;
            return slot->backend_be;
        }
    }
    return 0;
}

/* Store the choice in this vip's slot, else in the least recently used one. */
static __always_inline void remember(struct bpf_sock *sk, u32 service_be, u32 backend_be,
                                     u32 generation)
{
    struct choices none = {};
    struct choices *choices = chosen.sk_storage_get(sk, &none, BPF_SK_STORAGE_GET_F_CREATE);
    u32 oldest = 0xffffffff, taken = 0;
    if (!choices)
        return;
    for (u32 i = 0; i < SLIM_CHOICES; i++) {
        u32 used = choices->slots[i].service_be == service_be ? 0 : choices->slots[i].used;
        if (used < oldest) {
            oldest = used;
            taken = i;
        }
    }
    taken &= SLIM_CHOICES - 1; /* for the verifier */
    choices->slots[taken].service_be = service_be;
    choices->slots[taken].backend_be = backend_be;
    choices->slots[taken].generation = generation;
    choices->slots[taken].used = ++choices->uses;
}

/* The address that programs see for this peer: the vip, if it is a task; of several vips, the one
 * used last. */
static __always_inline u32 shown(struct bpf_sock *sk, u32 peer_be)
{
    struct choices *choices = sk ? chosen.sk_storage_get(sk, 0, 0) : 0;
    u32 name_be = peer_be, latest = 0;
    if (!choices)
        return peer_be;
    for (u32 i = 0; i < SLIM_CHOICES; i++) {
        if (choices->slots[i].backend_be == peer_be && choices->slots[i].used > latest) {
            latest = choices->slots[i].used;
            name_be = choices->slots[i].service_be;
        }
    }
    return name_be;
}

/* A datagram on an unconnected socket: sendto(), sendmsg().  IPv4-mapped destinations of IPv6
 * sockets come here, too. */
int sendmsg4(struct bpf_sock_addr *ctx)
{
    struct attachment own = {};
    u64 cookie = bpf_get_netns_cookie(ctx);
    struct sandbox *sandbox = sandboxes.lookup(&cookie);
    struct bpf_sock *sk = ctx->sk;
    if (!sandbox || !sk || !attachment_to(sandbox, ctx->user_ip4, &own))
        return ALLOW;
    struct address name = {.vni = own.vni, .addr_be = ctx->user_ip4};
    struct service *service = services.lookup(&name);
    if (!service)
        return ALLOW;
    u32 generation = service->generation;
    u32 backend_be = chosen_before(sk, name.addr_be, generation);
    if (!backend_be || !is_there(name.vni, backend_be)) {
        backend_be = choose(&name, service);
        if (!backend_be)
            return refuse_service();
        remember(sk, name.addr_be, backend_be, generation);
        count(REASON_service_chosen);
    }
    ctx->user_ip4 = backend_be;
    return ALLOW;
}

int recvmsg4(struct bpf_sock_addr *ctx)
{
    ctx->user_ip4 = shown(ctx->sk, ctx->user_ip4);
    return ALLOW;
}

int recvmsg6(struct bpf_sock_addr *ctx)
{
    if (is_mapped(ctx))
        ctx->user_ip6[3] = shown(ctx->sk, ctx->user_ip6[3]);
    return ALLOW;
}

/* Answer a ping of a vip, which answers as long as it has a task.  The reply goes back to the
 * sender and cannot reach anybody else. */
static __always_inline int answer_ping(struct __sk_buff *skb)
{
    struct {
        struct iphdr ip;
        struct icmphdr icmp;
    } ping;
    const u32 ip_at = sizeof(struct ethhdr), icmp_at = ip_at + sizeof(struct iphdr);
    const u32 addresses_at = icmp_at - 2 * sizeof(u32), checksum_at = icmp_at + 2;
    if (bpf_skb_load_bytes(skb, ip_at, &ping, sizeof(ping)) || ping.ip.ihl != 5 ||
        ping.ip.protocol != IPPROTO_ICMP || ping.ip.frag_off & bpf_htons(IP_FRAGMENT_MASK) ||
        ping.icmp.type != ICMP_ECHO) {
        count(REASON_unknown_destination);
        return TC_ACT_SHOT;
    }
    u8 sender[6], reply = ICMP_ECHOREPLY;
    u32 turned[2] = {ping.ip.daddr, ping.ip.saddr}; /* the checksum stays the same */
    bpf_skb_load_bytes(skb, sizeof(sender), sender, sizeof(sender));
    bpf_skb_store_bytes(skb, 0, sender, sizeof(sender), 0);
    bpf_skb_store_bytes(skb, addresses_at, turned, sizeof(turned), 0);
    bpf_l4_csum_replace(skb, checksum_at, bpf_htons(ICMP_ECHO << 8),
                        bpf_htons(ICMP_ECHOREPLY << 8), sizeof(u16));
    bpf_skb_store_bytes(skb, icmp_at, &reply, sizeof(reply), 0);
    count(REASON_service_answered);
    bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
    return bpf_redirect_peer(skb->ifindex, 0);
}
