"""Runs the commands of `slim cluster`, and builds what they need."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from driver import settings as settings_module
from driver.cluster import tokens
from driver.cluster.addresses import parse_member
from driver.cluster.changes.founding import Founding, ensure_token
from driver.cluster.changes.joining import Joining
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.host import ThisHost, driver_answers
from driver.cluster.model import CLIENT_PORT, DOOR_PORT
from driver.cluster.records import ClusterConfig, ClusterRecords
from driver.commands.adopt_cluster import run_adopt_cluster
from driver.commands.cluster import care
from driver.commands.cluster.here import UP_ENV, own_address, this_host
from driver.commands.cluster.status import run_status
from driver.commands.saying import say
from driver.compose.ownership import own_id
from driver.errors import Conflict, SettingsError, StateError
from driver.settings import Settings
from driver.state import host
from driver.store.etcd.client import EtcdKeyValue
from driver.work import logs

EMBEDDED_URL: Final = f"http://127.0.0.1:{CLIENT_PORT}"


def run_cluster(settings: Settings, command: str, options: dict[str, Any]) -> int:
    """Run one command; return the exit status.  Error: SlimError."""
    commands: dict[str, Callable[[Settings, dict[str, Any]], int]] = {
        "init": run_init, "join": run_join, "token": run_token, "serve": run_serve,
        "status": run_status, "leave": care.run_leave, "remove": care.run_remove,
        "backup": care.run_backup, "restore": care.run_restore, "tidy": care.run_tidy}
    folder = ClusterFolder(Path(settings.cluster))
    folder.finish_removal()  # a `leave` that was killed, or a `join`
    this_host(settings).drop_work()  # a `restore`
    if command in ("init", "leave"):  # `join` does so itself
        folder.drop_prepared()
    try:
        return commands[command](settings, options)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, a file system that is read-only
        raise StateError(f"{error.filename or command}: {error.strerror}.  Once that is mended, "
                         "type it again: it goes on") from error


def run_init(settings: Settings, options: dict[str, Any]) -> int:
    """Begin a cluster."""
    here = this_host(settings)
    _refuse_other_etcd(settings, here)
    _refuse_two_drivers(here, options)
    address = own_address(settings, options["address"])
    name = socket.gethostname()
    cluster = host.new_cluster()
    config = ClusterConfig(cluster.id, options["name"] or name,
                           certificate_s=options["certificate_days"])
    me = Identity(config.id, config.name, config.generation, own_id(settings), name, address,
                  plugin=options["plugin"])
    token = Founding(here, say).begin(
        me, config, options["valid"], take_over=_embedded_has_data(settings, here))
    say(f"cluster {here.folder.identity().cluster_name} runs on this host.  On each other host, "
        "type as root:", "", f"    {join_line(address, token)}", "")
    _say_how_long(here)
    _say_what_a_plugin_needs(here)
    return 0


def run_join(settings: Settings, options: dict[str, Any]) -> int:
    """Join a cluster."""
    here = this_host(settings)
    token = tokens.parse(options["token"])
    member = parse_member(options["member"], DOOR_PORT)
    _refuse_other_etcd(settings, here)
    _refuse_two_drivers(here, options)

    def adopt(folder: ClusterFolder) -> None:
        run_adopt_cluster(replace(
            settings, etcd=folder.endpoints(), etcd_ca=str(folder.path / "ca.crt"),
            etcd_cert=str(folder.path / "host.crt"), etcd_key=str(folder.path / "host.key")),
            say=lambda _: None)

    me = Joining(here, adopt).join(
        Identity("", "", 0, own_id(settings), socket.gethostname(),
                 own_address(settings, options["address"]), plugin=options["plugin"]),
        member, token, again=options["again"], client_only=options["client_only"])
    say(f"{me.name} is in the cluster {me.cluster_name}: see `slim cluster status`")
    _say_what_a_plugin_needs(here)
    return 0


def run_token(settings: Settings, options: dict[str, Any]) -> int:
    """Print the line with which others join."""
    here = this_host(settings)
    folder = here.folder
    me, authority = folder.identity(), folder.authority()
    with EtcdKeyValue(folder.etcd_settings("root")) as kv:
        token = ensure_token(ClusterRecords(kv), authority, options["valid"],
                             time.time(), rotate=options["rotate"])
    say(join_line(me.address, token))
    _say_how_long(here)
    return 0


def run_serve(settings: Settings, _: dict[str, Any]) -> int:
    """Keep this host's part of the cluster in order until SIGTERM."""
    from driver.api.door import DoorServer, create_door  # noqa: PLC0415 - loads flask
    from driver.cluster.door.enrolment import Enrolment  # noqa: PLC0415
    from driver.cluster.etcd.members import EtcdMembers  # noqa: PLC0415
    from driver.cluster.keeping.keeper import Keeper  # noqa: PLC0415

    logs.begin(settings.log_level.upper(), settings.log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    here = this_host(settings)
    here.folder.identity()

    def make_door(me: Identity, records: ClusterRecords, members: EtcdMembers) -> DoorServer:
        return DoorServer(create_door(Enrolment(here.folder, me, records, members)), me.address,
                          DOOR_PORT, here.folder.path)

    Keeper(here.folder, here.services, here.data, make_door).run(stop)
    return 0


def join_line(address: str, token: tokens.Token) -> str:
    """Return what a person types on another host."""
    return f"slim cluster join {address} {token}"


def _say_how_long(here: ThisHost) -> None:
    with EtcdKeyValue(here.folder.etcd_settings("root")) as kv:
        secret = ClusterRecords(kv).secret()
    if secret is None or not secret.until_s:
        return
    left_h = (secret.until_s - time.time()) / 3600
    if left_h <= 0:
        say("It has expired, and lets nobody in: `slim cluster token --rotate` makes a new one",
            to_errors=True)
    else:
        say(f"The token lets hosts in for {left_h:.0f} hours more; `slim cluster token` shows it "
              "again")


def _refuse_other_etcd(settings: Settings, here: ThisHost) -> None:
    """Refuse where a person has chosen an etcd for the driver: it would stay with that one."""
    if here.folder.exists or settings.etcd == (EMBEDDED_URL,):
        return
    default = next(default for flag, _, default, _ in settings_module.describe()
                   if flag == "--etcd")
    if ",".join(settings.etcd) != default:
        raise SettingsError(
            f"this host's driver is told to use the etcd at {','.join(settings.etcd)}: take `etcd` "
            f"out of {settings_module.FILE}, SLIM_ETCD out of {UP_ENV} (or `make down`), and type "
            "this again")


def _refuse_two_drivers(here: ThisHost, options: dict[str, Any]) -> None:
    if options["plugin"] and driver_answers(here.socket):
        raise Conflict("a driver runs on this host beside the plugin: end it first (make down, or "
                       "systemctl disable --now slim), or leave --plugin out")


def _say_what_a_plugin_needs(here: ThisHost) -> None:
    if here.folder.identity().plugin:
        say("", "The managed plugin follows the cluster once it sees its files:", "",
            "    docker plugin disable -f slim",
            f"    docker plugin set slim ETCD= tls.source={here.folder.path.parent}",
            "    docker plugin enable slim")


def _embedded_has_data(settings: Settings, here: ThisHost) -> bool:
    """Tell whether this host's driver uses the etcd that `make up` starts."""
    return settings.etcd == (EMBEDDED_URL,) and (here.data / "member").is_dir()
