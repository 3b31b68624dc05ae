"""What Prometheus is told of a driver: the families, how they are read, and their text."""
