"""Checks this host's part of a cluster made by `slim cluster`: members, keepers, certificates."""

from __future__ import annotations

import time
from pathlib import Path

from driver.doctor.finding import CheckError
from driver.settings import Settings


def check_cluster(settings: Settings) -> str:
    """Check what `slim cluster status` does."""
    from driver.cluster.folder import ClusterFolder  # noqa: PLC0415
    from driver.commands.cluster.status import complaints, look  # noqa: PLC0415

    folder = ClusterFolder(Path(settings.cluster))
    if not folder.exists:
        return "none of `slim cluster`"
    found = look(folder)
    if wrong := complaints(found, time.time()):
        raise CheckError("\n".join(wrong))
    return f"{found.me.cluster_name}, {len(found.hosts or ())} hosts, {len(found.members)} members"
