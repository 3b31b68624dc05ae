"""Keeps in etcd what `slim cluster` knows of the cluster: its name, hosts, token, who is alive."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from driver.cluster.addresses import host_address
from driver.cluster.model import ClusterHost, Role
from driver.cluster.tokens import SECRET_BYTES
from driver.errors import StoreUnavailable
from driver.store.format import keys, records
from driver.store.kv.protocol import Delete, Entry, KeyValue, Op, Put, Unchanged

ATTEMPTS: Final = 8  # of a change that others are faster at
PREVIOUS_TOKENS: Final = 16  # whose names are kept, to tell an old token from a wrong one


@dataclass(frozen=True)
class ClusterConfig:
    """What all hosts of a cluster share.

    generation: raised by each `slim cluster restore`; of two answers, the higher one is right.
    """

    id: str
    name: str
    generation: int = 1
    certificate_s: float = 90 * 86400.0  # how long hosts' and members' certificates are valid


@dataclass(frozen=True)
class JoinSecret:
    """The secret of the token that lets hosts in."""

    secret: bytes = field(repr=False)
    until_s: float  # Unix time; 0: for ever
    previous: tuple[str, ...] = ()  # names of the tokens before it


class ClusterRecords:
    """The records, over any KeyValue.  All methods: StoreUnavailable; UnsupportedRecord."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv

    def config(self) -> ClusterConfig | None:
        """Return the cluster's configuration; None: `slim cluster init` has not written it."""
        entry = self._kv.get(keys.CLUSTER_CONFIG)
        return None if entry is None else records.decode(entry, config_of)

    def put_config(self, config: ClusterConfig) -> None:
        """Write it."""
        self._kv.commit([], [Put(keys.CLUSTER_CONFIG, records.encode(asdict(config)))])

    def hosts(self) -> list[ClusterHost]:
        """Return the hosts that have joined, the oldest first."""
        found = [_host_of(entry) for entry in self._kv.range(keys.CLUSTER_HOSTS).entries]
        return sorted(found, key=lambda host: (host.joined_s, host.id))

    def host(self, host_id: str) -> ClusterHost | None:
        """Return one host; None: it has not joined, or is removed."""
        entry = self._kv.get(keys.cluster_host(host_id))
        return None if entry is None else _host_of(entry)

    def change_host(self, host_id: str, change: Callable[[ClusterHost | None], ClusterHost | None]
                    ) -> ClusterHost | None:
        """Replace a host's record by what `change` makes of it (None: none); return that.

        `change` is called again if somebody else was faster.  What it raises ends the change.
        """
        key = keys.cluster_host(host_id)
        for _ in range(ATTEMPTS):
            entry = self._kv.get(key)
            before = None if entry is None else _host_of(entry)
            after = change(before)
            if after == before:
                return after
            op: Op = Delete(key) if after is None else Put(key, records.encode(asdict(after)))
            if self._kv.commit([Unchanged(key, entry.mod_revision if entry else 0)], [op]):
                return after
        raise StoreUnavailable(f"{key} in etcd has too many concurrent changes")

    def set_role(self, host_id: str, role: Role) -> None:
        """Say what a host has to do with etcd; one that is not on record stays so."""
        self.change_host(host_id, lambda host: host and replace(host, role=role))

    def secret(self) -> JoinSecret | None:
        """Return the secret of the token; only etcd's root may read it."""
        entry = self._kv.get(keys.CLUSTER_TOKEN)
        return None if entry is None else records.decode(entry, lambda fields: JoinSecret(
            _secret(fields["secret"]), _number(fields["until_s"]),
            tuple(map(_text, fields["previous"]))))

    def put_secret(self, secret: JoinSecret) -> None:
        """Write it."""
        self._kv.commit([], [Put(keys.CLUSTER_TOKEN, records.encode({
            "secret": secret.secret.hex(), "until_s": secret.until_s,
            "previous": list(secret.previous[-PREVIOUS_TOKENS:])}))])

    def alive(self) -> frozenset[str]:
        """Return the ids of the hosts whose keeper lives."""
        return frozenset(entry.key.removeprefix(keys.CLUSTER_ALIVE)
                         for entry in self._kv.range(keys.CLUSTER_ALIVE, keys_only=True).entries)

    def forget_alive(self) -> None:
        """Take back all signs of life; who lives gives a new one within seconds."""
        for entry in self._kv.range(keys.CLUSTER_ALIVE, keys_only=True).entries:
            self._kv.commit([], [Delete(entry.key)])

    def tell_alive(self, host_id: str, lease_id: int) -> None:
        """Say that this host's keeper lives, as long as the lease does."""
        self._kv.commit([], [Put(keys.cluster_alive(host_id), b"", lease_id)])


def _host_of(entry: Entry) -> ClusterHost:
    def build(fields: records.Fields) -> ClusterHost:
        host = _host(fields)
        if keys.cluster_host(host.id) != entry.key:
            raise ValueError("it is another host's")
        return host

    return records.decode(entry, build)


def _host(fields: records.Fields) -> ClusterHost:
    return ClusterHost(
        id=_text(fields["id"]), name=_text(fields["name"]),
        address=host_address(_text(fields["address"])), joined_s=_number(fields["joined_s"]),
        role=Role(fields["role"]), version=_text(fields.get("version", "")),
        certificate_until_s=_number(fields.get("certificate_until_s", 0.0)),
        leaving=fields.get("leaving", False) is True,
        client_only=fields.get("client_only", False) is True)


def config_of(fields: records.Fields) -> ClusterConfig:
    """Return the configuration as it was written.  Errors: KeyError, TypeError, ValueError."""
    return ClusterConfig(_text(fields["id"]), _text(fields["name"]),
                         int(_number(fields["generation"])), _number(fields["certificate_s"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("want a text")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError("want a number")
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError("too large") from error
    if not math.isfinite(number):
        raise ValueError("want a finite number")
    return number


def _secret(value: object) -> bytes:
    secret = bytes.fromhex(_text(value))
    if len(secret) != SECRET_BYTES:
        raise ValueError("want a secret of the token's length")
    return secret
