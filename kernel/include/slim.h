/* Keys and values of every map, shared between all programs and, through BCC's generated ctypes,
 * the user side.  Structs and constants only; no map access, no helper calls.
 *
 * Byte order: `_be` fields are network order; all others are host order.  Structs have no hidden
 * padding, since the kernel compares keys byte by byte.
 */
#ifndef SLIM_H
#define SLIM_H

#include <linux/types.h>

#define SLIM_ATTACHMENTS 16   /* slim networks of one container that can use the host path */
#define SLIM_FLOOD_TARGETS 512 /* receivers of one broadcast: other hosts + local endpoints */
#define SLIM_CHOICES 8 /* vips that one socket sends datagrams to at a time */
#define SLIM_FLOWS 262144     /* connections of a host, those in TIME_WAIT included */
#define SLIM_MOVES 256        /* flows that move_flows changes per run */
#define SLIM_EVENT_PAGES 128  /* of 4 KiB, for events that nobody has read: some 4,600 */
#define SLIM_STREAMS 4096     /* groups of flows on the overlay path; a power of 2 */
#define SLIM_NAMES_PORT 54 /* of slim's name server at 127.0.0.11; privileged, so that nobody gets it by chance */
#define SLIM_NAMES_MARK 0x511e0000 /* mark of what it asks Docker's name server */
#define SLIM_SEEK 0x5eec      /* mark of a packet for which to_container must find a listener */

/* One endpoint's virtual IPv4 address in its network. */
struct address {
    __u32 vni;
    __u32 addr_be;
};

struct address6 {
    __u32 vni;
    __u8 addr[16];
};

/* An IPv6 address, or a mask for one, in network order; two words for comparisons. */
struct ipv6 {
    __u64 words[2];
};

/* Where an endpoint is: its host, and the port that names it there.  In all maps U, as
 * `underlay_be`, is a host's IPv4 address, or the number that stands for its IPv6 address
 * (`hosts6`): 0.0.0.1 and so on, which no host has. */
struct location {
    __u32 underlay_be;
    __u16 port_be; /* 0: reachable over the overlay only; in `directory6`: by this address */
    __u8 mac[6];
};

/* (U, P): an endpoint's name on the wire. */
struct wire_name {
    __u32 underlay_be;
    __u16 port_be;
    __u16 zero;
};

/* A local endpoint as a destination of the overlay path. */
struct delivery {
    __u32 ifindex; /* host's end of its veth */
    __u8 mac[6];   /* of the container's end */
    __u16 zero;
};

/* A local endpoint as a source: what packets from its veth may claim to be. */
struct veth {
    __u64 sandbox; /* netns cookie; 0 until the sandbox is finished: no host path yet */
    __u32 vni;
    __u32 addr_be; /* 0: no IPv4 address */
    __u32 broadcast_be; /* of its subnet */
    __u32 zero;
    __u8 addr6[16]; /* all zero: no IPv6 address */
};

/* Owner of an endpoint port of this host. */
struct port {
    __u64 sandbox; /* 0: nobody */
    __u32 vni;
    __u32 addr_be;
    __u32 ifindex; /* host's end of the veth that carries the sandbox's host path */
    __u16 assigned; /* 1: has had a listener that no SOCKHASH takes: ACKs to it must be checked */
    __u16 listens;  /* grows with each listen() of the sandbox: earlier look-ups may be outdated */
};

struct attachment {
    __u32 vni;
    __u32 subnet_be;
    __u32 mask_be;
    __u32 addr_be;
    __u16 port_be; /* own P, told to the peer in the SYN */
    __u16 zero;
};

struct sandbox {
    __u32 ifindex; /* host's end of the veth that carries the host path */
    __u32 count;   /* of attachments in use */
    struct attachment attachments[SLIM_ATTACHMENTS];
};

/* The same for IPv6.  An endpoint that is not among these takes and makes no IPv6 connections on
 * the host path. */
struct attachment6 {
    struct ipv6 addr;
    struct ipv6 mask; /* of its subnet */
    __u32 vni;
    __u16 port_be; /* as in struct attachment; 0 over an IPv6 underlay only */
    __u16 zero;
};

struct sandbox6 {
    __u32 count; /* of attachments in use */
    __u32 zero;
    struct attachment6 attachments[SLIM_ATTACHMENTS];
};

