"""Prepares what a lab's hosts begin with: images and the plugin, as a dockerd has stored them.

Unpacking them on each host of each test process took minutes of computing.  Hosts have hard links
to these files instead (LAB_SEEDS of lab.sh).
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.lab.rig import images, standard_images
from tests.lab.rig.hosts import LAB_SH, Host, lab_of_this_process, run

FOLDER = Path("/var/cache/slim-tests/seeds")
KEPT = 6  # for three releases, images and plugin each; older seeds are removed
BUSYBOX, TOOLS, SERVERS = "busybox", "tools", "servers"  # image tags
# An image depends on these files, and on this machine's Debian packages.
_HERE = Path(__file__).parent
_SOURCES = (Path(__file__), _HERE / "images.py", _HERE / "standard_images.py",
            *sorted((_HERE / "programs").rglob("*.py")))
_PACKAGES = Path("/var/lib/dpkg/status")


def images_seed(tree: str) -> Path:
    """Return the seed with the tests' images, but for those that must be downloaded.

    tree: of the Docker release.
    """
    def load(host: Host) -> None:
        host.lab.load_image(BUSYBOX, images.busybox())
        host.lab.load_image(TOOLS, images.tools())
        host.lab.load_image(SERVERS, images.servers())
        standard_images.load_standard_images(host.lab)

    return _stored(tree, ("image", "overlay2"), (*_SOURCES, _PACKAGES), load)


def plugin_seed(tree: str, name: str, plugin: Path, stamp: Path) -> Path:
    """Return the seed with the plugin, created and not yet enabled.

    plugin: what scripts/plugin.sh has built; stamp: a file that changes with it.
    """
    def create(host: Host) -> None:
        run(["docker", "plugin", "create", name, str(plugin)], timeout_s=300,
            env={**host.lab.env, "DOCKER_HOST": host.docker_socket})

    return _stored(tree, ("plugins",), (Path(__file__), stamp), create)


def _stored(tree: str, parts: Iterable[str], sources: Iterable[Path],
            fill: Callable[[Host], None]) -> Path:
    """Return a folder with these parts of /var/lib/docker; make it if it does not exist."""
    digest = hashlib.sha256(f"{tree} {' '.join(parts)}".encode())
    for source in sources:
        digest.update(source.read_bytes())
    folder = FOLDER / digest.hexdigest()[:16]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # only one test process fills it
        if not folder.exists():
            _fill(tree, parts, folder, fill)
        folder.touch()
        made = [path for path in FOLDER.iterdir() if path.is_dir()]
        for old in sorted(made, key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old)
    return folder


def _fill(tree: str, parts: Iterable[str], folder: Path, fill: Callable[[Host], None]) -> None:
    with lab_of_this_process("slimseed", tree) as lab:
        host, = lab.up(1)
        fill(host)
        run([str(LAB_SH), "stop", host.name], env=lab.env)
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name in parts:
            run(["mv", f"{host.folder}/fs/var/lib/docker/{name}", str(part)])
    part.rename(folder)
