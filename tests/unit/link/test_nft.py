"""Tests the packet filter's parts on a kernel that lacks nftables."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address

import pytest

from driver.doctor import network
from driver.errors import LinkError
from driver.link.netlink import nft_socket
from driver.link.sandbox import untracked
from driver.link.underlay import guard, nat_ports
from driver.settings import Settings


@pytest.fixture(params=[errno.EPROTONOSUPPORT, errno.EOPNOTSUPP], ids=["nfnetlink", "nf_tables"])
def lacking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_transaction: bytes, what: str) -> None:
        raise nft_socket.Refused(what, request.param)

    monkeypatch.setattr(nft_socket, "commit", refuse)
    monkeypatch.setattr(nft_socket, "answers", refuse)


@pytest.mark.usefixtures("lacking")
def test_what_is_missing_is_named() -> None:
    with pytest.raises(LinkError, match=r"table slim-sandbox: .*; this kernel lacks nf_tables"):
        untracked.install(IPv4Address("192.0.2.1"))
    with pytest.raises(LinkError, match=r"stay on the overlay path\. modprobe nft_ct"):
        network.check_notrack(Settings())
    with pytest.raises(LinkError, match=r"there is no guard\. modprobe nft_chain_nat nft_nat"):
        nat_ports.works()


@pytest.mark.usefixtures("lacking")
def test_there_is_nothing_to_remove() -> None:
    untracked.remove()
    guard.remove_guard()


def test_other_refusals_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_transaction: bytes, what: str) -> None:
        raise nft_socket.Refused(what, errno.EPERM)

    monkeypatch.setattr(nft_socket, "commit", refuse)
    with pytest.raises(LinkError, match="remove nftables table slim-sandbox: Operation not perm"):
        untracked.remove()
