"""Makes this host's etcd a member of the cluster, and takes it out again."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from driver.cluster.authority import PEER_NAME, ROOT_NAME, Authority, Usage
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.model import Member, client_url, peer_url
from driver.errors import StateError

# Space for records: a host with 200 containers takes 0.4 MB, old revisions of an hour as much.
QUOTA_BYTES = 4 << 30


def settings_text(folder: ClusterFolder, me: Identity, data: Path, members: Iterable[Member], *,
                  is_new: bool) -> str:
    """Return etcd's settings, for its environment: it has no other way for all of them.

    members: those that etcd lists, this host's among them; one that has not started has no name.
    """
    named = {member.peer_urls[0]: member.name for member in members if member.peer_urls}
    named[peer_url(me.address)] = me.host
    initial = ",".join(f"{name}={url}" for url, name in sorted(named.items()) if name)
    path = folder.path
    values = {
        "NAME": me.host, "DATA_DIR": data,
        "LISTEN_CLIENT_URLS": client_url(me.address),
        "ADVERTISE_CLIENT_URLS": client_url(me.address),
        "LISTEN_PEER_URLS": peer_url(me.address),
        "INITIAL_ADVERTISE_PEER_URLS": peer_url(me.address),
        "INITIAL_CLUSTER": initial, "INITIAL_CLUSTER_TOKEN": me.cluster,
        "INITIAL_CLUSTER_STATE": "new" if is_new else "existing",
        "TRUSTED_CA_FILE": path / "ca.crt", "CERT_FILE": path / "etcd.crt",
        "KEY_FILE": path / "etcd.key", "CLIENT_CERT_AUTH": "true",
        "PEER_TRUSTED_CA_FILE": path / "ca.crt", "PEER_CERT_FILE": path / "peer.crt",
        "PEER_KEY_FILE": path / "peer.key", "PEER_CLIENT_CERT_AUTH": "true",
        # Only members have such a certificate: a host's own does not make it one.
        "PEER_CERT_ALLOWED_CN": PEER_NAME,
        "ENABLE_GRPC_GATEWAY": "false",  # HTTP and JSON: it would be a second way in
        "AUTO_COMPACTION_MODE": "periodic", "AUTO_COMPACTION_RETENTION": "1h",
        "QUOTA_BACKEND_BYTES": QUOTA_BYTES,
    }
    return "".join(f"ETCD_{name}={value}\n" for name, value in values.items())


def issue_files(folder: ClusterFolder, authority: Authority, address: str, seconds: float) -> None:
    """Write all certificates that only members have, for `seconds` from now.

    Keys that are there stay: at no moment does etcd find a pair that does not fit.
    """
    for file, name, usage, addresses in (
            ("peer", PEER_NAME, Usage.PEER, (address,)),
            ("etcd", "slim-etcd", Usage.SERVER, (address, "127.0.0.1")),
            ("root", ROOT_NAME, Usage.CLIENT, ())):
        folder.put_issued(file, authority.issue(
            name, usage, seconds=seconds, addresses=addresses, key=folder.key(file)))


def set_data_aside(data: Path) -> Path | None:
    """Take the data of a member that is none any more away; return where it lies now.

    One such set is kept: whoever removed the member by mistake wants it.  Error: StateError.
    """
    if not data.exists():
        return None
    aside = data.with_name(data.name + ".old")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        data.rename(aside)
    except OSError as error:
        raise StateError(f"{data}: {error.strerror}") from error
    return aside
