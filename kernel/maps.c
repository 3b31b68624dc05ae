/* Declares every map, with its writer, readers, lifetime, and what "full" and "absent" mean.
 *
 * All are pinned by name when they are loaded, in a folder with the layout's number in its path, so
 * that they outlive the driver's process.  All except counters and the connections' own state can
 * be rebuilt from etcd.  This is the first file of the unit that driver/datapath/code/programs.py puts
 * together: BCC rewrites map access in the main file only, so headers have none.
 */
#include "slim.h"
#include "reasons.h"
#include "packet.h"
#include "option.h"
#include "constants.h"
#include <linux/pkt_cls.h>

#define ATTEMPT_NS 2900000000ULL            /* when ARP gives up, less clock differences */
#define ATTEMPT_FORGOTTEN_NS 10000000000ULL /* after this silence, counting starts again */
#define TOLD_AGAIN_NS 250000000ULL          /* at most four errors a second, for each sender and address */

#define PAGE_SIZE 4096 /* for BCC's macro alone; a multiple of the kernel's pages must come out */

#define NO_PREALLOC 1 /* BPF_F_NO_PREALLOC: allocates memory per entry */

/* Who may use the host path, by network namespace cookie.
 * Writer: driver, once the namespace is finished, and last. Readers: connect hooks.
 * Lifetime: sandbox. Full: driver reports it; sandbox stays on the overlay. Absent: same. */
BPF_F_TABLE("hash", u64, struct sandbox, sandboxes, 8192, NO_PREALLOC);

/* The same for connections with IPv6 addresses, for sandboxes that have an entry above. Writer:
 * driver, with the entry above. Readers: connect6, admit(), to_container, sockops. Lifetime:
 * sandbox. Full: driver reports it. Absent: its IPv6 connections take the overlay, both ways. */
BPF_F_TABLE("hash", u64, struct sandbox6, sandboxes6, 8192, NO_PREALLOC);

/* The host's ends of veths. Writer: driver at Join, again when the sandbox is finished.
 * Reader: from_container. Lifetime: veth. Absent: everything from the interface is dropped. */
BPF_F_TABLE("hash", u32, struct veth, veths, 16384, NO_PREALLOC);

/* Endpoints of this host as destinations. Writer: driver at Join. Readers: overlay programs.
 * Lifetime: endpoint. Absent: the packet is dropped and counted. */
BPF_F_TABLE("hash", struct address, struct delivery, endpoints, 16384, NO_PREALLOC);
BPF_F_TABLE("hash", struct address6, struct delivery, endpoints6, 16384, NO_PREALLOC);

/* Endpoint ports of this host, by port (host order). Writer: driver, with the sandbox;
 * to_container sets `assigned`, sockops counts `listens`.
 * Readers: from_wire, from_container. sandbox 0: no owner; traffic to it is the host's own. */
BPF_TABLE("array", u32, struct port, ports, 65536);

/* All endpoints of the networks that this host serves, on any host. Writer: driver, from
 * etcd. Readers: connect hooks, overlay programs. Full: driver reports it. Absent: connect
 * falls back to the overlay, the overlay drops ("unknown destination"). */
BPF_F_TABLE("hash", struct address, struct location, directory, 262144, NO_PREALLOC);
BPF_F_TABLE("hash", struct address6, struct location, directory6, 262144, NO_PREALLOC);

/* IPv6 addresses of hosts, by the numbers that stand for them as U, and back. Writer: driver, before
 * any entry that has the number. Readers: set_tunnel(), from_overlay. Lifetime: until the host
 * boots, or `slim cleanup`: a number never means another address. Full: driver reports it, and the
 * host's endpoints are not entered. Absent: the packet is dropped and counted. */
BPF_F_TABLE("hash", u32, struct ipv6, hosts6, 65536, NO_PREALLOC);
BPF_F_TABLE("hash", struct ipv6, u32, numbers6, 65536, NO_PREALLOC);

/* Hosts (U) that are known to be gone, each with an expiry (CLOCK_MONOTONIC, ns) that the driver
 * extends while it sees no sign of life. Writer: driver. Readers: connect hooks.
 * Full, absent or expired: connections are tried as usual. */
BPF_F_TABLE("hash", u32, u64, dead_hosts, 4096, NO_PREALLOC);

/* The directory reversed: (U, P) to address. Writer: driver, before the directory's entry.
 * Reader: admit(). Absent: a SYN that names it as caller is dropped. */
BPF_F_TABLE("hash", struct wire_name, struct address, reverse, 262144, NO_PREALLOC);