/* A TCP connection of this host's U, without U itself. */
struct flow_key {
    __u32 peer_be;      /* peer's U */
    __u16 peer_port_be;
    __u16 local_port_be;
};

enum flow_state {
    FLOW_CLAIMED = 1, /* connect() chose the tuple; no SYN yet */
    FLOW_OPEN = 2,
    FLOW_TIME_WAIT = 3, /* closed by us first, or reset; `since_ns` says when */
};

/* The next hop to another host, as the last route look-up found it. */
struct next_hop {
    __u64 until_ns; /* CLOCK_MONOTONIC; after that the route is looked up again */
    __u32 addr_be;  /* 0: the kernel has to find the next hop for each packet */
    __u32 mtu;      /* of the route; 0, 1: not known */
};

struct flow {
    __u64 sandbox;
    __u64 socket; /* cookie of the owning socket; guards against late releases */
    __u64 since_ns; /* CLOCK_MONOTONIC at the last change of state */
    __u32 ifindex; /* host's end of the veth that takes its packets */
    __u16 port_be; /* P of the endpoint that it belongs to: the flow ends with it */
    __u8 state;
    __u8 no_timestamps; /* 1: the kernel keeps its tuple until TIME_WAIT has run out */
    __u64 next_hop_until_ns; /* copy of its host's next_hop: no look-up per packet */
    __u32 next_hop_be;
    __u32 zero2;
};

/* A SYN that was admitted and whose connection is not established yet. */
struct pending {
    __u64 sandbox;
    __u32 vni;
    __u32 addr_be;      /* the endpoint's virtual IPv4 address */
    __u32 peer_addr_be; /* the caller's virtual IPv4 address */
    __u16 port_be;      /* virtual destination port */
    __u16 assigned;     /* 1: its listener is in no SOCKHASH */
    __u32 ifindex;
    __u32 ipv6;         /* 1: the endpoint's IPv6 address was called, from the caller's */
};

/* What a sandbox's programs did that keeps it off the host path: bits of `what`. */
#define NOTE_KEYS 1           /* a key of TCP-MD5 or TCP-AO was set */
#define NOTE_RULES 2          /* iptables-legacy has changed a table: the driver looks at it */
#define NOTE_BOUND_LISTENER 4 /* a listener is bound to a device, and there are several networks */
#define NOTE_IPV6_OPTIONS 8   /* an IPv6 option without a counterpart in IPv4 was set: keeps IPv6 off */
#define NOTE_LISTENER_GROUP 16 /* an MPTCP socket with SO_REUSEPORT, which the kernel cannot assign */

/* A value of `withheld`: a reason, and whether the driver is looking at tables that have changed and
 * says in a moment what becomes of it. */
#define WITHHELD_WHY 0xffff
#define WITHHELD_LOOKING 0x10000

struct note {
    __u64 since_ns; /* CLOCK_MONOTONIC */
    __u64 what;     /* 64 bits, for atomic access: several writers set bits at once */
};

/* A SYN that the driver sent to test whether such SYNs get through, and its answer. */
struct probe {
    __u32 ack_be;    /* the answer's: the SYN's sequence number + 1 */
    __u16 window_be; /* the answer's: OPTION_EXPERIMENT if slim has seen the option */
    __u16 answered;
};

/* Who sends to an address that nobody has.  By interface, as each container has its own ARP. */
struct attempt_key {
    __u32 vni;
    __u32 ifindex; /* host's end of the sender's veth */
    __u8 addr[16]; /* IPv4: in the last four bytes */
};

struct attempt {
    __u64 first_ns; /* CLOCK_MONOTONIC, like the others */
    __u64 last_ns;
    __u64 told_ns; /* when its sender was last told; 0: never */
};

#define LISTENS_IPV4 0
#define LISTENS_IPV6 1      /* for the endpoint's IPv6 address, to packets of IPv4 */
#define LISTENS_OVER_IPV6 2 /* the same, to packets of IPv6: also sockets with IPV6_V6ONLY */
struct listener_key {
    __u64 sandbox; /* an address may move to another sandbox while an old listener is open */
    __u32 vni;
    __u32 addr_be; /* also stands for the endpoint's IPv6 address */
    __u16 port_be;
    __u16 ipv6;    /* LISTENS_... */
    __u32 zero;
};

