"""The host's own network: device, tunnel, guard, ports, questions to other hosts."""
