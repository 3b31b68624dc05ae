#!/bin/bash
# Proves that the README is enough on a fresh Debian 12 under systemd: it takes HEAD of this
# checkout through `make up`, a reboot, another etcd and `make down`, and looks only at what a user
# sees.
#
#   tests/fresh/run.sh            3 to 6 minutes; the first time 3 more for debootstrap
#
# Not part of `make test`.
set -euo pipefail
RELEASE=bookworm
# shellcheck source=tests/fresh/machine.sh
source "$(dirname "$(readlink -f "$0")")/machine.sh"

make_root
cp /etc/pip.conf "$R/etc/" 2>/dev/null || true
git -c safe.directory='*' archive HEAD | tar -x -C "$R/root/slim"
boot
on bash -c 'apt-get -q update && apt-get -qy install make' > "$T/apt.log" 2>&1 || die "$(tail -3 "$T/apt.log")"
on make up > "$T/up.log" 2>&1 || die "make up: $(tail -20 "$T/up.log")"
on systemctl --quiet is-active slim slim-etcd docker || die "a unit is not active"
! on systemctl --quiet is-active etcd || die "Debian's etcd was started"
on slim doctor > /dev/null || die "$(on slim doctor)"
on test -e /etc/systemd/network/05-slim.network || die "systemd-networkd may take slim's links"
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
left=$(left_over)
[[ -z $left ]] || die "make down PURGE=1 left: $left"
say "ok: make down PURGE=1 leaves nothing"
