"""Use cases: what a watcher sees of this host, and of the cluster."""
