"""Tests how many bytes of a connection were its programs' own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from driver.datapath.tables.events import _payload

SYN_SENT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING = 2, 1, 4, 5, 8, 9, 11


@pytest.mark.parametrize(("inbound", "before", "own"), [
    (0, 0, (10, 10)),  # it has not ended
    (0, SYN_SENT, (10, 10)),
    (0, ESTABLISHED, (9, 10)), (1, ESTABLISHED, (10, 10)),
    (0, FIN_WAIT1, (9, 10)), (1, FIN_WAIT1, (10, 10)),
    (0, FIN_WAIT2, (8, 10)), (1, FIN_WAIT2, (9, 10)),
    (0, CLOSE_WAIT, (9, 9)), (1, CLOSE_WAIT, (10, 9)),
    (0, LAST_ACK, (8, 9)), (1, LAST_ACK, (9, 9)),
    (0, CLOSING, (8, 9))])
def test_syn_and_fin_do_not_count(inbound: int, before: int, own: tuple[int, int]) -> None:
    seen = SimpleNamespace(inbound=inbound, bytes_out=10, bytes_in=10)
    assert _payload(seen, before) == own


def test_never_below_nothing() -> None:
    assert _payload(SimpleNamespace(inbound=0, bytes_out=0, bytes_in=0), LAST_ACK) == (0, 0)
