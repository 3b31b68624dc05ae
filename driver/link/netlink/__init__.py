"""rtnetlink and nftables' netlink: sockets, messages, namespaces, notifications."""
