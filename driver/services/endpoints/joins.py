"""Combines an endpoint's record with the sandbox that it is joined to.

The record belongs to the cluster; the sandbox is a path on this host until it reboots, which nobody
else can use.  So Join and Leave write nothing to etcd, and no other host hears of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from driver.model import Endpoint, EndpointId
from driver.services.notes.own import OwnEndpoints
from driver.services.ports import Joins
from driver.work.undo import run_all


class JoinedEndpoints:
    """Implements ports.Endpoints with sandbox_key filled in.  As thread-safe as the records.

    Earlier drivers kept the key in the record: such a key is accepted, and the next change removes
    it from there.
    """

    def __init__(self, records: OwnEndpoints, joins: Joins) -> None:
        """Error: LinkError (an earlier driver's notes cannot be read)."""
        self._records = records
        self._joins = joins
        self._noted = joins.all()

    def create(self, endpoint: Endpoint) -> None:
        """See ports.Endpoints."""
        self._records.create(replace(endpoint, sandbox_key=""))
        self._note(endpoint.id, endpoint.sandbox_key)

    def replace(self, endpoint: Endpoint) -> None:
        """See ports.Endpoints.  Further error: LinkError."""
        record = replace(endpoint, sandbox_key="")
        known = self._records.get(endpoint.id)
        if known is not None:
            self._note(endpoint.id, endpoint.sandbox_key)
        if known != record:
            self._records.replace(record)

    def delete(self, endpoint_id: EndpointId, known: Endpoint | None = None) -> None:
        """See ports.Endpoints.  Further error: LinkError."""
        # The note last: a record without a note could be an endpoint that is still to be joined.
        run_all([("delete the record", lambda: self._records.delete(endpoint_id, known)),
                 ("forget the sandbox's name", lambda: self._note(endpoint_id, ""))])

    def get(self, endpoint_id: EndpointId) -> Endpoint | None:
        """See ports.Endpoints."""
        record = self._records.get(endpoint_id)
        return None if record is None else self._joined(record)

    def list(self) -> list[Endpoint]:
        """See ports.Endpoints."""
        return [self._joined(record) for record in self._records.list()]

    def on_record(self) -> Sequence[Endpoint]:
        """See ports.Endpoints."""
        return [self._joined(record) for record in self._records.on_record()]

    def enter(self, endpoint: Endpoint) -> bool:
        """See ports.Endpoints."""
        return self._records.enter(replace(endpoint, sandbox_key=""))

    def note(self, endpoint: Endpoint) -> None:
        """See notes.own.OwnEndpoints."""
        self._records.note(replace(endpoint, sandbox_key=""))

    def forget_strays(self, has_link: Callable[[EndpointId], bool]) -> None:
        """Forget the sandboxes of endpoints that this host does not have and whose link is gone.

        Errors: LinkError, StoreUnavailable.
        """
        joined = list(self._noted)  # read first: endpoints are noted before they are joined
        known = {record.id for record in self._records.list()}
        for endpoint_id in joined:
            if endpoint_id not in known and not has_link(endpoint_id):
                self._note(endpoint_id, "")

    def _joined(self, record: Endpoint) -> Endpoint:
        key = self._noted.get(record.id)
        return replace(record, sandbox_key=key) if key else record

    def _note(self, endpoint_id: EndpointId, sandbox_key: str) -> None:
        if self._noted.get(endpoint_id, "") == sandbox_key:
            return
        if sandbox_key:
            # First: a failed step may have been done, and whoever undoes it must find it.
            self._noted[endpoint_id] = sandbox_key
            self._joins.put(endpoint_id, sandbox_key)
        else:
            self._joins.remove(endpoint_id)
            self._noted.pop(endpoint_id, None)
