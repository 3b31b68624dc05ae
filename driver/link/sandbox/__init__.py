"""Inside a container's namespace: what slim adds there, and what it looks for."""
