#!/bin/bash
# Runs a lab: several Docker hosts on this one machine, each with its own dockerd, joined by a
# fabric that has no way out.  It does not start the driver: its callers decide what hosts run.
#
# Needs root, iproute2, util-linux, iptables and a Docker Engine.  `down` removes everything `up`
# made, also after `up` or the programs inside were killed.  Several labs (LAB_NAME) run at once.
set -euo pipefail

NAME=${LAB_NAME:-slimlab}               # one lab, one name: names its namespaces and cgroups
STATE=${LAB_STATE:-/var/lib/$NAME}      # everything the lab writes
NET=${LAB_NET:-198.18.0}                # host hI is $NET.I, the fabric $NET.254 (RFC 2544 range)
NET6=${LAB_NET6-fd5a:18::}              # host hI is ${NET6}I; empty: no IPv6
MTU=${LAB_MTU:-1500}                    # bytes; of the fabric and every host's eth0
DOCKER=${LAB_DOCKER:-}                  # a tree with usr/sbin/dockerd, e.g. of get-docker.sh
DOCKERD_ARGS=${LAB_DOCKERD_ARGS:-}      # more arguments for every dockerd
SEEDS=${LAB_SEEDS:-}                    # folders whose content every new host's /var/lib/docker begins with
CGROUP=${LAB_CGROUP:-auto}              # hybrid (v1 and unified), v2, auto: as the machine has it
STOP_S=40                               # what `stop` gives dockerd before SIGKILL; an absent
                                        # plugin alone costs it 15 s
MAX=200                                 # hosts in a lab
BRIDGE_MAC=02:00:00:00:fa:b0            # a bridge of its own choice takes a new one when cables come and go
# Directories that every host has for itself, beside all of /run.
PRIVATE='/etc/docker /etc/slim /var/lib/docker /var/lib/containerd /var/lib/slim /var/log/slim
    /usr/lib/docker/plugins /usr/local/libexec/docker/cli-plugins'
MOUNTPOINTS=/run/slim-labs              # which of them labs had to make, and the labs that are up

SELF=$(readlink -f "${BASH_SOURCE[0]}")
# shellcheck source=tests/lab/rig/host.sh
source "${SELF%/*}/host.sh"

usage() {
    cat <<'HELP'
lab.sh up N                     bring up h1..hN, each with a dockerd; what is up stays, what died comes back
lab.sh boot HOST                bring back a host that died, without its dockerd
lab.sh down                     remove everything `up` made
lab.sh exec HOST [--] CMD...    run CMD on HOST: in all its namespaces and its cgroup
lab.sh fabric [--] CMD...       run CMD in the fabric's network namespace; `down` ends it
lab.sh stop HOST | start HOST   SIGTERM and start of dockerd alone
lab.sh crash HOST               kill HOST and all in it at once; `up` brings it back with its disk
lab.sh link HOST up|down        plug its cable in or out
lab.sh image TAG HOST... < TAR  docker import
lab.sh hosts | ip HOST | pid HOST | sock HOST | log HOST
Settings: LAB_NAME LAB_STATE LAB_NET LAB_NET6 LAB_MTU LAB_DOCKER LAB_DOCKERD_ARGS LAB_SEEDS LAB_CGROUP
HELP
}

