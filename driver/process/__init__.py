"""This process on its machine: memory, priority, and what systemd is told."""
