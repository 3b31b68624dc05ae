"""HTTP towards dockerd: decode, call a service, encode."""
