"""Pairs of interfaces, one for each endpoint."""
