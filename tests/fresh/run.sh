#!/bin/bash
# Proves that the README is enough on a fresh Debian 12 under systemd: it takes HEAD of this
# checkout through `make up`, a reboot, another etcd and `make down`, and looks only at what a user
# sees.
#
#   tests/fresh/run.sh            3 to 6 minutes; the first time 3 more for debootstrap
#
# The machine is a systemd-nspawn container with its own trees.  It reaches the mirror (MIRROR=...)
# and pip's index (this machine's /etc/pip.conf and certificates) through slirp4netns.  Not part of
# `make test`.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
MIRROR=${MIRROR:-$(tests/support/debian-mirror.sh)}
BASE=${FRESH_CACHE:-/var/cache/slim-fresh}/bookworm
NAME=slimfresh$$
T=$(mktemp -d "/var/tmp/$NAME.XXXX")
R=$T/root
cgroups=("$(findmnt -nro TARGET -t cgroup2 | head -1)/$NAME")
[[ ! -d /sys/fs/cgroup/systemd ]] || cgroups+=("/sys/fs/cgroup/systemd/$NAME")

say() { printf 'fresh: %s\n' "$*"; }
die() { printf 'fresh: FAILED: %s\n' "$*" >&2; exit 1; }
((EUID == 0)) || die "this needs root"
for p in debootstrap systemd-nspawn slirp4netns; do
    command -v $p >/dev/null || die "$p is missing: apt-get install debootstrap systemd-container slirp4netns"
