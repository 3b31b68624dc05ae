# Says, for up.sh and down.sh, where things lie and how services run without systemd.
# It is sourced, and starts and stops nothing by itself.
# shellcheck shell=bash

PROJECT=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
RUN=/run/slim               # supervisors' locks and pid files; gone with a reboot
LOGS=/var/log/slim
STATE=/var/lib/slim
CACHE=/var/cache/slim       # compiled programs (driver/datapath/build/cache.py)
UP_ENV=/etc/slim/up.env     # what `make up` was told, for the driver; `make down` forgets it
CLUSTER=/etc/slim/cluster   # of `slim cluster`, which keeps it
SOCKET=/run/docker/plugins/slim.sock
UNITS=/etc/systemd/system
DOCKER=unix:///var/run/docker.sock
COMMAND=${UP_LINK-/usr/local/bin/slim}     # link to scripts/slim; empty: none

ETCD_PORT=23790             # of the embedded etcd, loopback only; its peer port is 23800

die() { printf 'slim: %s\n' "$*" >&2; exit 1; }
need_root() { ((EUID == 0)) || die "this needs root (su -, or sudo -s): make $1"; }
has_systemd() { [[ -d /run/systemd/system ]]; }     # as sd_booted(3)
slim_networks() { command docker -H "$DOCKER" network ls -q --filter driver=slim; }
in_cluster() { [[ -e $CLUSTER/cluster.json ]]; }
docker_answers() { command docker -H "$DOCKER" version >/dev/null 2>&1; }

# A supervisor holds its lock as long as it lives.  A pid would prove less: the kernel reuses pids.
supervised() { [[ -e $RUN/$1.lock ]] && ! flock --nonblock "$RUN/$1.lock" true; }
supervise() {       # supervise NAME CMD...: start CMD and keep it running
    local name=$1; shift
    ! supervised "$name" || return 0
    mkdir -p "$RUN" "$LOGS"
    setsid "$PROJECT/scripts/supervise.sh" "$name" "$RUN" "$LOGS/$name.log" "$@" < /dev/null \
        > /dev/null 2>&1 &
    disown
}
unsupervise() {     # stop it and wait, up to 60 s
    supervised "$1" || return 0
    kill -TERM "$(<"$RUN/$1.pid")" 2>/dev/null || true
    flock --timeout 60 "$RUN/$1.lock" true || die "$1 does not stop: see $LOGS/$1.log"
}

http_ok() {         # http_ok unix:PATH|HOST:PORT METHOD PATH: is the answer 200?  3: it is a refusal
    "$PROJECT/.venv/bin/python" - "$@" <<'PYTHON'
import http.client, socket, sys
place, method, path = sys.argv[1:]
connection = http.client.HTTPConnection("localhost" if place.startswith("unix:") else place, timeout=15)
if place.startswith("unix:"):
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(15)
try:
    if connection.sock:
        connection.sock.connect(place.removeprefix("unix:"))
    connection.request(method, path)
    answer = connection.getresponse()
    answer.read()
    sys.exit({200: 0, 400: 3}.get(answer.status, 1))
except OSError:
    sys.exit(1)
PYTHON
}