/* IPv6 addresses of endpoints that have both, by their IPv4 addresses, which `reverse` gives.
 * Writer: driver, before the directory's entry. Readers: admit(), sockops. Full: driver reports
 * it. Absent: a SYN that means IPv6 and names it as caller is dropped; a SYN admitted before is
 * forgotten. */
BPF_F_TABLE("hash", struct address, struct ipv6, addresses6, 262144, NO_PREALLOC);

/* Receivers of a network's broadcasts, by index. Writer: driver. Reader: flood(). */
BPF_F_TABLE("hash", struct flood_key, struct flood_target, floods, 65536, NO_PREALLOC);

/* Connections on the host path. Writers: connect hooks (claim), sockops (open, accept,
 * close); driver sweeps what a removed endpoint or an expired TIME_WAIT leaves.
 * Readers: from_container (may this sandbox send it?), from_wire (whose is it?).
 * Never evicts. Full: connect falls back to the overlay; an accepted connection is counted as
 * flow_table_full and lives on its pending entry. Absent: not a container's connection. */
BPF_F_TABLE("hash", struct flow_key, struct flow, flows, SLIM_FLOWS, NO_PREALLOC);

/* Next hops to other hosts, by U: one look-up per second and host, however many connections it has.
 * Writers and readers: from_container, from_wire (answers to probes). Evicted or absent: looked up
 * again. */
BPF_TABLE("lru_hash", u32, struct next_hop, next_hops, 4096);

/* Until when flows to and from other hosts take the VXLAN device, because one of their packets was
 * of a stream (CLOCK_MONOTONIC, ns). By a hash of the inner addresses and ports: flows share slots.
 * Writers and readers: from_container, from_wire. Past: packets are spared the device. */
BPF_TABLE("array", u32, u64, streams, SLIM_STREAMS);

/* Flows that somebody is removing because they are stale or were claimed in vain, each with its
 * start time (CLOCK_MONOTONIC, ns). A flow has one remover at a time. Writers: connect
 * hooks, the driver's sweeper, which also removes what a killed driver has left. Lifetime:
 * microseconds. Full or present: the flow is left alone; a connect() tries another port. */
BPF_F_TABLE("hash", struct flow_key, u64, takeovers, 1024, NO_PREALLOC);

/* How many flows each sandbox has, by cookie; the total at 0, which is no cookie.
 * Writers: whoever adds or removes a flow (shares.c); the driver recounts when it sweeps.
 * Lifetime: sandbox, until swept. Absent: none yet. Full: that sandbox has no limit. */
BPF_F_TABLE("hash", u64, s64, shares, 16384, NO_PREALLOC);

/* Admitted SYNs, until established. Writer: admit(). Readers: to_container, listener_lookup,
 * from_container (SYN-ACK, RST). Evicted least recently used first: the caller retransmits. */
BPF_TABLE("lru_hash", struct flow_key, struct pending, pending, 65536);

/* Listening sockets by virtual address, from the last look-up. Writers: to_container, at a SYN;
 * sockops removes entries that a new listener may invalidate, the kernel a socket that closes.
 * Readers: admit(), listener_lookup. Absent: looked up. Full or refused: listener_assigned. */
BPF_TABLE("sockhash", struct listener_key, u64, listeners, 65536);

/* Sandboxes whose new connections stay off the host path, and why (enum reason, and
 * WITHHELD_LOOKING). Writers: driver; setsockopt and sockops, where there is no entry yet. Readers:
 * connect hooks, admit(). An older driver's programs know no WITHHELD_LOOKING: they count nothing.
 * Lifetime: sandbox. Full: driver tries again and reports it; a note is kept. Absent: on the
 * host path. */
BPF_F_TABLE("hash", u64, u32, withheld, 8192, NO_PREALLOC);

/* What programs of a network namespace did that the driver must know. Writers: setsockopt, sockops.
 * Reader: driver, each second; it removes what it has settled and, for namespaces that are no
 * sandbox, old notes. Full: such a sandbox stays on the host path. Absent: nothing to know. */
BPF_F_TABLE("hash", u64, struct note, notes, 16384, NO_PREALLOC);

/* Hosts (U) to which SYNs with our option do not get through, as the driver found by probing, and
 * since when (CLOCK_MONOTONIC, ns). 0: perhaps nothing gets through, and for a short time; SYNs
 * that are under way are then retransmitted as ever.
 * Writer: driver. Readers: connect hooks, sockops. Lifetime: until a probe gets through.
 * Full, absent: connections are tried on the host path. */