say() { printf 'lab: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
host_dir() { printf '%s/%s' "$STATE" "$1"; }
netns() { printf '%s-%s' "$NAME" "$1"; }
in_fabric() { ip netns exec "$(netns fab)" "$@"; }
need_host() { [[ ${1:-} =~ ^h[0-9]+$ && -d $(host_dir "$1") ]] || die "no host '${1:-}' in lab $NAME"; }
hosts() {
    local d
    for d in "$STATE"/h[0-9]*; do if [[ -d $d ]]; then echo "${d##*/}"; fi; done | sort -V
}
lock() { mkdir -p "$STATE"; exec {LOCKFD}>"$STATE/lock"; flock "$LOCKFD"; }

# ---------------------------------------------------------------- fabric and cables
fabric_up() {
    [[ -e /run/netns/$(netns fab) ]] || ip netns add "$(netns fab)"
    in_fabric ip link set lo up
    # The fabric has no route to the outside, so it refuses such packets.  Without a limit on ICMP
    # it does so at once; with one, each look-up of a name or registry would hang for 5 to 10 s.
    in_fabric sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0 \
        net.ipv6.conf.all.forwarding=1 net.ipv6.icmp.ratelimit=0
    in_fabric ip link show br0 >/dev/null 2>&1 && return 0
    in_fabric ip link add br0 address "$BRIDGE_MAC" type bridge stp_state 0 forward_delay 0 mcast_snooping 0
    in_fabric sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0 \
        net.bridge.bridge-nf-call-arptables=0 2>/dev/null || true     # absent without br_netfilter
    in_fabric ip addr add "$NET.254/24" dev br0
    [[ -z $NET6 ]] || in_fabric ip -6 addr add "${NET6}fe/64" dev br0 nodad
    in_fabric ip link set br0 mtu "$MTU" up
}
cable_up() {
    local n i=${1#h}; n=$(netns "$1")
    [[ -e /run/netns/$n ]] || ip netns add "$n"
    if ! ip -n "$n" link show eth0 >/dev/null 2>&1; then
        in_fabric ip link del "$1" 2>/dev/null || true      # of a host that died
        # A card keeps its address: the driver knows its host by it after a reboot.
        ip -n "$(netns fab)" link add "$1" mtu "$MTU" type veth peer name eth0 mtu "$MTU" netns "$n" \
            address "$(printf '02:00:5e:00:53:%02x' "$i")"
        in_fabric ip link set "$1" master br0 up
        ip -n "$n" link set lo up
        ip -n "$n" addr add "$NET.$i/24" dev eth0
        [[ -z $NET6 ]] || ip -n "$n" -6 addr add "$NET6$(printf %x "$i")/64" dev eth0 nodad
        ip -n "$n" link set eth0 up
        ip -n "$n" route replace default via "$NET.254"
        [[ -z $NET6 ]] || ip -n "$n" -6 route replace default via "${NET6}fe"
    fi
    ip netns exec "$n" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
}

# ------------------------------------------------- directories made on the machine itself
# A mount needs a directory.  rmdir of one detaches the mounts that any namespace has on it, so the
# directories that labs made go only with the last lab that is up.
mountpoints_make() {
    local path part at
    mkdir -p "$MOUNTPOINTS/labs"
    exec {MPFD}>"$MOUNTPOINTS/lock"; flock "$MPFD"
    : > "$MOUNTPOINTS/labs/$NAME"
    for path in $PRIVATE; do
        at=
        while read -r -d / part; do
            at+=${part:+/$part}
            [[ -z $at || -d $at ]] || { echo "$at" >> "$MOUNTPOINTS/made"; mkdir "$at"; }
        done <<< "$path/"
    done
    exec {MPFD}>&-
}
mountpoints_remove() {
    local path
    [[ -d $MOUNTPOINTS/labs ]] || return 0
    exec {MPFD}>"$MOUNTPOINTS/lock"; flock "$MPFD"
    rm -f "$MOUNTPOINTS/labs/$NAME"
    if [[ -z $(ls "$MOUNTPOINTS/labs") && -e $MOUNTPOINTS/made ]]; then
        for path in $(tac "$MOUNTPOINTS/made"); do rmdir "$path" 2>/dev/null || true; done
        rm -f "$MOUNTPOINTS/made"
    fi
    exec {MPFD}>&-
}

# ------------------------------------------------------------------------- commands
cmd_up() {
    local n=${1:-} i
    [[ $n =~ ^[0-9]+$ ]] && (( n >= 1 && n <= MAX )) || die "up N, with N from 1 to $MAX"
    (( EUID == 0 )) || die "needs root"
    [[ -z $DOCKER || -x $DOCKER/usr/sbin/dockerd ]] || die "no dockerd under $DOCKER"
    cgroup_choose
    lock
    mountpoints_make
    fabric_up
    for i in $(seq "$n"); do host_up "h$i"; dockerd_launch "h$i"; done
    for i in $(seq "$n"); do dockerd_wait "h$i"; done
}
cgroup_choose() {
    case $CGROUP in
        auto) CGROUP=v2; [[ -z $(v1_controllers) ]] || CGROUP=hybrid ;;
        hybrid) [[ -n $(v1_controllers) ]] || die "no cgroup v1 hierarchies here: LAB_CGROUP=v2" ;;
        v2) ;;
        *) die "LAB_CGROUP is auto, hybrid or v2" ;;
    esac
}
cmd_boot() { mountpoints_make; host_up "$1"; }
cmd_down() {
    local left h
    left=$(for h in $(cgroups_of '*'); do if [[ -d $h ]]; then echo "${h##*/}"; fi; done | sort -u)
    [[ -d $STATE || -n $left || -e /run/netns/$(netns fab) ]] || { mountpoints_remove; return 0; }
    lock
    for h in $(printf '%s\n' $(hosts) $left | sort -uV); do host_remove "$h"; done
    [[ ! -e /run/netns/$(netns fab) ]] || ip netns del "$(netns fab)"
    rm -rf --one-file-system "${STATE:?}"
    mountpoints_remove
}
cmd_fabric() {
    [[ ${1:-} == -- ]] && shift
    cgroups_make fab
    cgroups_join fab
    exec ip netns exec "$(netns fab)" "$@"
}
cmd_image() {
    local tag=${1:?tag} h; shift
    local tar; tar=$(mktemp); cat > "$tar"
    exec {TARFD}<"$tar"; rm "$tar"              # gone however this ends
    for h; do
        need_host "$h"
        ( enter "$h" docker import - "$tag" < "/proc/self/fd/$TARFD" >/dev/null )
    done
}

main() {
    local c=${1:-help}; shift || true
    case $c in
        up) cmd_up "$@" ;;
        down) cmd_down ;;
        fabric) cmd_fabric "$@" ;;
        image) cmd_image "$@" ;;
        hosts) hosts ;;
        __init) host_init "$1" ;;
        help|-h|--help) usage ;;
        exec|stop|start|crash|boot|link|ip|pid|sock|log)
            need_host "${1:-}"
            local h=$1; shift
            case $c in
                exec) [[ ${1:-} == -- ]] && shift; enter "$h" "$@" ;;
                stop) lock; dockerd_stop "$h" ;;
                start) lock; dockerd_launch "$h"; dockerd_wait "$h" ;;
                crash) lock; host_kill "$h" ;;
                boot) lock; cgroup_choose; cmd_boot "$h" ;;
                link) in_fabric ip link set "$h" "$1" ;;
                ip) echo "$NET.${h#h}" ;;
                pid) init_pid "$h" && echo ;;
                sock) echo "$(host_dir "$h")/docker.sock" ;;
                log) cat "$(host_dir "$h")/dockerd.log" ;;
            esac ;;
        *) usage >&2; exit 2 ;;
    esac
}
main "$@"
