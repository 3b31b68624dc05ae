"""Fixtures for tests in real network namespaces."""

from tests.support.netns import make_netns

__all__ = ["make_netns"]
