"""Builds the driver's parts, a topic a module."""
