"""A Docker network's life on this host, and which virtual network it follows."""
