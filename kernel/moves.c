/* Gives flows another interface when the one that carried them leaves.
 *
 * Attached nowhere: the driver runs it (BPF_PROG_TEST_RUN), with an order in place of a packet.
 * The driver itself could only write whole entries back and would undo changes since it read them:
 * a flow that has closed would be open again.  This program writes the one field in place.
 */
struct move_order { /* struct _Order in driver/datapath/tables/moves.py */
    u64 sandbox;
    u32 ifindex; /* host's end of the veth that carries its host path from now on */
    u32 count;   /* number of struct flow_key that follow, up to SLIM_MOVES */
};

int move_flows(struct __sk_buff *skb)
{
    struct move_order order;
    struct flow_key key;
    u32 at = sizeof(order);
    if (bpf_skb_load_bytes(skb, 0, &order, sizeof(order)))
        return 0;
    for (u32 i = 0; i < SLIM_MOVES && i < order.count; i++, at += sizeof(key)) {
        if (bpf_skb_load_bytes(skb, at, &key, sizeof(key)))
            return 0;
        struct flow *flow = flows.lookup(&key);
        if (flow && flow->sandbox == order.sandbox)
            flow->ifindex = order.ifindex;
    }
    return 0;
}
