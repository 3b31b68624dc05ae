/* Constants that are known only on the host that runs the programs: its address, interfaces, ports.
 *
 * The compiler sees an opaque number, in an instruction of its own; driver/datapath/code/compiled.py
 * gives each name its number (CONSTANT_...), and replaces it by the value when the programs are
 * loaded. So one compilation serves every host, and the verifier and the kernel's compiler see a
 * constant. All are 64 bits wide: 32 bits would have to be cut out each time.
 */
#ifndef SLIM_CONSTANTS_H
#define SLIM_CONSTANTS_H

#include <linux/types.h>

/* UNDERLAY_BE: U, or its number (slim.h) if it is IPv6: IPV6_UNDERLAY is 1 then, and UNDERLAY6_HIGH
 * and UNDERLAY6_LOW are its halves as they lie in memory. UNDERLAY_IFINDEX, VXLAN_IFINDEX.
 * HOST_NETNS: cookie of the host's own namespace. PORT_FIRST, PORT_LAST: endpoint ports, both
 * inclusive. MARK: for sockets that are bound to a port only. MPTCP: 1 if this kernel has it.
 * ASSIGNS_GROUPS: 1 if bpf_sk_assign() takes sockets with SO_REUSEPORT (Linux 6.6). CLIENT_...:
 * ports for clients, driver/client_ports.py. */
#define CONSTANT(name)                                                                       \
    ({                                                                                       \
        __u64 value_;                                                                        \
        asm("%0 = %1 ll" : "=r"(value_) : "i"(CONSTANT_TAG << 32 | CONSTANT_##name));        \
        value_;                                                                              \
    })

#endif
