#!/bin/bash
# Sets the machine up and starts an etcd if the user names none, the driver and dockerd, for
# `make up`.  It waits until all answer.  Run again, it changes only what is not as it should be.
# down.sh is its inverse.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"
need_root up
cd "$PROJECT"
[[ ! -e /usr/lib/slim/etcd-chosen ]] || die "the package slim is installed: apt-get remove slim, then make up"
scripts/setup.sh
# Charts are no reason to wait, or not to start.
! command -v npm >/dev/null || timeout 60 scripts/page.sh ||
    echo "slim: slim ui has no charts for now: make page" >&2

start_docker() {
    ! docker_answers || return 0
    if has_systemd; then
        systemctl start docker
    else
        mkdir -p "$RUN"
        : > "$RUN/our-dockerd"      # `down` stops only what was started here
        supervise dockerd dockerd
    fi
    wait_for "dockerd" 60 dockerd docker_answers
}

mount_bpffs() {     # pins outlive the driver there; systemd mounts it by itself
    mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf || die "cannot mount a bpffs at /sys/fs/bpf"
}

choose_etcd() {     # ETCD=..., else what the user or an earlier `make up` set, else an etcd of our own
    # Another etcd than before loses nothing: the driver enters what this host has, or says why
    # not.
    local before=
    if in_cluster; then
        [[ -z ${ETCD:-} ]] || die "this host is in a cluster (slim cluster status), which has an etcd of its own: slim cluster leave first"
        return 0
    fi
    [[ ! -e $UP_ENV ]] || before=$(<"$UP_ENV")
    mkdir -p "${UP_ENV%/*}"
    if [[ -n ${ETCD:-} ]]; then
        echo "SLIM_ETCD=$ETCD" > "$UP_ENV"
    elif [[ ! -e $UP_ENV ]]; then
        if grep -qsE '^[[:space:]]*etcd[[:space:]]*=' /etc/slim/slim.toml; then
            : > "$UP_ENV"
        else
            echo "SLIM_ETCD=http://127.0.0.1:$ETCD_PORT" > "$UP_ENV"
        fi
    fi
    [[ $(<"$UP_ENV") == "$before" ]] || changed=1
}

compare_code() {    # after an update of the checkout the driver starts again
    local now; now=$(find driver kernel scripts/slim requirements.txt -type f ! -name '*.pyc' -print0 |
        sort -z | xargs -0 sha256sum | sha256sum)
    mkdir -p "$RUN"
    [[ $now == "$(cat "$RUN/code" 2>/dev/null || true)" ]] || changed=1
    printf '%s\n' "$now" > "$RUN/code"
}

start_etcd() {      # only if it is the embedded one that is wanted; in a cluster, the keeper sees to it
    if has_systemd; then install_unit slim-cluster; fi
    if in_cluster; then start_cluster; return 0; fi
    if ! grep -q "127.0.0.1:$ETCD_PORT" "$UP_ENV"; then
        if has_systemd; then systemctl --quiet disable --now slim-etcd 2>/dev/null || true; fi
        unsupervise etcd
        return 0
    fi
    if has_systemd; then
        install_unit slim-etcd
        systemctl --quiet enable slim-etcd
        systemctl --no-block start slim-etcd
    else
        supervise_etcd
    fi
    wait_for "the embedded etcd" 30 etcd http_ok "127.0.0.1:$ETCD_PORT" GET /health
}

start_cluster() {   # it may be without a majority: nobody waits for that
    if has_systemd; then
        install_unit slim-etcd
        [[ ! -e $CLUSTER/etcd.env ]] || systemctl --no-block enable --now slim-etcd
        systemctl --no-block enable --now slim-cluster
    else
        [[ ! -e $CLUSTER/etcd.env ]] || supervise_etcd
        supervise cluster "$PROJECT/scripts/slim" cluster serve
    fi
}

supervise_etcd() {
    # Its folder belongs to root, so it needs no capabilities.  It must answer even while a
    # hundred containers start at once.
    supervise etcd nice -n -10 setpriv --no-new-privs --inh-caps=-all --bounding-set=-all \
        "$PROJECT/scripts/embedded-etcd.sh" "$STATE/etcd" "$ETCD_PORT"
}

install_unit() {    # with this checkout's path in it
    local new; new=$(sed "s|@PROJECT@|$PROJECT|g; s|@STATE@|$STATE|g; s|@ETCD_PORT@|$ETCD_PORT|g" \
        "packaging/$1.service")
    [[ $new != "$(cat "$UNITS/$1.service" 2>/dev/null)" ]] || return 0
    printf '%s\n' "$new" > "$UNITS/$1.service"
    systemctl daemon-reload
    changed=1
}

start_driver() {
    if has_systemd; then
        install_unit slim
        systemctl --quiet enable slim
        [[ -z $changed ]] || systemctl stop slim
        systemctl --no-block start slim     # wait_for shows the log of a start that fails
    else
        if [[ -n $changed ]]; then unsupervise slim; fi
        # `env` puts the choice of etcd into the log's first line.
        supervise slim env $(cat "$UP_ENV" 2>/dev/null) "$PROJECT/scripts/slim" serve
    fi
    wait_for "the driver" 60 slim http_ok "unix:$SOCKET" POST /Slim.Status
}

log_of() { if has_systemd; then journalctl -qn 15 -u "$1" || true; else tail -n 15 "$LOGS/$1.log"; fi; }
running() { if has_systemd; then ! systemctl --quiet is-failed "$1"; else supervised "$1"; fi; }
wait_for() {        # wait_for WHAT SECONDS SERVICE CMD...: until CMD succeeds
    local what=$1 limit_s=$2 service=$3 began_s=$SECONDS status waited_s; shift 3
    until "$@"; do
        status=$? waited_s=$((SECONDS - began_s))
        ((status != 3)) || limit_s=15   # a driver that cannot start says so; an address may come late
        if ((waited_s > limit_s)) || { ((waited_s > 2)) && ! running "$service"; }; then
            log_of "$service" >&2
            die "$what does not answer; above is the end of its log"
        fi
        sleep 0.2
    done
}

keep_managers_off() {   # NetworkManager and systemd-networkd, now and when they come
    packaging/network/install /etc
    if [[ -d /run/systemd/netif ]]; then networkctl reload 2>/dev/null || true; fi
    if [[ -d /run/NetworkManager ]]; then nmcli general reload conf 2>/dev/null || true; fi
}

changed=            # not empty: the driver must start again
mount_bpffs
if has_systemd; then keep_managers_off; fi
choose_etcd
compare_code
start_etcd
start_driver
start_docker        # last: at its start it asks for the driver of its networks, for 15 s
[[ -z $COMMAND ]] || ln -sfn "$PROJECT/scripts/slim" "$COMMAND"

cat <<TEXT
slim is up. Make a network:  docker network create -d slim --ipam-driver slim --subnet 10.32.0.0/16 app
Run containers on it:        docker run --rm -it --network app IMAGE
Checks: slim doctor; log: $(has_systemd && echo "journalctl -u slim" || echo "$LOGS/slim.log"); stop: make down
TEXT
# It may run and still have a problem: its etcd may be away, say, or belong to another cluster.
scripts/slim doctor | grep -v '^ok' >&2 || true