/* Socket storage: the addresses and ports that the program must see instead of the wire's. */
struct connection {
    __u32 local_addr_be; /* 0: the addresses are IPv6, in a storage of their own */
    __u32 peer_addr_be;
    __u16 local_port_be; /* 0: the socket's own port is the right one */
    __u16 peer_port_be;
    __u16 port_be; /* own P */
    __u16 marked;  /* 1: SO_MARK was set by us */
    struct flow_key flow;
    __u16 unanswered; /* SYNs that were not answered in time */
    __u16 others_callbacks; /* not 0: another program wants to write header options, too */
};

/* Socket storage beside `connection`. */
struct connection6 {
    struct ipv6 local;
    struct ipv6 peer;
};

/* A vip: a service's address, for which any of its tasks answers. */
struct service {
    __u32 generation; /* of its list in `backends`: a new list is complete before it counts */
    __u32 count;      /* of backends; 0: none at the moment */
};

struct backend_key {
    __u32 vni;
    __u32 service_be; /* the vip */
    __u32 generation;
    __u32 index; /* 0 .. count - 1 */
};

/* Socket storage: which backend was chosen for a vip, so that replies and names show the vip, and
 * a socket that sends datagrams stays with one backend. */
struct choice {
    __u32 service_be; /* 0: free */
    __u32 backend_be;
    __u32 generation; /* of the list that it was chosen from */
    __u32 used;       /* value of `uses` when it was last used */
};

struct choices {
    struct choice slots[SLIM_CHOICES];
    __u32 uses;
};

/* What becomes of a connection, for whoever follows (`slim flows`), and what was refused, for the
 * log.  Addresses are as programs see them; an IPv4 one is mapped (::ffff:a.b.c.d). */
enum event_kind {
    EVENT_CONNECT = 1, /* connect() has found its way */
    EVENT_ACCEPT = 2,  /* a connection that was called from elsewhere is established */
    EVENT_CLOSE = 3,
    EVENT_FAILED = 4,  /* a connect() that nobody has answered, or that was answered by a RST */
    EVENT_REFUSED = 5, /* by slim: a connect(), a SYN, a packet */
};

struct event {
    __u64 at_ns;    /* CLOCK_MONOTONIC */
    __u64 socket;   /* its cookie; 0: a packet's event */
    __u64 lasted_ns; /* of a connection that has ended; else 0 */
    __u64 bytes_in; /* as TCP counts: a SYN and a FIN have one, too */
    __u64 bytes_out;
    struct ipv6 local; /* the container's; all zero: not known */
    struct ipv6 peer;  /* a service's, if that was called */
    __u32 vni;         /* 0: not known */
    __u32 host_be;     /* U of the peer's host; 0: not known */
    __u32 task_be;     /* the service's task that was chosen; 0: no service was called */
    __u32 times;       /* of a refusal: since the last one that was told, this one included */
    __u32 before;      /* of one that has ended: the state it left (BPF_TCP_...) */
    __u16 local_port_be; /* 0: not known */
    __u16 peer_port_be;
    __u16 reason;      /* enum reason: the path, or why not the host path, or why it was refused */
    __u8 kind;         /* enum event_kind */
    __u8 inbound;      /* 1: the peer has called */
    __u32 zero;
};

/* Indices of `watch`. */
#define WATCH_UNTIL 0   /* CLOCK_MONOTONIC, ns: nobody follows after that */
#define WATCH_SANDBOX 1 /* netns cookie of the only one that is followed; 0: all */
#define WATCH_LOST 2    /* events for which there was no room, ever */

/* Refusals of one sandbox for one reason. */
struct refusal_key {
    __u64 sandbox; /* netns cookie; 0: not known */
    __u32 reason;
    __u32 zero;
};

struct refusals {
    __u64 since_ns; /* CLOCK_MONOTONIC: begin of the second that is counted in `told` */
    __u32 told;
    __u32 more;     /* that were not told since the last one */
};

struct flood_key {
    __u32 vni;
    __u32 index; /* 0, 1, …: the list ends at the first absent one */
};

struct flood_target {
    __u32 underlay_be; /* another host; or 0 and … */
    __u32 ifindex;     /* … a local endpoint's veth */
};

#endif
