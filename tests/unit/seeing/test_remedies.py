"""Tests that what `slim why` advises is what docs/counters.md advises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from driver.datapath.code.reasons import read_reasons
from driver.services.ports import Why
from driver.services.seeing.remedies import REMEDIES

# What a program asks for its socket, and what shows at a connection only.
OF_ONE_SOCKET = {"bound_address", "bound_port", "mptcp_client", "flow_refused", "ports_busy",
                 "storage_full"}


@pytest.fixture
def documented(project: Path) -> dict[str, str]:
    """Counter -> what to do, without links."""
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| .* \| (.*) \|$",
                      (project / "docs/counters.md").read_text(), re.M)
    return {name: re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text) for name, text in rows}


def test_they_are_the_documents(documented: dict[str, str]) -> None:
    assert {name: documented[name] for name in REMEDIES} == dict(REMEDIES)


def test_every_reason_to_keep_a_container_off_has_one() -> None:
    assert {str(why) for why in Why} - REMEDIES.keys() == set()


def test_every_other_reason_to_leave_the_host_path_has_one() -> None:
    """One that is new in the kernel has to be judged by `slim why`, too."""
    fallbacks = {reason.name for reason in read_reasons() if reason.kind == "fallback"}
    assert fallbacks - REMEDIES.keys() == OF_ONE_SOCKET
    assert not OF_ONE_SOCKET & REMEDIES.keys()
