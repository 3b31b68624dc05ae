/* Limits each sandbox's share of the flow map, so that no container can take it from the others.
 *
 * A sandbox may have as many flows as are free.  One that takes all it can gets half of the map,
 * two get a third each, and n leave 1/(n + 1) free: there is always room for one that has few.
 * Counted when connections open and close, never per packet.
 */
#define SHARE_OF_ALL 0ULL

static __always_inline s64 flows_of(u64 sandbox)
{
    s64 *share = shares.lookup(&sandbox);
    return share ? *share : 0;
}

static __always_inline int may_open(u64 sandbox)
{
    return flows_of(sandbox) < SLIM_FLOWS - flows_of(SHARE_OF_ALL);
}

static __always_inline void add_share(u64 sandbox, s64 change)
{
    s64 *share = shares.lookup(&sandbox);
    if (share)
        __sync_fetch_and_add(share, change);
    else if (shares.insert(&sandbox, &change) && (share = shares.lookup(&sandbox)))
        __sync_fetch_and_add(share, change); /* another CPU was the first */
}

static __always_inline void count_flows(u64 sandbox, s64 change)
{
    add_share(sandbox, change);
    add_share(SHARE_OF_ALL, change);
}

static __always_inline int add_flow(struct flow_key *key, struct flow *flow)
{
    if (flows.insert(key, flow))
        return 0;
    count_flows(flow->sandbox, 1);
    return 1;
}

static __always_inline int remove_flow(struct flow_key *key, u64 sandbox)
{
    if (flows.delete(key))
        return 0; /* somebody else has removed and counted it */
    count_flows(sandbox, -1);
    return 1;
}