BPF_F_TABLE("hash", u32, u64, blocked_hosts, 4096, NO_PREALLOC);

/* Endpoints (U, P) of other hosts to which a SYN was not answered in time, or refused, and when
 * that was last (CLOCK_MONOTONIC, ns). Writer: sockops. Reader: driver, four times a second; it
 * removes what it has read and probes them. Evicted: not probed now. */
BPF_TABLE("lru_hash", struct wire_name, u64, unanswered, 4096);

/* The driver's probes under way, by the flow that each imitates. Writers: driver, from_wire (the
 * answer). Readers: from_wire, for RSTs that are no container's; driver, which removes it.
 * Lifetime: a second. Evicted: that probe counts as not answered. */
BPF_TABLE("lru_hash", struct flow_key, struct probe, probes, 4096);

/* Addresses that nobody has, and who sends to them. Writer and reader: is_in_vain(). Evicted: the
 * sender is told 3 s later. */
BPF_TABLE("lru_hash", struct attempt_key, struct attempt, attempts, 4096);

/* The names that a socket's program must see. Writers: connect hooks, sockops.
 * Readers: sockops, name hooks. Lifetime: the socket's. Absent: not on the host path. */
BPF_F_TABLE("sk_storage", int, struct connection, connections, 0, NO_PREALLOC);

/* The IPv6 names that a socket's program must see, beside `connections`. Writers: connect6,
 * sockops. Readers: sockops, name hooks. Lifetime: the socket's. Absent: its names are IPv4. */
BPF_F_TABLE("sk_storage", int, struct connection6, connections6, 0, NO_PREALLOC);

/* Vips of the networks that this host serves. Writer: driver, from etcd, after the list in
 * `backends`. Readers: connect hooks, send hook, overlay (ping). Full: driver reports it; the vip
 * does not answer. Absent: an endpoint's address, or nobody's. */
BPF_F_TABLE("hash", struct address, struct service, services, 16384, NO_PREALLOC);

/* Addresses of the tasks behind each vip. Writer: driver; it writes a new generation before
 * `services` names it, and removes the old one a second later. Reader: choose(). Full: as above.
 * Absent: passed over. */
BPF_F_TABLE("hash", struct backend_key, u32, backends, 131072, NO_PREALLOC);

/* Which backend stands for which vip on a socket that has no storage in `connections`:
 * datagrams, and TCP on the overlay path. Writers: connect hooks, send hook. Readers: name
 * and receive hooks. Lifetime: the socket's. Full: names show the backend. Absent: the same. */
BPF_F_TABLE("sk_storage", int, struct choices, chosen, 0, NO_PREALLOC);

/* Until when containers' DNS queries go to slim's name server (CLOCK_MONOTONIC, ns). Writer: the
 * name server, several times a second. Reader: name_query. Past: they go to Docker's. */
BPF_TABLE("array", u32, u64, names_until, 1);

/* What becomes of connections, and what was refused (struct event). Writers: connect hooks, sockops,
 * from_container, from_wire, to_container; of all but refusals only while `watch` says so. Reader:
 * driver. Full: the event is lost, and counted in `watch`. Left by a driver: read by the next one. */
BPF_RINGBUF_OUTPUT(events, SLIM_EVENT_PAGES);

/* Until when somebody follows connections (CLOCK_MONOTONIC, ns), whose, and how many events were lost:
 * WATCH_... in slim.h. Writers: driver, as long as it is asked; the lost ones: whoever loses one.
 * Readers: all that write `events`. Past: nobody is told but of refusals. */
BPF_TABLE("array", u32, u64, watch, 3);

/* How often each sandbox was refused something, by reason, so that no container makes the driver
 * busy. Writers and readers: all that refuse. Evicted: a few more are told. */
BPF_TABLE("lru_hash", struct refusal_key, struct refusals, refused, 4096);

/* What was told of a connection that is not on the host path, for its end. Writers: connect hooks,
 * sockops, while `watch` says so. Reader: sockops. Lifetime: the socket's. Absent: its end is not
 * told. */
BPF_F_TABLE("sk_storage", int, struct event, watched, 0, NO_PREALLOC);

/* One counter per reason, per CPU. Writer: all programs. Reader: driver. */
BPF_TABLE("percpu_array", u32, u64, counters, 64);

static __always_inline void count(enum reason reason)
{
    u32 key = reason;
    u64 *counter = counters.lookup(&key);
    if (counter)
        *counter += 1;
}
