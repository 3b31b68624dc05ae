"""Fixtures for tests in real network namespaces."""

from tests.support.machines import cluster, machines
from tests.support.netns import make_netns

__all__ = ["cluster", "machines", "make_netns"]
