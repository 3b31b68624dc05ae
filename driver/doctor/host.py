"""Checks this machine: its kernel, its file systems, BCC and the programs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from driver.doctor import procfs
from driver.doctor.finding import CheckError, Finding, one_line
from driver.settings import Settings

NOT_NEEDED = "not needed: the programs came compiled"
KERNEL_MINIMUM = (6, 1)  # Debian 12; what the programs are tested with


def check_root(settings: Settings) -> str:
    """Check for root: only root may load programs and make links."""
    del settings
    if os.geteuid() != 0:
        raise CheckError("run as root (su -, or sudo -s): slim doctor")
    return ""


def check_kernel(settings: Settings) -> str:
    """Check the kernel's version; the hooks show what it really can do."""
    del settings
    release = os.uname().release
    if procfs.kernel_version(release) < KERNEL_MINIMUM:
        wanted = ".".join(map(str, KERNEL_MINIMUM))
        raise CheckError(f"this is Linux {release}; {wanted} or later is needed")
    return release


def check_cgroup(settings: Settings) -> str:
    """Check for a cgroup v2 tree, also beside v1 trees."""
    mounts = procfs.mounts()
    if settings.cgroup:
        mount = procfs.mount_of(settings.cgroup, mounts)
        if not Path(settings.cgroup).is_dir() or mount is None or mount.kind != "cgroup2":
            raise CheckError(f"--cgroup={settings.cgroup} is no folder of a cgroup2 file system")
        return settings.cgroup
    found = [mount.path for mount in mounts if mount.kind == "cgroup2"]
    if not found:
        raise CheckError("no cgroup2 file system is mounted: mkdir -p /sys/fs/cgroup/unified && "
                      "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
    return found[0]


def check_bpffs(settings: Settings) -> str:
    """Check the bpffs, which holds the pins while the driver does not run."""
    mount = procfs.mount_of(settings.bpffs, procfs.mounts())
    if mount is None or mount.kind != "bpf":
        raise CheckError(f"no bpf file system at {settings.bpffs}: "
                      f"mount -t bpf bpf {settings.bpffs}")
    return settings.bpffs


def check_bcc(settings: Settings) -> str:
    """Check the BPF Compiler Collection's binding, which is not PyPI's package of that name."""
    del settings
    from driver.datapath.build.cache import shipped_unit  # noqa: PLC0415
    from driver.datapath.code.programs import BCC_COMES_FROM  # noqa: PLC0415

    if shipped_unit() is not None:
        return NOT_NEEDED
    found = importlib.util.find_spec("bcc")
    if found is None:
        raise CheckError(f"there is no bcc here: {BCC_COMES_FROM}")
    if importlib.util.find_spec("bcc.libbcc") is None:
        raise CheckError(f"{found.origin} is another project of that name: pip uninstall bcc")
    return str(Path(found.origin or "").parent)


def check_headers(settings: Settings) -> str:
    """Check for headers of the kernel's API; any version will do."""
    del settings
    from driver.datapath.build.cache import shipped_unit  # noqa: PLC0415
    from driver.datapath.build.headers import UAPI, header_tree  # noqa: PLC0415
    from driver.datapath.code.programs import KERNEL_FOLDER  # noqa: PLC0415

    if shipped_unit() is not None:
        return NOT_NEEDED
    with header_tree(KERNEL_FOLDER):
        return str(UAPI / "linux")


def hooks(settings: Settings) -> Iterator[Finding]:
    """Check each program by really compiling and loading it."""
    pins = Path(settings.bpffs) / f"slim-doctor-{os.getpid()}"
    try:
        from driver.datapath.build.probe import probe  # noqa: PLC0415

        for name, error in probe(pins):
            yield Finding("hook", None if error is None else one_line(f"{name}: {error}"), name)
    except Exception as error:
        yield Finding("hook", one_line(f"cannot be loaded: {error}"))
