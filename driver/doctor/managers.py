"""Checks that systemd-networkd and NetworkManager, where they run, leave slim's interfaces alone.

packaging/network has the files that tell them; `make up` and the Debian package install these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from driver.doctor import procfs
from driver.doctor.finding import CheckError
from driver.settings import Settings

ROOT = Path("/")
PLACES = ("etc", "run", "usr/local/lib", "usr/lib")  # of files with one name the first counts
LINKS_FILE = "05-slim.network"  # networkd takes the first that matches, by name
NM_FILE = "slim.conf"
FOREIGN = ("ManageForeignRoutingPolicyRules", "ManageForeignRoutes")
INSTALL = "`make up` installs it, or `apt-get install --reinstall slim`"
NOT_HERE = "does not run here"
_FALSE = ("0", "no", "n", "false", "f", "off")


def check_networkd(settings: Settings) -> str:
    """Check that systemd-networkd takes neither slim's interfaces nor others' rules and routes."""
    del settings
    if not procfs.runs("systemd-networkd"):
        return NOT_HERE
    _require(f"systemd/network/{LINKS_FILE}", ("Link", "Unmanaged", "yes"), "networkctl reload")
    said = dict(_networkd_settings())
    for name in FOREIGN:
        path, value = said.get(name, (None, ""))
        if value.lower() not in _FALSE:
            raise CheckError(
                f"systemd-networkd removes rules and routes that are not its own: {name}=no is "
                + (f"undone by {path}: correct that" if path else f"nowhere said: {INSTALL}")
                + "; then systemctl restart systemd-networkd")
    _not_taken("systemd/netif/links", "ADMIN_STATE", ("configuring", "configured", "failed"),
               "networkctl status")
    return "slim's interfaces, and foreign rules and routes, are left alone"


def check_network_manager(settings: Settings) -> str:
    """Check that NetworkManager does not take slim's interfaces."""
    del settings
    if not procfs.runs("NetworkManager"):
        return NOT_HERE
    _require(f"NetworkManager/conf.d/{NM_FILE}", ("device-slim", "managed", "0"),
             "nmcli general reload conf")
    _not_taken("NetworkManager/devices", "managed", ("1", "true"), "nmcli device show")
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
    parts: dict[str, Path] = {}
    for place in PLACES:
        for path in (ROOT / place / "systemd/networkd.conf.d").glob("*.conf"):
            parts.setdefault(path.name, path)
    for path in (*([main] if main else []), *(parts[name] for name in sorted(parts))):
        for section, name, value in _lines(path):
            if section == "Network":
                yield name, (path, value)


def _not_taken(folder: str, name: str, taken: Iterable[str], show: str) -> None:
    """Check what the manager notes of slim's interfaces: it may know them from before the file."""
    for link, ifindex in procfs.slim_links():
        state = ROOT / "run" / folder / str(ifindex)
        said = [value for _, each, value in _lines(state) if each == name]
        if said and said[-1] in taken:
            raise CheckError(f"{link} has been taken ({name}={said[-1]} in {state}): see "
                             f"`{show} {link}` for the file that says so")


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
