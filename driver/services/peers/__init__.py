"""Whether SYNs of the host path get through to each peer, and what follows if they do not."""
