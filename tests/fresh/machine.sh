# A machine of a fresh Debian under systemd, for run.sh and deb.sh, which source this and set RELEASE.
#
# It is a systemd-nspawn container with its own trees.  It reaches the mirror (MIRROR=...) and pip's
# index (this machine's /etc/pip.conf and certificates) through slirp4netns.
# shellcheck shell=bash
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."
export MIRROR=${MIRROR:-$(tests/support/debian-mirror.sh)}
NAME=slimfresh$BASHPID   # a script may have several machines, each in a subshell
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
make_root() {
    cp -a "$(scripts/debian-root.sh "$RELEASE")" "$R"
    echo fresh | tee "$R/etc/hostname" | sed 's/^/127.0.0.1 localhost /' > "$R/etc/hosts"
    echo "nameserver 10.0.2.3" > "$R/etc/resolv.conf"
    printf '%s\n' 'auto lo tap0' 'iface lo inet loopback' 'iface tap0 inet static' \
        '  address 10.0.2.100/24' '  gateway 10.0.2.2' > "$R/etc/network/interfaces"
    echo "deb [check-valid-until=no] $MIRROR $RELEASE main" > "$R/etc/apt/sources.list"
    cp /usr/local/share/ca-certificates/*.crt "$R/usr/local/share/ca-certificates/" 2>/dev/null || true
    chroot "$R" update-ca-certificates > /dev/null 2>&1
    # PID 1 mounts it by itself, but not in a container.  And the kernel's settings and modules are the
    # machine's.
    printf '%s\n' '[Unit]' DefaultDependencies=no Before=sysinit.target '[Service]' Type=oneshot \
        'ExecStart=mount -t bpf bpf /sys/fs/bpf' > "$R/etc/systemd/system/bpffs.service"
    mkdir -p "$R/etc/systemd/system/sysinit.target.wants" "$R/root/slim"
    ln -s ../bpffs.service "$R/etc/systemd/system/sysinit.target.wants/"
    ln -s /dev/null "$R/etc/systemd/system/systemd-sysctl.service"
    ln -s /dev/null "$R/etc/systemd/system/systemd-modules-load.service"
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
left_over() {       # what a machine without slim does not have
    on bash -c 'systemctl list-unit-files --no-legend "slim*"; ls -d /{etc,run,var/lib,var/log,var/cache,usr/lib}/slim \
        /run/docker/plugins/slim.sock /usr/local/bin/slim /usr/bin/slim 2>/dev/null; ip -o link | grep "slim\|: s[lc][0-9a-f]"
        find /etc /usr/lib/systemd /usr/lib/NetworkManager -name "*slim*" 2>/dev/null
        find /sys/fs/bpf -mindepth 1 ! -name "*.debug"; tc filter show dev tap0 ingress; true'
}
