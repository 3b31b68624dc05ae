/* Every map, with its writer, readers, lifetime, and what "full" and "absent" mean.
 *
 * All are pinned under SLIM_PINS, a folder that names the layout's version, so that they
 * outlive the driver's process.  All but counters and the connections' own state can be
 * rebuilt from etcd.  First file of the unit that driver/datapath/load.py puts together: BCC
 * rewrites map access in the main file only, so headers have none.
 */
#include "slim.h"
#include "reasons.h"
#include "packet.h"
#include "option.h"
#include <linux/pkt_cls.h>

#define NO_PREALLOC 1 /* BPF_F_NO_PREALLOC: memory as entries come */
#define PIN(name) SLIM_PINS "/" name

/* Who may use the host path, by network namespace cookie.
 * Writer: driver, once the namespace is finished, and last. Readers: connect hooks.
 * Lifetime: sandbox. Full: driver reports it; sandbox stays on the overlay. Absent: same. */
BPF_TABLE_PINNED("hash", u64, struct sandbox, sandboxes, 8192, PIN("sandboxes"), NO_PREALLOC);

/* The host's ends of veths. Writer: driver at Join, again when the sandbox is finished.
 * Reader: from_container. Lifetime: veth. Absent: everything from the interface is dropped. */
BPF_TABLE_PINNED("hash", u32, struct veth, veths, 16384, PIN("veths"), NO_PREALLOC);

/* Endpoints of this host as destinations. Writer: driver at Join. Readers: overlay programs.
 * Lifetime: endpoint. Absent: the packet is dropped and counted. */
BPF_TABLE_PINNED("hash", struct address, struct delivery, endpoints, 16384, PIN("endpoints"),
                 NO_PREALLOC);
BPF_TABLE_PINNED("hash", struct address6, struct delivery, endpoints6, 16384, PIN("endpoints6"),
                 NO_PREALLOC);

/* Endpoint ports of this host, by port (host order). Writer: driver, with the sandbox;
 * to_container sets `assigned`, sockops counts `listens`.
 * Readers: from_wire, from_container. sandbox 0: nobody's; wire traffic is the host's own. */
BPF_TABLE_PINNED("array", u32, struct port, ports, 65536, PIN("ports"));

/* All endpoints of the networks that this host serves, on any host. Writer: driver, from
 * etcd. Readers: connect hooks, overlay programs. Full: driver reports it. Absent: connect
 * falls back to the overlay, the overlay drops ("unknown destination"). */
BPF_TABLE_PINNED("hash", struct address, struct location, directory, 262144, PIN("directory"),
                 NO_PREALLOC);
BPF_TABLE_PINNED("hash", struct address6, struct location, directory6, 262144,
                 PIN("directory6"), NO_PREALLOC);

/* Hosts (U) that are known to be gone, each until a moment (CLOCK_MONOTONIC, ns) that the driver
 * puts off while it sees no sign of life. Writer: driver. Readers: connect hooks.
 * Full, absent or past: connections are tried as usual. */
BPF_TABLE_PINNED("hash", u32, u64, dead_hosts, 4096, PIN("dead_hosts"), NO_PREALLOC);

/* The directory the other way round. Writer: driver, before the directory's entry.
 * Reader: admit(). Absent: a SYN that names it as caller is dropped. */
BPF_TABLE_PINNED("hash", struct wire_name, struct address, reverse, 262144, PIN("reverse"),
                 NO_PREALLOC);

/* Receivers of a network's broadcasts, by number. Writer: driver. Reader: flood(). */
BPF_TABLE_PINNED("hash", struct flood_key, struct flood_target, floods, 65536, PIN("floods"),
                 NO_PREALLOC);

/* Connections on the host path. Writers: connect hooks (claim), sockops (open, accept,
 * close); driver sweeps what a removed endpoint or an expired TIME_WAIT leaves.
 * Readers: from_container (may this sandbox send so?), from_wire (whose is it?).
 * Never evicts. Full: connect falls back to the overlay; an accepted connection is counted as
 * flow_table_full and lives on its pending entry. Absent: not a container's connection. */
