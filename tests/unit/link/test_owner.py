"""Tests how interfaces name their owner, and what a start makes of that."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver.compose import ownership
from driver.errors import SettingsError
from driver.link.pairs.owner import ALIAS_MAX, device_alias, device_owner, pair_alias, pair_owner
from driver.link.underlay import vxlan
from driver.model import EndpointId, HostId
from driver.settings import Settings
from driver.state import host

ENDPOINT, OURS, THEIRS = EndpointId("e" * 64), HostId("a" * 32), HostId("b" * 32)


def test_an_alias_says_whose_a_pair_is() -> None:
    assert pair_owner(pair_alias(ENDPOINT, OURS)) == (ENDPOINT, OURS)
    assert pair_owner(pair_alias(ENDPOINT, None)) == (ENDPOINT, None)  # as older drivers do
    assert pair_owner(None) == (None, None)
    assert pair_owner(f"{ENDPOINT} garbage") == (ENDPOINT, None)
    assert len(pair_alias(ENDPOINT, OURS)) <= ALIAS_MAX


def test_an_alias_says_whose_the_device_is_and_where_the_pins_are() -> None:
    assert device_owner(device_alias(OURS, "/sys/fs/bpf")) == (OURS, "/sys/fs/bpf")
    assert device_owner(device_alias(OURS, "/" + 300 * "x")) == (OURS, "")
    for other in (None, "", "somebody's tunnel"):
        assert device_owner(other) == (None, "")


class Kernel:
    """A kernel that has only slim-vxlan's alias."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
        self.said: tuple[HostId | None, str] = (None, "")
        self.settings = Settings(state=str(state), bpffs="/bpf")
        monkeypatch.setattr(vxlan, "vxlan_owner", lambda: self.said)

    def id(self) -> HostId:
        return ownership.own_id(self.settings)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    return Kernel(monkeypatch, tmp_path / "state")


def test_a_new_host_makes_an_id_and_keeps_it(kernel: Kernel) -> None:
    made = kernel.id()
    assert made == kernel.id() == host.kept_id(Path(kernel.settings.state))
    kernel.said = (made, "/bpf")
    assert kernel.id() == made
    kernel.said = (made, "")
    assert kernel.id() == made


def test_a_lost_state_folder_is_no_other_host(kernel: Kernel) -> None:
    kernel.said = (THEIRS, "/bpf")
    assert kernel.id() == THEIRS == host.kept_id(Path(kernel.settings.state))


def test_what_is_another_hosts_is_refused(kernel: Kernel) -> None:
    made = kernel.id()
    kernel.said = (THEIRS, "/bpf")
    with pytest.raises(SettingsError) as refused:
        kernel.id()
    assert all(part in str(refused.value) for part in (made, THEIRS, "host-id: the id is then"))
    (Path(kernel.settings.state) / host.ID_FILE).unlink()  # as the error advises
    assert kernel.id() == THEIRS


def test_pins_elsewhere_are_refused(kernel: Kernel) -> None:
    kernel.said = (kernel.id(), "/elsewhere")
    with pytest.raises(SettingsError, match="--bpffs /elsewhere"):
        kernel.id()