done
make_base() {       # what Debian's installer gives at least: no make, no sudo, no git, no Python
    [[ ! -e $BASE/.done ]] || return 0
    say "debootstrap into $BASE"
    rm -rf "$BASE"; mkdir -p "$BASE"
    debootstrap --variant=minbase --include=ca-certificates,dbus,ifupdown,iproute2,systemd-sysv \
        bookworm "$BASE" "$MIRROR" > "$T/debootstrap.log" || die "debootstrap: $(tail -3 "$T/debootstrap.log")"
    touch "$BASE/.done"
}
make_root() {
    cp -a "$BASE" "$R"
    echo fresh | tee "$R/etc/hostname" | sed 's/^/127.0.0.1 localhost /' > "$R/etc/hosts"
    echo "nameserver 10.0.2.3" > "$R/etc/resolv.conf"
    printf '%s\n' 'auto lo tap0' 'iface lo inet loopback' 'iface tap0 inet static' \
        '  address 10.0.2.100/24' '  gateway 10.0.2.2' > "$R/etc/network/interfaces"
    echo "deb [check-valid-until=no] $MIRROR bookworm main" > "$R/etc/apt/sources.list"
    cp /etc/pip.conf "$R/etc/" 2>/dev/null || true
    cp /usr/local/share/ca-certificates/*.crt "$R/usr/local/share/ca-certificates/" 2>/dev/null || true
    chroot "$R" update-ca-certificates > /dev/null 2>&1
    # PID 1 mounts it by itself, but not in a container.  And the kernel's settings are the machine's.
    printf '%s\n' '[Unit]' DefaultDependencies=no Before=sysinit.target '[Service]' Type=oneshot \
        'ExecStart=mount -t bpf bpf /sys/fs/bpf' > "$R/etc/systemd/system/bpffs.service"
    mkdir -p "$R/etc/systemd/system/sysinit.target.wants"
    ln -s ../bpffs.service "$R/etc/systemd/system/sysinit.target.wants/"
    ln -s /dev/null "$R/etc/systemd/system/systemd-sysctl.service"
    mkdir "$R/root/slim"; git -c safe.directory='*' archive HEAD | tar -x -C "$R/root/slim"
    .venv/bin/python -c 'import sys; from tests.lab.rig import images; sys.stdout.buffer.write(images.busybox())' \
        > "$R/root/busybox.tar"
}
boot() {            # a network namespace for each boot: the kernel of a machine forgets its links, too
    ip netns add $NAME; slirp4netns --netns-type=path --mtu=1500 /run/netns/$NAME tap0 > "$T/slirp.log" 2>&1 & SLIRP=$!
    ( for c in "${cgroups[@]}"; do mkdir -p "$c"; echo $BASHPID > "$c/cgroup.procs"; done
      export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes
      exec systemd-nspawn --quiet --directory="$R" --machine=$NAME --boot --register=no --keep-unit \
        --network-namespace-path=/run/netns/$NAME --capability=all --resolv-conf=off --timezone=off \
        --link-journal=no --system-call-filter="bpf perf_event_open keyctl add_key" --console=pipe
    ) < /dev/null > "$T/console.log" 2>&1 & NSPAWN=$!
    for _ in $(seq 300); do
        LEADER=$(pgrep -P $NSPAWN) && on systemctl is-system-running --wait > /dev/null 2>&1 && return
        kill -0 $NSPAWN 2>/dev/null || break
        sleep 0.2
    done
    die "it does not boot: $(tail -5 "$T/console.log"; on systemctl --failed 2>&1)"
}
on() { nsenter -t "$LEADER" -a -- systemd-run --pipe --wait --quiet --collect -p WorkingDirectory=/root/slim \
    -E HOME=/root -E PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
halt() {            # ends with the machine; nspawn leaves at a reboot, too
    [[ -n ${NSPAWN:-} ]] || return 0
    nsenter -t "$LEADER" -a -- systemctl reboot 2>/dev/null || kill -KILL "$LEADER" 2>/dev/null || true
    wait $NSPAWN || true
    kill "$SLIRP" 2>/dev/null && wait "$SLIRP" || true; ip netns del $NAME
    for c in "${cgroups[@]}"; do find "$c" -depth -type d -exec rmdir {} + ; done
    NSPAWN=
}
trap 'halt; rm -rf --one-file-system "$T"' EXIT

talk() {            # two containers of one host, whose packets are handed over as they are
    on bash -euc 'a=$(docker inspect -f "{{.NetworkSettings.Networks.app.IPAddress}}" web)
        before=$(slim counters | sed -n "s/^local *//p")
        docker exec peer sh -c "printf \"GET / HTTP/1.0\r\n\r\n\" | timeout 5 nc $a 80" | grep -q hello
        (( $(slim counters | sed -n "s/^local *//p") == before + 1 ))' || die "$1: web does not answer, or not by the short way"
    say "ok: $1"
}
containers() {
    on bash -euc 'docker network create -d slim --ipam-driver slim --subnet 10.32.0.0/16 app
        docker run -d --name web --restart=always --network app bb sh -c "echo hello > /tmp/index.html; exec httpd -f -h /tmp"
        docker run -d --name peer --restart=always --init --network app bb sleep 1000000' > /dev/null
}
remove() { on bash -c 'docker rm -f web peer && docker network rm app' > /dev/null; }
make_base; make_root; boot
on bash -c 'apt-get -q update && apt-get -qy install make' > "$T/apt.log" 2>&1 || die "$(tail -3 "$T/apt.log")"
on make up > "$T/up.log" 2>&1 || die "make up: $(tail -20 "$T/up.log")"
on systemctl --quiet is-active slim slim-etcd docker || die "a unit is not active"
! on systemctl --quiet is-active etcd || die "Debian's etcd was started"
on slim doctor > /dev/null || die "$(on slim doctor)"
say "ok: make up"
on docker import /root/busybox.tar bb > /dev/null; containers
talk "two containers"
driver=$(on systemctl show -P MainPID slim)
on make up > /dev/null
[[ $(on systemctl show -P MainPID slim) == "$driver" ]] || die "a second make up started the driver again"
halt; boot
talk "after a reboot"
on systemd-run --quiet --unit=other etcd --data-dir /var/tmp/other --advertise-client-urls http://10.0.2.100:2379 \
    --listen-client-urls http://10.0.2.100:2379
on make up ETCD=http://10.0.2.100:2379 > /dev/null
talk "another etcd, containers that ran"
remove; containers
talk "another etcd, new containers"
remove
on make down PURGE=1 > /dev/null
left=$(on bash -c 'systemctl list-unit-files --no-legend "slim*"; ls -d /{etc,run,var/lib,var/log}/slim \
    /run/docker/plugins/slim.sock /usr/local/bin/slim 2>/dev/null; ip -o link | grep "slim\|: s[lc][0-9a-f]"
    find /sys/fs/bpf -mindepth 1 ! -name "*.debug"; tc filter show dev tap0 ingress; true')
[[ -z $left ]] || die "make down PURGE=1 left: $left"
say "ok: make down PURGE=1 leaves nothing"
