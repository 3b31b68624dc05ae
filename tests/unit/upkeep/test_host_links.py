"""driver/services/upkeep/host_links.py: what others remove from our links comes back."""

from __future__ import annotations

from driver.errors import LinkError
from driver.services.upkeep.host_links import HostLinks
from driver.work.ledger import Ledger


class Links:
    """Interface 3 is ours; nothing can be put back while `refused`."""

    def __init__(self) -> None:
        self.restored: list[int] = []
        self.refused = False

    def restore(self, ifindex: int) -> bool:
        if self.refused:
            raise LinkError("no memory")
        self.restored.append(ifindex)
        return ifindex == 3


def test_what_was_removed_comes_back_once() -> None:
    ledger, links = Ledger(), Links()
    mended = HostLinks(links.restore, ledger)
    for _ in range(3):
        mended.removed(3)  # one removal causes several messages
    mended.removed(4)
    ledger.run()
    assert links.restored == [3, 4]
    assert not ledger.run()


def test_what_cannot_be_put_back_is_shown_until_it_can() -> None:
    ledger, links = Ledger(), Links()
    links.refused = True
    HostLinks(links.restore, ledger).removed(3)
    for _ in range(9):
        ledger.run()
    assert [(step.what, step.error) for step in ledger.outstanding()] == [
        ("restore what is ours on interface 3", "no memory")]
    links.refused = False
    ledger.run()
    assert links.restored == [3]
    assert ledger.outstanding() == []
