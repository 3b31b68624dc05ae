"""Pools and addresses: requested, released, and held by whom."""
