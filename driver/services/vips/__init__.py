"""Addresses of a swarm's services: published by a manager, mirrored into the maps."""
