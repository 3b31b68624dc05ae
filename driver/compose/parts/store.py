"""Builds what keeps records: etcd's client, what guards its writes, this host's notes, the feeds.

host_parts.py decides who this host is in etcd, and whether it may write there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from driver.compose.parts.etcd import etcd_settings
from driver.compose.parts.part import Part, nothing
from driver.errors import StoreUnavailable
from driver.model import HostId
from driver.services.endpoints.joins import JoinedEndpoints
from driver.services.notes.own import NotedEndpoints, NotedNetworks
from driver.settings import Settings
from driver.state import host
from driver.state.joins import FiledJoins
from driver.state.notes import HostNotes, notes_of
from driver.store.endpoints import EtcdEndpoints
from driver.store.etcd import health
from driver.store.etcd.client import EtcdKeyValue
from driver.store.feeds.directory import EtcdDirectory
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys
from driver.store.hosts.absences import EtcdAbsences
from driver.store.hosts.admitted import AdmittedKeyValue
from driver.store.hosts.cluster import ClusterKeyValue
from driver.store.hosts.fence import FencedKeyValue
from driver.store.kv.protocol import KeyValue
from driver.store.kv.recall import RecallingKeyValue
from driver.store.networks import EtcdNetworks
from driver.store.vips import EtcdVipFeed
from driver.work import deadline
from driver.work.ledger import Ledger
from driver.work.tally import Tally

STATUS_S = 2.0  # for etcd's answer to a status request


@dataclass(frozen=True)
class Stores:
    """The cluster's records in etcd, and this host's own, as its notes have them."""

    etcd: EtcdKeyValue
    kv: ClusterKeyValue  # of this host's cluster only
    admitted: KeyValue  # refused while another machine is this host
    fenced: KeyValue  # for what this host writes in its own name
    recalling: KeyValue  # the same, and remembers what it last saw of single keys
    network_records: EtcdNetworks
    endpoint_records: EtcdEndpoints
    notes: HostNotes
    networks: NotedNetworks
    noted_endpoints: NotedEndpoints
    endpoints: JoinedEndpoints
    absences: EtcdAbsences
    feeds: Feeds
    directory: EtcdDirectory
    vips: EtcdVipFeed
    told_to_forget: host.Forgotten  # a person has had this host forgotten
    known_before: bool  # this host belonged to a cluster before this start
    urls: tuple[str, ...]
    calls: Tally  # of etcd, by operation and result

    def describe(self) -> str:
        """Return, for the status, whether etcd answers and is the right one."""
        try:
            with deadline.limit(STATUS_S):
                self.kv.count(keys.HOSTS)  # raises if the etcd is another cluster's
                return health.describe(self.etcd)
        except StoreUnavailable as error:
            return f"{','.join(self.urls)}: {error}"

    def client_part(self) -> Part:
        """Return the client's part, which is stopped last."""
        return Part("etcd client", nothing, self.etcd.close)

    def feed_parts(self) -> list[Part]:
        """Return the feeds, which bring changes until they are stopped."""
        return [Part("feeds", nothing, self.feeds.close),
                Part("directory", nothing, self.directory.close),
                Part("services", nothing, self.vips.close)]


def build_stores(settings: Settings, me: HostId, ledger: Ledger, refusal: Callable[[], str]
                 ) -> Stores:
    """Build them; this asks etcd nothing yet.

    refusal: returns why nothing may be written in this host's name, or "".
    """
    calls = Tally()
    etcd = EtcdKeyValue(etcd_settings(settings), tally=calls)
    state = Path(settings.state)
    cluster = host.ClusterFile(state)
    known_before = cluster.get() is not None
    kv = ClusterKeyValue(etcd, cluster, host.new_cluster, identity=lambda: etcd.cluster_id)
    admitted = AdmittedKeyValue(kv, refusal)
    fenced = FencedKeyValue(admitted, me)
    recalling = RecallingKeyValue(fenced)
    network_records = EtcdNetworks(recalling, me, ledger=ledger)
    endpoint_records = EtcdEndpoints(recalling, me, network_records, ledger)
    notes = notes_of(state, me)
    noted_endpoints = NotedEndpoints(endpoint_records, notes.endpoints)
    feeds = Feeds(kv)
    return Stores(
        etcd=etcd, kv=kv, admitted=admitted, fenced=fenced, recalling=recalling,
        network_records=network_records, endpoint_records=endpoint_records, notes=notes,
        networks=NotedNetworks(network_records, notes.networks),
        noted_endpoints=noted_endpoints,
        endpoints=JoinedEndpoints(noted_endpoints, FiledJoins(state)),
        absences=EtcdAbsences(kv), feeds=feeds, directory=EtcdDirectory(feeds, kv),
        vips=EtcdVipFeed(feeds, kv), told_to_forget=host.Forgotten(state),
        known_before=known_before, urls=settings.etcd, calls=calls)
