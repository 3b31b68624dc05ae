"""Defines every setting (unit, default, bounds) and loads it from flags, environment or file.

This is the only reader of the environment and of the settings file.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from driver.errors import SettingsError
from driver.host_addresses import unfit
from driver.work import logs
from driver.work.shown import at_port

FILE = "/etc/slim/slim.toml"
ENV_PREFIX = "SLIM_"
PLAIN_NAMES = "SLIM_PLAIN_NAMES"  # set in a managed plugin: `docker plugin set` names settings
SUPERVISED = "SLIM_SUPERVISED"  # set where something starts `slim serve` again and again
LOG_LEVELS = ("debug", "info", "warning", "error")
PAIR_KINDS = ("auto", "veth", "netkit")
OVERLAYS = TC, DEVICE = "tc", "device"
SCOPES = ("local", "global")
PORT_MIN, PORT_MAX = 1024, 65535
MINUTE_S, DAY_S = 60, 86400
ENDPOINTS_FILE = "endpoints"  # in the cluster's folder: URLs of etcd's members
SUPERNET_PREFIX_MAX = 22  # automatic pools are /24: at least four fit
IPV6_ADDRESS_OF = "/ipv6"  # the IPv6 address of a device, as in eth0/ipv6
DEVICE_NAME = re.compile(r"[^\s/:]{1,15}")  # IFNAMSIZ less the final zero


@dataclass(frozen=True)
class PortRange:
    """TCP ports `first` to `last`, both inclusive."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True)
class SocketAddress:
    """An IP address of this host and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return at_port(self.host, self.port)


def parse_text(text: str) -> str:
    """Accept any text without control characters."""
    if not text.isprintable():
        raise ValueError("want printable text")
    return text


def parse_urls(text: str) -> tuple[str, ...]:
    """Parse URLs separated by commas, all http or all https, each with a port."""
    urls = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    if not urls:
        raise ValueError("want at least one URL, as in http://127.0.0.1:2379")
    schemes = set()
    for url in urls:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme not in ("http", "https") or not parts.hostname or not port or (
                parts.path or parts.query or parts.username):
            raise ValueError(f"{url!r} is no URL of the form http://HOST:PORT or "
                             "https://HOST:PORT")
        schemes.add(parts.scheme)
    if len(schemes) > 1:
        raise ValueError("want either http or https for all URLs")
    return urls


def parse_port(text: str) -> int:
    """Parse a port number that needs no privilege."""
    if not (text.isascii() and text.isdigit() and PORT_MIN <= int(text) <= PORT_MAX):
        raise ValueError(f"want a port from {PORT_MIN} to {PORT_MAX}")
    return int(text)


def parse_socket_address(text: str) -> SocketAddress | None:
    """Parse ADDRESS:PORT, an IPv6 address in brackets; an empty text: None."""
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        address = None
    if not colon or address is None or bracketed != (address.version == 6) or "%" in host:
        raise ValueError("want ADDRESS:PORT, as in 127.0.0.1:9500 or [::1]:9500; no name")
    return SocketAddress(str(address), parse_port(port))


def parse_seconds(text: str) -> int:
    """Parse whole seconds, from 1 to a day."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= DAY_S):
        raise ValueError(f"want seconds from 1 to {DAY_S}")
    return int(text)


def parse_absence(text: str) -> int:
    """Parse whole seconds, from a minute to a year, or 0."""
    if not (text.isascii() and text.isdigit() and (
            text == "0" or MINUTE_S <= int(text) <= 365 * DAY_S)):
        raise ValueError(f"want seconds from {MINUTE_S} to {365 * DAY_S}, or 0")
    return int(text)


def parse_port_range(text: str) -> PortRange:
    """Parse FIRST-LAST."""
    first, dash, last = text.partition("-")
    if not dash:
        raise ValueError("want FIRST-LAST, as in 61000-65535")
    ports = PortRange(parse_port(first), parse_port(last))
    if ports.first > ports.last:
        raise ValueError("the first port is above the last")
    return ports