BPF_TABLE_PINNED("hash", struct flow_key, struct flow, flows, SLIM_FLOWS, PIN("flows"),
                 NO_PREALLOC);

/* Ways to other hosts, by U: looked up once a second and host, however many connections there are.
 * Writer and reader: from_container. Evicted or absent: looked up again. */
BPF_TABLE_PINNED("lru_hash", u32, struct next_hop, next_hops, 4096, PIN("next_hops"));

/* Flows that somebody is removing because they are stale or were claimed in vain, each since when
 * (CLOCK_MONOTONIC, ns): one at a time. Writers: connect hooks, the driver's sweeper, which also
 * removes what a driver that was killed has left. Lifetime: microseconds. Full or present: the
 * flow is left alone; a connect() tries another port. */
BPF_TABLE_PINNED("hash", struct flow_key, u64, takeovers, 1024, PIN("takeovers"), NO_PREALLOC);

/* How many flows each sandbox has, by cookie; all together at 0, which is no cookie.
 * Writers: whoever adds or removes a flow (shares.c); the driver counts anew when it sweeps.
 * Lifetime: sandbox, until swept. Absent: none yet. Full: that sandbox has no limit. */
BPF_TABLE_PINNED("hash", u64, s64, shares, 16384, PIN("shares"), NO_PREALLOC);

/* SYNs let in, until established. Writer: admit(). Readers: to_container, listener_lookup,
 * from_container (SYN-ACK, RST). Evicted least recently used first: the caller retransmits. */
BPF_TABLE_PINNED("lru_hash", struct flow_key, struct pending, pending, 65536, PIN("pending"));

/* Listening sockets by virtual address: what the last look found. Writers: to_container, at a
 * SYN; sockops removes what a new listener puts in doubt, the kernel a socket that closes.
 * Readers: admit(), listener_lookup. Absent: looked for. Full or refused: listener_assigned. */
BPF_TABLE_PINNED("sockhash", struct listener_key, u64, listeners, 65536, PIN("listeners"));

/* What the program on top of a socket must see. Writers: connect hooks, sockops.
 * Readers: sockops, name hooks. Lifetime: the socket's. Absent: not on the host path. */
BPF_TABLE_PINNED("sk_storage", int, struct connection, connections, 0, PIN("connections"),
                 NO_PREALLOC);

/* Service addresses of the networks that this host serves. Writer: driver, from etcd, after
 * the list in `backends`. Readers: connect hooks, send hook, overlay (ping). Full: driver
 * reports it; the address does not answer. Absent: an endpoint's address, or nobody's. */
BPF_TABLE_PINNED("hash", struct address, struct service, services, 16384, PIN("services"),
                 NO_PREALLOC);

/* Addresses of each service's tasks. Writer: driver, a new generation before `services` names
 * it; the old one goes after. Reader: choose(). Full: as above. Absent: passed over. */
BPF_TABLE_PINNED("hash", struct backend_key, u32, backends, 131072, PIN("backends"),
                 NO_PREALLOC);

/* Which backend stands for which service on a socket that has no storage in `connections`:
 * datagrams, and TCP on the overlay path. Writers: connect hooks, send hook. Readers: name
 * and receive hooks. Lifetime: the socket's. Full: names show the backend. Absent: the same. */
BPF_TABLE_PINNED("sk_storage", int, struct choices, chosen, 0, PIN("chosen"), NO_PREALLOC);

/* One counter per reason, per CPU. Writer: all programs. Reader: driver. */
BPF_TABLE_PINNED("percpu_array", u32, u64, counters, 64, PIN("counters"));

static __always_inline void count(enum reason reason)
{
    u32 key = reason;
    u64 *counter = counters.lookup(&key);
    if (counter)
        *counter += 1;
}
