"""What a swarm's manager enters again when etcd has lost it."""
