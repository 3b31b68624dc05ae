"""The name server in containers' namespaces: messages, sockets, one thread for all of them."""
