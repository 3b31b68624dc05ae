"""Makes stand-ins for the official images that the examples name, from this machine's packages.

They have those images' commands, paths and variables as far as the examples use them, so the
examples run as shipped.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.lab.rig.hosts import Host, Lab
from tests.lab.rig.images import PYTHON, Image, postgresql

_NGINX_CONF = """\
user nobody nogroup;
pid /run/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    include /etc/nginx/conf.d/*.conf;
}
"""

_NGINX_SITE = """\
server {
    listen 80;
    location / { root /usr/share/nginx/html; }
}
"""

# The official image, too, serves without a password unless told otherwise.
_REDIS_ENTRYPOINT = """\
#!/bin/sh
[ "$1" != redis-server ] || set -- "$@" --protected-mode no
cd /data
exec "$@"
"""

_POSTGRES_ENTRYPOINT = """\
#!/bin/sh
set -eu
[ "$1" = postgres ] || exec "$@"
if [ "$(id -u)" = 0 ]; then
    [ -z "${POSTGRES_PASSWORD_FILE:-}" ] || POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
    export POSTGRES_PASSWORD
    mkdir -p "$PGDATA" /var/run/postgresql
    chown -R nobody:nogroup "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    exec /usr/local/bin/setpriv --reuid=65534 --regid=65534 --clear-groups "$0" "$@"
fi
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    printf '%s\\n' "${POSTGRES_PASSWORD:?}" > /tmp/password
    initdb -U postgres --auth-local=trust --auth-host=scram-sha-256 --pwfile=/tmp/password \\
        --no-sync --locale=C -E UTF8
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    for script in /docker-entrypoint-initdb.d/*.sql; do
        [ ! -e "$script" ] || postgres --single -j postgres < "$script"
    done
fi
exec "$@" -h '*'
"""


def _nginx() -> bytes:
    image = Image()
    image.busybox()
    image.command("nginx")
    image.text("etc/nginx/nginx.conf", _NGINX_CONF)
    image.text("etc/nginx/conf.d/default.conf", _NGINX_SITE)
    image.text("usr/share/nginx/html/index.html", "Welcome to nginx!\n")
    for folder in ("log", "lib"):
        image.text(f"var/{folder}/nginx/.keep", "")
    return image.packed()


def _redis() -> bytes:
    image = Image()
    image.busybox()
    for name in ("redis-server", "redis-cli"):
        image.command(name)
    image.text("data/.keep", "")
    image.text("entrypoint.sh", _REDIS_ENTRYPOINT, 0o755)
    return image.packed()


def _postgres() -> bytes:
    image = Image()
    image.busybox()
    for name in ("bash", "setpriv"):
        image.command(name)
    postgresql(image)
    image.text("entrypoint.sh", _POSTGRES_ENTRYPOINT, 0o755)
    return image.packed()


def _python() -> bytes:
    image = Image()
    image.busybox()
    image.program(PYTHON)
    image.link("usr/local/bin/python3", PYTHON)
    image.tree("/usr/lib/python3.11")
    return image.packed()


@dataclass(frozen=True)
class _Standard:
    """How to make an image, and what it runs."""

    make: Callable[[], bytes]
    command: list[str]
    entrypoint: list[str]
    environment: str = ""

    @functools.cached_property
    def tar(self) -> bytes:
        return self.make()

    def changes(self) -> list[str]:
        lines = [f"CMD {json.dumps(self.command)}", f"ENTRYPOINT {json.dumps(self.entrypoint)}"]
        if self.environment:
            lines.append(f"ENV {self.environment}")
        return [word for line in lines for word in ("--change", line)]


_IMAGES = {
    "nginx:1": _Standard(_nginx, ["nginx", "-g", "daemon off;"], []),
    "redis:7": _Standard(_redis, ["redis-server"], ["/entrypoint.sh"]),
    "postgres:16": _Standard(_postgres, ["postgres"], ["/entrypoint.sh"],
                             "PGDATA=/var/lib/postgresql/data"),
    "python:3-slim": _Standard(_python, ["python3"], []),
}


def load_standard_images(lab: Lab) -> None:
    """Load the images on all hosts that lack them."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(_load, lab.hosts))


def _load(host: Host) -> None:
    have = host.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    for tag, image in _IMAGES.items():
        if tag not in have:
            host.docker("import", *image.changes(), "-", tag, data=image.tar)
