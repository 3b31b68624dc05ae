"""Provides one swarm for all tests of this folder."""

from __future__ import annotations

from tests.lab.rig.plugged import nodes, plugged  # noqa: F401 - fixtures
