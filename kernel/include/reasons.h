/* Why a packet or connection went the way it did: one counter each (per CPU, since the maps
 * were made).  The user side and docs/counters.md's table are checked against this list.
 *
 * R(name, kind, meaning); kinds: path = normal traffic, fallback = a connection that takes
 * the overlay path instead, drop = a packet thrown away, error = a table was full.
 */
#ifndef SLIM_REASONS_H
#define SLIM_REASONS_H

#define REASONS(R)                                                                            \
    R(connected, path, "connections made on the host path (client side)")                     \
    R(accepted, path, "connections accepted on the host path (server side)")                  \
    R(overlay_local, path, "overlay packets to an endpoint of the same host")                 \
    R(overlay_sent, path, "overlay packets sent to another host")                             \
    R(overlay_received, path, "overlay packets received from another host")                   \
    R(flooded, path, "broadcast or multicast packets replicated to the network")              \
    R(service_chosen, path, "connections and first datagrams to a service's address")         \
    R(service_answered, path, "pings of a service's address, answered in its name")           \
    R(unknown_peer, fallback, "destination is not in the directory")                          \
    R(overlay_only, fallback, "destination's host offers no host path for it")                \
    R(bound_address, fallback, "client socket is bound to an address or a device")            \
    R(mptcp_client, fallback, "client socket speaks MPTCP: name hooks cannot know it")         \
    R(ports_busy, fallback, "no free source port was found in the attempts allowed")          \
    R(flow_refused, fallback, "client's bound port is in use towards this destination")       \
    R(share_used, fallback, "the container has its share of this host's connections open")   \
    R(storage_full, fallback, "no memory for the socket's storage")                           \
    R(reconnect_refused, drop, "connect() again, elsewhere, on a socket tied to the host path") \
    R(option_no_room, drop, "SYN had no room for the option (a long Fast Open cookie)")    \
    R(unknown_veth, drop, "packet from an interface that is no endpoint's")                   \
    R(spoofed_source, drop, "source address is not the endpoint's own")                       \
    R(foreign_flow, drop, "source is the host's address, but no connection of this sandbox")  \
    R(late_ack, drop, "ACK without data that came after its connection's flow had gone")       \
    R(forged_option, drop, "SYN carries no option, or names another endpoint as caller")      \
    R(syn_no_option, drop, "SYN to an endpoint port without a valid option")                  \
    R(syn_unknown_caller, drop, "SYN from a host and port that name no endpoint")             \
    R(syn_other_network, drop, "SYN from an endpoint of another network")                     \
    R(no_endpoint, drop, "host-path packet to a local port that nobody owns")                 \
    R(unknown_destination, drop, "overlay destination is no endpoint of the network")         \
    R(link_local6, drop, "IPv6 link-local packets: endpoints need no neighbour discovery")     \
    R(vlan_tag, drop, "frame carries a VLAN tag")                                             \
    R(not_ip, drop, "neither IPv4 nor IPv6 (ARP included: endpoints need none)")              \
    R(malformed, drop, "headers are cut short or make no sense")                              \
    R(overlay_wrong_host, drop, "overlay packet's inner source does not live on the sender")  \
    R(overlay_no_endpoint, drop, "overlay packet for no endpoint of this host")               \
    R(flood_overflow, drop, "network has more receivers than one broadcast can reach")        \
    R(host_dead, drop, "connect() refused at once: the destination's host is gone")         \
    R(service_empty, drop, "connect() or datagram refused: no task of the service is there")  \
    R(tunnel_failed, drop, "the kernel refused the tunnel key or the copy")                   \
    R(no_listener, path, "SYN to a virtual port where nobody listens: refused by the kernel") \
    R(listener_assigned, path, "listener for MPTCP, or for IPv6 only: assigned per packet") \
    R(pending_full, error, "no memory to remember a SYN")                                     \
    R(flow_table_full, error, "an accepted connection found no place in the flow map, or its container none") \
    R(local, path, "connections to an endpoint of the same host, handed over as they are")    \
    R(bound_port, fallback, "client socket is bound to a port of the endpoint ports' range")  \
    R(peer_blocked, fallback, "SYNs of the host path do not get through to the destination's host") \
    R(switched_off, fallback, "the host path is switched off for this container")             \
    R(own_rules, fallback, "the container has packet filter rules of its own")                \
    R(keys, fallback, "the container has TCP-MD5 or TCP-AO keys, which are for virtual addresses") \
    R(user_stack, fallback, "the container's addresses are not its kernel's (gVisor, Kata)")  \
    R(bound_listener, fallback, "a listener is bound to a device, and the container has several networks") \
    R(routing_lost, fallback, "the container's rules or routes for the host path were removed, and come back") \
    R(syn_withheld, drop, "SYN to a container that takes none on the host path: its caller is told") \
    R(syn_unanswered, drop, "connect() on the host path ended without any answer")            \
    R(told_unreachable, path, "packets to an address that nobody has: their sender is told")   \
    R(syn_forgotten, error, "connection whose SYN is not remembered any more: it is reset")   \
    R(probe_unknown, path, "probe of the wire in the name of an endpoint that is not known here yet") \
    R(name_query, path, "packets with DNS queries of containers, handed to slim's name server") \
    R(ipv6_only, fallback, "IPv6 client socket takes no IPv4 (IPV6_V6ONLY), or is bound to a port") \
    R(ipv6_options, fallback, "the container has set IPv6 options that IPv4 does not have") \
    R(by_device, path, "overlay packets that took the VXLAN device, to or from another host") \
    R(listener_group, fallback, "MPTCP sockets with SO_REUSEPORT, which Linux before 6.6 assigns no packets") \
    R(ipv6_underlay, fallback, "TCP to IPv4 addresses between hosts whose underlay is IPv6")

#define R_ENUM(name, kind, meaning) REASON_##name,
enum reason { REASONS(R_ENUM) REASON_COUNT };
#undef R_ENUM

#endif
