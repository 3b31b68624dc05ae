#!/bin/bash
# Proves the package's cluster on three fresh machines under systemd, of both releases of Debian:
# `init`, `join`, three members of etcd, `slim test`, containers that find each other by name, a member
# that dies.
#
#   tests/fresh/join.sh           4 to 6 minutes, with build/deb as `make deb` left it for both
#
# Not part of `make test`; tests/lab/cluster tests more, on the machine's own Debian.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"
FABRIC=slimjoin$$
W=$(mktemp -d /var/tmp/slimjoin.XXXX)
RELEASES=(bookworm trixie trixie)
NET=192.0.2             # machine i is $NET.i on a bridge between the three

machine() {             # machine I: boot it, say how to enter it, and keep it until the end
    local i=$1
    RELEASE=${RELEASES[$1 - 1]}
    # shellcheck source=tests/fresh/machine.sh
    source ./machine.sh
    make_root
    echo "host$i" > "$R/etc/hostname"
    echo "127.0.0.1 localhost host$i" > "$R/etc/hosts"
    cp build/deb/"$RELEASE"/slim_*.deb "$R/root/slim/slim.deb"
    boot
    on bash -euc 'apt-get -q update; DEBIAN_FRONTEND=noninteractive apt-get -qy install ./slim.deb
        echo "underlay = \"uplink\"" >> /etc/slim/slim.toml' > "$W/install$i.log" 2>&1 ||
        die "host$i: $(tail -5 "$W/install$i.log")"
    on docker import /root/busybox.tar busybox > /dev/null
    echo "$LEADER $NAME" > "$W/ready$i"
    while [[ -e $W && ! -e $W/halt$i ]]; do sleep 0.3; done
}
say() { printf 'join: %s\n' "$*"; }
die() { printf 'join: FAILED: %s\n' "$*" >&2; exit 1; }
typed() {               # typed I LINE: as a person types it on machine I
    local leader; read -r leader _ < "$W/ready$1"
    nsenter -t "$leader" -a -- systemd-run --pipe --wait --quiet --collect -E HOME=/root \
        -E PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c "exec 2>&1; $2"
}
until_says() {          # until_says I LINE PATTERN
    local until_s=$((SECONDS + 120))
    until typed "$1" "$2" > "$W/said" || true; grep -qE "$3" "$W/said"; do
        ((SECONDS < until_s)) || die "$2: $(cat "$W/said")"
        sleep 1
    done
}
tidy_up() {
    rm -rf "$W"
    wait
    ip netns del "$FABRIC" 2>/dev/null || true
}
trap tidy_up EXIT

for i in 1 2 3; do machine $i & done
for i in 1 2 3; do
    until [[ -e $W/ready$i ]]; do
        sleep 0.5
        (($(jobs -rp | wc -l) == 3)) || die "a machine does not come up"
    done
done
# A bridge between them, in a network namespace of its own: Docker filters what passes one of its host.
ip netns add "$FABRIC"
ip -n "$FABRIC" link add slimjoin type bridge
ip -n "$FABRIC" link set slimjoin up
for i in 1 2 3; do
    read -r _ name < "$W/ready$i"
    ip -n "$FABRIC" link add port$i type veth peer name uplink netns "$name"
    ip -n "$FABRIC" link set port$i master slimjoin up
    ip -n "$name" addr add $NET.$i/24 dev uplink
    ip -n "$name" link set uplink up
done
typed 1 "slim cluster init" > "$W/init" || die "init: $(cat "$W/init")"
line=$(grep -o "slim cluster join .*" "$W/init")
for i in 2 3; do typed $i "$line" > "$W/join$i" || die "join: $(cat "$W/join$i")"; done
until_says 1 "slim cluster status || true" "host3 .*(follower|leader) "
typed 1 "slim cluster status" > "$W/said" || die "status: $(cat "$W/said")"
cat "$W/said"
say "ok: three members, of both releases"
typed 2 "slim test" > "$W/said" || die "slim test: $(cat "$W/said")"
cat "$W/said"
grep -q "3 hosts, 3 took part; 6 of 6 ways tested" "$W/said" || die "slim test has left something out"
say "ok: all ways between the hosts work"
asks="docker run --rm --network app busybox wget -qO- http://web/"
for i in 1 3; do
    typed $i "docker network create -d slim --ipam-driver slim --subnet 10.32.0.0/16 app" > "$W/said" ||
        die "$(cat "$W/said")"
done
typed 1 "docker run -d --name web --network app busybox sh -c 'echo hello > index.html; exec httpd -f'" > "$W/said" ||
    die "$(cat "$W/said")"
until_says 3 "$asks" "^hello$"      # a name is on record some moments after its container runs
say "ok: one host reaches the other by name"
touch "$W/halt2"        # as somebody who switches it off
until_says 1 "slim cluster status || true" "host2 .* silent "
until_says 3 "$asks" "^hello$"
typed 1 "slim cluster remove host2" > "$W/said" || die "$(cat "$W/said")"
until_says 1 "slim cluster status || true" "^host1 "
say "ok: a member was switched off and removed"
typed 1 "docker rm -f web; docker network rm app" > "$W/said" || die "$(cat "$W/said")"
typed 3 "docker network rm app && slim cluster leave" > "$W/said" || die "$(cat "$W/said")"
typed 1 "slim cluster leave --last" > "$W/said" || die "$(cat "$W/said")"
say "ok: all have left"