def parse_underlay(text: str) -> str:
    """Accept an address or a device name; empty: the default route's device.

    Behind a device's name, or alone, IPV6_ADDRESS_OF asks for the IPv6 address.
    """
    if ":" in text:
        reason = unfit(ipaddress.IPv6Address(text))
        if reason:
            raise ValueError(reason)
        return str(ipaddress.IPv6Address(text))
    device = text.removesuffix(IPV6_ADDRESS_OF)
    if device and not DEVICE_NAME.fullmatch(device):
        raise ValueError(f"want an IPv4 or IPv6 address, a device name, or DEVICE{IPV6_ADDRESS_OF}")
    if re.fullmatch(r"[0-9.]+", text):
        ipaddress.IPv4Address(text)
    return text


def parse_path(text: str) -> str:
    """Accept an absolute path."""
    if not text.startswith("/") or not text.isprintable():
        raise ValueError("want an absolute path")
    return text


def parse_optional_path(text: str) -> str:
    """Accept an absolute path, or an empty text."""
    return parse_path(text) if text else ""


def parse_supernet(text: str) -> ipaddress.IPv4Network:
    """Parse an IPv4 network in CIDR form that is large enough to cut pools from."""
    network = ipaddress.IPv4Network(text)
    if network.prefixlen > SUPERNET_PREFIX_MAX:
        raise ValueError(f"want a network of /{SUPERNET_PREFIX_MAX} or larger")
    return network


def one_of(*choices: str) -> Callable[[str], str]:
    """Make a parser that accepts one of `choices`."""
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"want one of {', '.join(choices)}")
        return text

    return parse


def _setting(default: str, parse: Callable[[str], Any], about: str) -> Any:
    """Declare a setting: its default as a user would write it, its parser and its help text."""
    return field(default=parse(default),
                 metadata={"default": default, "parse": parse, "about": about})


@dataclass(frozen=True)
class Settings:
    """All settings, checked.  Each is --NAME, SLIM_NAME, or NAME in the file (with _ for -)."""

    etcd: tuple[str, ...] = _setting(
        "http://127.0.0.1:2379", parse_urls, "etcd's URLs, separated by commas; http or https")
    etcd_ca: str = _setting("", parse_optional_path, "PEM file: who may sign etcd's certificate")
    etcd_cert: str = _setting("", parse_optional_path, "PEM file: our certificate for etcd")
    etcd_key: str = _setting("", parse_optional_path, "PEM file: our certificate's key")
    etcd_user: str = _setting("", parse_text, "etcd user name")
    etcd_password_file: str = _setting("", parse_optional_path, "file with etcd's password")
    cluster: str = _setting(
        "/etc/slim/cluster", parse_path, "folder of `slim cluster`: if this host is in a cluster, "
        "etcd's URLs and certificates are those in it, unless --etcd is given")
    underlay: str = _setting(
        "", parse_underlay, "address or device of the real network; empty: that of the default "
        "route; DEVICE/ipv6, or /ipv6: by IPv6")
    port_range: PortRange = _setting(  # noqa: RUF009 - it makes a field()
        "61000-65535", parse_port_range, "TCP ports of the host, one per endpoint; kept "
        "from its clients (net.ipv4.ip_local_reserved_ports)")
    vxlan_port: int = _setting("14789", parse_port, "UDP port of the overlay path")
    overlay: str = _setting(
        TC, one_of(*OVERLAYS), "where packets of the overlay path get their headers: tc; device: "
        "all of them in the VXLAN device, so that the host's packet filter and IPsec see them")
    pair_kind: str = _setting("auto", one_of(*PAIR_KINDS), "interfaces of containers: one of "
                              + ", ".join(PAIR_KINDS) + "; auto: netkit where the kernel has it")
    cgroup: str = _setting("", parse_optional_path, "cgroup v2 folder whose processes are served; "
                           "empty: the cgroup2 mount")
    bpffs: str = _setting("/sys/fs/bpf", parse_path, "BPF file system for pins")
    socket: str = _setting("/run/docker/plugins/slim.sock", parse_path,
                           "unix socket for dockerd; its name is the driver's")
    state: str = _setting("/var/lib/slim", parse_path, "folder for the host's id")
    log_level: str = _setting("info", one_of(*LOG_LEVELS), "one of " + ", ".join(LOG_LEVELS))
    log_format: str = _setting("logfmt", one_of(*logs.FORMATS), "one of " + ", ".join(logs.FORMATS))
    supernet: ipaddress.IPv4Network = _setting(  # noqa: RUF009
        "10.128.0.0/9", parse_supernet, "where pools come from that no --subnet names")
    scope: str = _setting("local", one_of(*SCOPES), "local; global for a managed plugin in a swarm")
    netns_dir: str = _setting(
        "", parse_optional_path, "prefix to sandboxes' paths, where a managed plugin sees the "
        "host's /run/docker/netns elsewhere")
    docker_socket: str = _setting(
        "/var/run/docker.sock", parse_optional_path, "dockerd's API, to learn what Docker has "
        "forgotten; empty: nothing of it is collected")
    collect_after: int = _setting("300", parse_seconds, "seconds after which that is removed")
    return_addresses_after: int = _setting(
        "86400", parse_absence, "seconds for which this host may be dead before its containers' "
        "addresses are free for others; 0: until it is forgotten")
    metrics: SocketAddress | None = _setting(  # noqa: RUF009
        "", parse_socket_address, "ADDRESS:PORT at which Prometheus may read metrics, as "
        "127.0.0.1:9500; empty: nowhere")

    @property
    def etcd_endpoints_file(self) -> str:
        """Return the file whose changes etcd's client follows; "": etcd's URLs never change."""
        if self.etcd_cert != f"{self.cluster}/host.crt":
            return ""
        return f"{self.cluster}/{ENDPOINTS_FILE}"


