/* What is known only where the programs run: the host's address, interfaces, ports.
 *
 * The compiler gets a number that it cannot know anything about, in an instruction of its own;
 * driver/datapath/compiled.py puts the value there when the programs are loaded, and gives each name
 * its number (CONSTANT_...). So one compilation serves every host, and the verifier and the
 * kernel's compiler see a constant. All are 64 bits wide: 32 bits would have to be cut out anew.
 */
#ifndef SLIM_CONSTANTS_H
#define SLIM_CONSTANTS_H

#include <linux/types.h>

/* UNDERLAY_BE: U. UNDERLAY_IFINDEX, VXLAN_IFINDEX. HOST_NETNS: cookie of the host's own namespace.
 * PORT_FIRST, PORT_LAST: endpoint ports, both inclusive. MARK: of sockets that are bound to a port
 * only. MPTCP: 1 if this kernel has it. CLIENT_...: ports for clients, driver/client_ports.py. */
#define CONSTANT(name)                                                                       \
    ({                                                                                       \
        __u64 value_;                                                                        \
        asm("%0 = %1 ll" : "=r"(value_) : "i"(CONSTANT_TAG << 32 | CONSTANT_##name));        \
        value_;                                                                              \
    })

#endif
