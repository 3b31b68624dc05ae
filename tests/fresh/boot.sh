#!/bin/bash
# Proves that forty containers with restart policies run again by themselves after a power cut of a
# fresh Debian 12 under systemd, five of them with the addresses that they name, and what dockerd
# does meanwhile if the driver cannot start.
#
#   tests/fresh/boot.sh           5 to 8 minutes; the first time 3 more for debootstrap
#
# Not part of `make test`; tests/lab/restarts/test_boot_with_many.py has the other cases.
set -euo pipefail
RELEASE=bookworm
# shellcheck source=tests/fresh/machine.sh
source "$(dirname "$(readlink -f "$0")")/machine.sh"
COUNT=40

power_cut() { kill -KILL "$LEADER"; halt; boot; }   # everything in the machine ends with its PID 1
running() { on docker ps -q | wc -l; }
fixed() {           # name and address of the five
    on bash -c 'for i in 1 2 3 4 5; do
        docker inspect -f "{{.Name}} {{.NetworkSettings.Networks.app.IPAddress}}" fixed-$i; done'
}
all_run() {         # all_run WHAT: with no command typed
    local i
    for i in $(seq 240); do
        [[ $(running) != "$COUNT" ]] || break
        sleep 0.5
    done
    [[ $(running) == "$COUNT" ]] || die "$1: $(running) containers run: $(on docker ps -a | tail -3; on slim status)"
    [[ $(fixed) == "$addresses" ]] || die "$1: addresses have changed: $(fixed)"
    talk "$1"
}
never_in_vain() {   # dockerd's last wait for a plugin that it does not find: 15 s each time
    ! on journalctl -b -u docker | grep "Unable to .* plugin.*retrying in 8s" || die "$1: dockerd waited"
}

make_root
cp /etc/pip.conf "$R/etc/" 2>/dev/null || true
git -c safe.directory='*' archive HEAD | tar -x -C "$R/root/slim"
boot
on bash -c 'apt-get -q update && apt-get -qy install make' > "$T/apt.log" 2>&1 || die "$(tail -3 "$T/apt.log")"
on make up > "$T/up.log" 2>&1 || die "make up: $(tail -20 "$T/up.log")"
on docker import /root/busybox.tar bb > /dev/null
# So small a subnet that others would soon be given the five's addresses.
on bash -euc 'docker network create -d slim --ipam-driver slim --subnet 10.32.0.0/26 app
    run() { docker run -d --restart=always --init --network app --name "$@"; }
    for i in 1 2 3 4 5; do run fixed-$i --ip 10.32.0.$((i * 11)) bb sleep 1000000; done
    run web bb sh -c "echo hello > /tmp/index.html; exec httpd -f -h /tmp"
    run peer bb sleep 1000000
    for i in $(seq 33); do run other-$i bb sleep 1000000; done' > /dev/null
addresses=$(fixed)
all_run "forty containers"
power_cut
all_run "after a power cut"
never_in_vain "after a power cut"

echo 'port_range = "7000"' > "$R/etc/slim/slim.toml"
power_cut
on docker info > /dev/null
never_in_vain "with a wrong setting"
(($(running) == 0)) || die "with a wrong setting containers run"
on systemctl status slim | grep -q "slim does not start.*port_range" || die "$(on systemctl status slim)"
say "ok: with a wrong setting dockerd goes on, and systemctl says what is wrong"
rm "$R/etc/slim/slim.toml"      # and nothing else
all_run "the setting is corrected"

# Docker 20.10 may have counted the endpoints wrongly (docs/compatibility.md); here it counts anew.
on bash -euc 'docker rm -f $(docker ps -aq); systemctl restart docker; docker network rm app' > /dev/null
on make down PURGE=1 > /dev/null
left=$(left_over)
[[ -z $left ]] || die "make down PURGE=1 left: $left"
say "ok: make down PURGE=1 leaves nothing"
