"""Tests the host path of IPv6 sockets between hosts whose network has IPv6 only."""

from __future__ import annotations

import pytest

from tests.netns.overlay.test_ipv6_underlay import HERE6, THERE6, Pair, cluster6, machines6, pair
from tests.netns.talk import client, host_path, server, wait_for_no_flows

__all__ = ["cluster6", "machines6", "pair"]


@pytest.mark.parametrize("address", ["::", THERE6])
def test_both_ends_see_ipv6_names(pair: Pair, address: str) -> None:
    here, there = pair
    seen = server(there, address=address)
    with host_path(here, there):
        own = client(here, THERE6).split()
    assert own == [HERE6, own[1], THERE6, "80"]
    assert seen.line().split() == [THERE6, "80", HERE6, own[1]]
    wait_for_no_flows(here, there)
