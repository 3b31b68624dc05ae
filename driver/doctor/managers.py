"""Checks that systemd-networkd and NetworkManager, where they run, leave slim's interfaces alone.

packaging/network has the files that tell them; `make up` and the Debian package install these.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from driver.doctor import procfs
from driver.doctor.finding import CheckError
from driver.settings import Settings

ROOT = Path("/")
PLACES = ("etc", "run", "usr/local/lib", "usr/lib")  # of files with one name the first counts
LINKS_FILE = "05-slim.network"  # networkd takes the first that matches, by name
NM_FILE = "slim.conf"
FOREIGN = ("ManageForeignRoutingPolicyRules", "ManageForeignRoutes")
NM_LIST = "unmanaged-devices"
NM_VALUE = "interface-name:sl???????????,interface-name:sc???????????,interface-name:slim-*"
NM_RELOAD = "nmcli general reload conf"
INSTALL = "`make up` installs it, or `apt-get install --reinstall slim`"
NOT_HERE = "does not run here"
_FALSE = ("0", "no", "n", "false", "f", "off")


def check_networkd(settings: Settings) -> str:
    """Check that systemd-networkd takes neither slim's interfaces nor others' rules and routes."""
    del settings
    if not procfs.runs("systemd-networkd"):
        return NOT_HERE
    _require(f"systemd/network/{LINKS_FILE}", ("Link", "Unmanaged", "yes"), "networkctl reload")
    effective = dict(_networkd_settings())
    for name in FOREIGN:
        path, value = effective.get(name, (None, ""))
        if value.lower() not in _FALSE:
            raise CheckError(
                f"systemd-networkd removes rules and routes that are not its own: {name}=no is "
                + (f"undone by {path}: correct that" if path else f"nowhere said: {INSTALL}")
                + "; then systemctl restart systemd-networkd")
    for link, ifindex in procfs.slim_links():  # it may have taken them before the file was there
        for _, said, state in _lines(ROOT / f"run/systemd/netif/links/{ifindex}"):
            if said == "ADMIN_STATE" and state in ("configuring", "configured", "failed"):
                raise CheckError(
                    f"systemd-networkd has taken {link} ({state}): `networkctl status {link}` "
                    "names the file that says so; correct that, then networkctl reload")
    return "slim's interfaces, and foreign rules and routes, are left alone"


def check_network_manager(settings: Settings) -> str:
    """Check that NetworkManager does not take slim's interfaces."""
    del settings
    if not procfs.runs("NetworkManager"):
        return NOT_HERE
    _require(f"NetworkManager/conf.d/{NM_FILE}", ("keyfile", f"{NM_LIST}+", NM_VALUE),
             NM_RELOAD)
    for path in _parts("NetworkManager/conf.d"):
        if path.name > NM_FILE and any(each[:2] == ("keyfile", NM_LIST) for each in _lines(path)):
            raise CheckError(f"{path} replaces the list of interfaces that NetworkManager leaves "
                             f"alone: say {NM_LIST}+= there; then {NM_RELOAD}")
    return "slim's interfaces are left alone"


def _require(name: str, wanted: tuple[str, str, str], reload: str) -> None:
    """Check that the file is there, and that the one that counts says so."""
    found = next((path for place in PLACES if _exists(path := ROOT / place / name)), None)
    if found is None:
        raise CheckError(f"{Path(name).name} is missing, so that it may take slim's interfaces: "
                         f"{INSTALL}; then {reload}")
    if wanted not in _lines(found):
        raise CheckError(f"{found} does not say {wanted[1]}={wanted[2]} of slim's interfaces: "
                         f"remove it; {INSTALL}; then {reload}")


def _networkd_settings() -> Iterator[tuple[str, tuple[Path, str]]]:
    """Yield each setting of networkd with the file that says it; later ones count."""
    main = next((path for place in PLACES
                 if _exists(path := ROOT / place / "systemd/networkd.conf")), None)
    for path in (*([main] if main else []), *_parts("systemd/networkd.conf.d")):
        for section, name, value in _lines(path):
            if section == "Network":
                yield name, (path, value)


def _parts(folder: str) -> list[Path]:
    """Return a folder's files in the order in which they are read, without hidden ones."""
    found: dict[str, Path] = {}
    for place in PLACES:
        for path in (ROOT / place / folder).glob("*.conf"):
            found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _lines(path: Path) -> list[tuple[str, str, str]]:
    """Return a file's settings: section, name, value; none, if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    section, found = "", []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            found.append((section, name.strip(), value.strip()))
    return found
