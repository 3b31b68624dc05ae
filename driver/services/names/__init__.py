"""Names of containers: published by their host, known on every host of their network."""
