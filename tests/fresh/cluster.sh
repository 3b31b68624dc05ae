#!/bin/bash
# Proves `slim cluster` as the package brings it, on a fresh machine of a release under systemd: from
# the installation to a cluster, a reboot, a backup that is restored, and back to nothing.
#
#   tests/fresh/cluster.sh [bookworm|trixie]      3 to 5 minutes, with build/deb as `make deb` left it
#
# Not part of `make test`; tests/lab/cluster has several hosts.
set -euo pipefail
RELEASE=${1:-bookworm}
# shellcheck source=tests/fresh/machine.sh
source "$(dirname "$(readlink -f "$0")")/machine.sh"

apt() { on env DEBIAN_FRONTEND=noninteractive apt-get -qy -o Dpkg::Use-Pty=0 "$@" > "$T/apt.log" 2>&1 || die "apt-get $*: $(tail -30 "$T/apt.log")"; }
active() {
    local unit
    for unit in slim slim-etcd slim-cluster docker; do
        on systemctl --quiet is-active $unit || die "$1: $unit: $(on systemctl status $unit)"
    done
    [[ -z $(on systemctl --failed --no-legend) ]] || die "$1: $(on systemctl --failed)"
}
well() {        # well WHAT: within a minute `slim cluster status` has nothing to say
    local until_s=$((SECONDS + 60))
    until on slim cluster status > "$T/status.log" 2>&1; do
        ((SECONDS < until_s)) || die "$1: $(cat "$T/status.log"; on journalctl -qn 20 -u slim-cluster -u slim-etcd)"
        sleep 0.5
    done
    active "$1"
    say "ok: $1"
}

found=(build/deb/"$RELEASE"/slim_*.deb)
[[ -e ${found[0]} ]] || die "there is no build/deb/$RELEASE: make deb"
make_root
cp "${found[0]}" "$R/root/slim/slim.deb"
boot
apt update
apt install ./slim.deb
on slim cluster init > "$T/init.log" 2>&1 || die "init: $(cat "$T/init.log"; on journalctl -qn 20 -u slim-etcd -u slim-cluster -u slim)"
grep -q "slim cluster join 10.0.2.100 SLIM-1-" "$T/init.log" || die "$(cat "$T/init.log")"
well "slim cluster init"
on docker import /root/busybox.tar bb > /dev/null; containers
talk "two containers"
halt; boot
well "after a reboot"
talk "after a reboot, two containers"
on slim cluster backup /root/backup > /dev/null
on systemctl stop slim-etcd
on slim cluster restore /root/backup > "$T/restore.log" 2>&1 || die "restore: $(cat "$T/restore.log")"
well "a backup is restored"
talk "after that, two containers"
on bash -c 'apt-get -qy install --reinstall ./slim.deb' > "$T/apt.log" 2>&1 || die "$(tail -20 "$T/apt.log")"
well "installed again"
remove
on slim cluster leave --last > /dev/null
! on systemctl --quiet is-active slim slim-etcd slim-cluster || die "a unit runs after the host has left"
on slim cluster init > /dev/null
well "begun anew"
on slim cluster leave --last > /dev/null
apt purge slim
on systemctl stop docker.socket docker
left=$(left_over)
[[ -z $left ]] || die "a purge left: $left"
say "ok: a purge leaves nothing"