class OneLineParser(ArgumentParser):
    """Reports a wrong option as a SettingsError, which is one line; accepts no abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Raise SettingsError where argparse would print the usage and exit."""
        raise SettingsError(f"{message} (see {self.prog} --help)")


def add_options(parser: ArgumentParser) -> None:
    """Give `parser` an option for each setting, and --config."""
    parser.add_argument("--config", metavar="FILE", default=None,
                        help=f"settings file (SLIM_CONFIG; default {FILE} if it exists)")
    for item in fields(Settings):
        default = item.metadata["default"]
        shown = f" (default {default})" if default else ""
        parser.add_argument(_flag(item), dest=item.name, default=None, metavar="VALUE",
                            help=f"{item.metadata['about']}{shown}".replace("%", "%%"))


def load(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Settings:
    """Return the settings: a flag wins over the environment, which wins over the file.

    `flags`: setting's name -> text, None if not given; "config": the file.
    Error: SettingsError, naming the setting and its source.
    """
    path = flags.get("config") or environment.get(ENV_PREFIX + "CONFIG")
    in_file = _read_file(path or FILE, required=path is not None)
    known = {item.name for item in fields(Settings)}
    for name in environment:
        if name.startswith(ENV_PREFIX) and name[len(ENV_PREFIX):].lower() not in known | {"config"}:
            raise SettingsError(f"unknown setting {name} in the environment")
    values: dict[str, Any] = {}
    for item in fields(Settings):
        variable = ENV_PREFIX + item.name.upper()
        for source, text in ((_flag(item), flags.get(item.name)),
                             (variable, environment.get(variable)),
                             (f"{item.name} in {path or FILE}", in_file.get(item.name))):
            if text is not None:
                values[item.name] = _parse(item, source, text)
                break
    settings = Settings(**values)
    if "etcd" not in values:
        settings = replace(settings, **_of_cluster(settings))
    _check_together(settings)
    return settings


def _of_cluster(settings: Settings) -> dict[str, Any]:
    """Return etcd's URLs and files if this host is in a cluster made by `slim cluster`."""
    folder = Path(settings.cluster)
    try:
        urls = parse_urls(",".join((folder / ENDPOINTS_FILE).read_text(encoding="ascii").split()))
    except FileNotFoundError:
        return {}
    except PermissionError:
        return {}  # the folder is root's: a command that needs etcd says what it lacks
    except (OSError, ValueError) as error:
        raise SettingsError(f"{folder / ENDPOINTS_FILE}: {error}") from error
    return {"etcd": urls, "etcd_ca": str(folder / "ca.crt"), "etcd_cert": str(folder / "host.crt"),
            "etcd_key": str(folder / "host.key")}


def with_plain_names(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with ETCD renamed SLIM_ETCD and so on, if PLAIN_NAMES asks for it.

    An empty value counts as not set: Docker gives every setting of a plugin a value.
    """
    found = dict(environment)
    found.pop(SUPERVISED, "")
    if found.pop(PLAIN_NAMES, ""):
        plain = {ENV_PREFIX + item.name.upper(): environment.get(item.name.upper())
                 for item in fields(Settings)}
        found |= {name: text for name, text in plain.items() if text}
    return found


def keeps_answering(environment: Mapping[str, str]) -> bool:
    """Return whether a driver that does not start is to answer calls with the reason.

    Where a person starts it, it ends with the reason.
    """
    return bool(environment.get(PLAIN_NAMES) or environment.get(SUPERVISED))


def socket_path(environment: Mapping[str, str]) -> str:
    """Return the socket's path, even if other settings are unusable."""
    default = next(item for item in fields(Settings) if item.name == "socket").metadata["default"]
    return environment.get(ENV_PREFIX + "SOCKET") or str(default)


def _parse(item: Field[Any], source: str, text: str) -> Any:
    try:
        return item.metadata["parse"](text)
    except ValueError as error:
        raise SettingsError(f"{source}={text!r}: {error}") from error


def _flag(item: Field[Any]) -> str:
    return "--" + item.name.replace("_", "-")


def _read_file(path: str, *, required: bool) -> dict[str, str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if required:
            raise SettingsError(f"settings file {path} does not exist") from error
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} cannot be read: {error}") from error
    try:
        members = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings file {path}: {error}") from error
    known = {item.name for item in fields(Settings)}
    found = {}
    for key, value in members.items():
        name = key.replace("-", "_")
        if name not in known:
            raise SettingsError(f"settings file {path}: unknown setting {key!r}")
        found[name] = _as_text(path, key, value)
    return found


def _as_text(path: str, key: str, value: object) -> str:
    """Convert a TOML value to the text that the parsers read."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    raise SettingsError(f"settings file {path}: {key} must be a string, a number or a list of "
                        "strings")


def _check_together(settings: Settings) -> None:
    ports, metrics = settings.port_range, settings.metrics
    if metrics is not None and ports.first <= metrics.port <= ports.last:
        raise SettingsError(f"--metrics={metrics}: the port is one of --port-range={ports}, whose "
                            "packets are for containers; choose another one")
    if bool(settings.etcd_cert) != bool(settings.etcd_key):
        raise SettingsError("--etcd-cert and --etcd-key go together")
    if bool(settings.etcd_user) != bool(settings.etcd_password_file):
        raise SettingsError("--etcd-user and --etcd-password-file go together")
    tls = settings.etcd_ca or settings.etcd_cert
    if tls and settings.etcd[0].startswith("http:"):
        raise SettingsError(f"--etcd={settings.etcd[0]}: with --etcd-ca or --etcd-cert it must be "
                            "https://")


def describe() -> Sequence[tuple[str, str, str, str]]:
    """Return every setting's flag, variable, default and meaning, to test the documentation."""
    return [(_flag(item), ENV_PREFIX + item.name.upper(), item.metadata["default"],
             item.metadata["about"]) for item in fields(Settings)]
