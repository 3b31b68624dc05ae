"""Setting up the inside of containers, and who of them stays off the host path."""
