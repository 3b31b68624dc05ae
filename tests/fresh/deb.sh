#!/bin/bash
# Proves the Debian package on a fresh machine of a release under systemd: installation without
# network, an upgrade and a downgrade under an open connection, a reboot, removals, purge.
#
#   tests/fresh/deb.sh [bookworm|trixie]      6 to 9 minutes, with build/deb as `make deb` left it
#
# Not part of `make test`.
set -euo pipefail
RELEASE=${1:-bookworm}
# shellcheck source=tests/fresh/machine.sh
source "$(dirname "$(readlink -f "$0")")/machine.sh"

apt() { on env DEBIAN_FRONTEND=noninteractive apt-get -qy -o Dpkg::Use-Pty=0 "$@" > "$T/apt.log" 2>&1 || die "apt-get $*: $(tail -30 "$T/apt.log")"; }
said() { grep -q "$1" "$T/apt.log" || die "apt does not say \"$1\": $(tail -30 "$T/apt.log")"; }
pid() { on systemctl show -P MainPID "$1"; }
well() { # the unit system has no failure, and dpkg nothing half done
    [[ -z $(on systemctl --failed --no-legend) ]] || die "$1: $(on systemctl --failed)"
    [[ -z $(on dpkg --audit) ]] || die "$1: $(on dpkg --audit)"
}
until_ok() { # until_ok SECONDS CMD...
    local until_s=$((SECONDS + $1)); shift
    until on "$@" > "$T/last.log" 2>&1; do ((SECONDS < until_s)) || die "$*: $(tail -5 "$T/last.log")"; sleep 0.5; done
}
hold_open() { # a connection from peer to web, with a line in each direction ten times a second
    on bash -euc 'docker exec -d web nc -l -p 9000 -e cat
        a=$(docker inspect -f "{{.NetworkSettings.Networks.app.IPAddress}}" web); sleep 1
        docker exec -d peer sh -c "(while echo x; do usleep 100000; done) | nc $a 9000 > /tmp/echoed"'
    goes_on "a connection is opened"
}
goes_on() { # the one connection that there ever was has more echoes than before
    on bash -euc 'count() { docker exec peer sh -c "wc -l < /tmp/echoed"; }; before=$(count)
        for i in $(seq 50); do (( $(count) <= before + 5 )) || exit 0; sleep 0.1; done; exit 1' ||
        die "$1: the open connection does not go on"
    say "ok: $1"
}
sees() { # what the unit's rights must allow: the one connection, the way of another, metrics, sockets for
    # `slim test`; and what `slim support` collects of all that
    local line
    line=$(on slim ss peer)
    [[ $line == *peer*:9000*web*local*ESTAB* ]] || die "$1: slim ss: $line"
    line=$(on slim why peer web:80)
    [[ $line == "directly, on this host"* ]] || die "$1: slim why: $line"
    line=$(on slim metrics | grep '^slim_endpoints ' || true)
    [[ $line == "slim_endpoints 2.0" ]] || die "$1: slim metrics: $line"
    on slim test --json > "$T/test.log" || die "$1: slim test: $(cat "$T/test.log")"
    grep -q '"all_well": true' "$T/test.log" || die "$1: slim test: $(cat "$T/test.log")"
    on bash -euc 'slim support /root/support.tar.gz; cd /root; tar -xf support.tar.gz' > "$T/support.log" 2>&1 ||
        die "$1: slim support: $(cat "$T/support.log")"
    on grep -q "slim.*Docker network driver" /root/support/log || die "$1: slim support has not the journal"
    ! on grep -r "not to be had" /root/support || die "$1: slim support lacks something"
    on rm -r /root/support /root/support.tar.gz
    say "ok: $1: connections, a way, metrics, a test and a bundle are seen"
}
reserved() { on cat /proc/sys/net/ipv4/ip_local_reserved_ports; }

found=(build/deb/"$RELEASE"/slim_*.deb)
[[ -e ${found[0]} ]] || die "there is no build/deb/$RELEASE: make deb"
make_root
cp "${found[0]}" "$R/root/slim/slim.deb"
# The next version: the same, but for its number.
dpkg-deb -R "${found[0]}" "$T/next"
sed -i 's/^Version: .*/&+1/' "$T/next/DEBIAN/control"
sed -i 's/^__version__ = "/&1+/' "$T/next/usr/lib/slim/driver/__init__.py"
dpkg-deb --root-owner-group -b "$T/next" "$R/root/slim/next.deb" > /dev/null
boot

apt update
apt install --download-only ./slim.deb
on ifdown tap0
apt install ./slim.deb
on ifup tap0
said "the driver starts when this host has an etcd"
well installation
on systemctl --quiet is-enabled slim || die "slim is not enabled"
! on systemctl --quiet is-active slim || die "slim runs without an etcd"
on systemctl --quiet is-active docker || die "dockerd does not run"
on systemctl restart slim
[[ $(on systemctl show -P ActiveState slim) == inactive && $(on systemctl show -P NRestarts slim) == 0 ]] || die "slim: $(on systemctl status slim)"
say "ok: installed without network; no driver before an etcd is chosen"

on bash -c 'echo 8080 > /proc/sys/net/ipv4/ip_local_reserved_ports'
on sed -i '1i etcd = "http://127.0.0.1:2379"' /etc/slim/slim.toml      # that which Debian's package has started
on systemctl start slim
[[ $(reserved) == 8080,61000-65535 ]] || die "reserved ports: $(reserved)"
on slim doctor > "$T/doctor.log" || die "$(cat "$T/doctor.log")"
[[ $(on bash -c '. /usr/share/bash-completion/completions/slim; COMP_WORDS=(slim stat); COMP_CWORD=1
    _shtab_slim; echo "$COMPREPLY"') == status ]] || die "bash completes nothing"
on docker import /root/busybox.tar bb > /dev/null; containers
talk "two containers"
on grep -q examples/monitoring/ /usr/share/doc/slim/docs/metrics.md || die "the documentation is not there to be read"
on test -e /usr/share/doc/slim/examples/monitoring/alerts.yml || die "what it names is not there"

# Files that keep the network's managers away: networkd is told to take all that begins with an s.
# In a container without udev it waits for that, unless /sys is read-only.
on bash -euc 'printf "%s\n" "[Match]" "Name=s*" "[Network]" "Address=192.0.2.1/24" > /etc/systemd/network/50-all.network
    ip link add sother type veth peer name other; ip link set sother up; ip link set other up
    mkdir -p /run/systemd/netif/links /run/systemd/netif/lldp /run/systemd/netif/leases
    chown -R systemd-network: /run/systemd/netif
    systemd-run --quiet --unit=managed unshare --mount sh -c "mount -o remount,bind,ro /sys; exec /lib/systemd/systemd-networkd"'
until_ok 20 bash -c 'networkctl --no-legend list sother | grep configured'
on networkctl --no-legend list > "$T/links.log"
(( $(grep -cE '[[:space:]](slim-vxlan|sl[0-9a-f]{11}) .* unmanaged' "$T/links.log") == 3 )) || die "networkd: $(cat "$T/links.log")"
on slim doctor > "$T/doctor.log" || die "$(cat "$T/doctor.log")"
on ln -s /dev/null /etc/systemd/network/05-slim.network
! on slim doctor > "$T/doctor.log" || die "doctor sees nothing: $(cat "$T/doctor.log")"
grep -q '^FAIL.*05-slim.network' "$T/doctor.log" || die "$(cat "$T/doctor.log")"
on bash -c 'rm /etc/systemd/network/*; systemctl stop managed; ip link del sother; rm -r /run/systemd/netif'
say "ok: systemd-networkd leaves the links alone"

hold_open
sees "the package"
driver=$(pid slim) docker=$(pid docker) etcd=$(pid etcd)
apt install ./next.deb
well upgrade
[[ $(on slim version) == "slim 1+"* && $(pid slim) != "$driver" && $(pid slim) != 0 ]] || die "the driver is the old one"
[[ $(pid docker) == "$docker" && $(pid etcd) == "$etcd" ]] || die "an upgrade has restarted dockerd or etcd"
goes_on "upgrade"
apt install --allow-downgrades ./slim.deb
well downgrade
[[ $(on slim version) != "slim 1+"* ]] || die "it is not the older one"
goes_on "downgrade"
talk "after both"
on sed -i '1i port-range = "wrong"' /etc/slim/slim.toml
apt install ./next.deb
[[ -z $(on dpkg --audit) ]] || die "a driver that does not start breaks dpkg"
on bash -c 'sed -i 1d /etc/slim/slim.toml; systemctl reset-failed slim; systemctl start slim'
goes_on "an upgrade whose driver does not start, and its repair"

# A member of etcd that finds no other must not keep driver and dockerd from starting at a boot.
on bash -euc 'mkdir /etc/slim/cluster; printf "ETCD_%s\n" NAME=a DATA_DIR=/var/lib/slim/etcd \
        LISTEN_PEER_URLS=http://127.0.0.1:23800 LISTEN_CLIENT_URLS=http://127.0.0.1:23790 \
        INITIAL_ADVERTISE_PEER_URLS=http://127.0.0.1:23800 ADVERTISE_CLIENT_URLS=http://127.0.0.1:23790 \
        INITIAL_CLUSTER=a=http://127.0.0.1:23800,b=http://127.0.0.1:1 > /etc/slim/cluster/etcd.env
    systemctl --quiet enable slim-etcd'
halt; boot
[[ $(on systemctl show -P ActiveState slim-etcd) == activating ]] || die "slim-etcd: $(on systemctl status slim-etcd)"
until_ok 60 bash -c 'docker exec web true && docker exec peer true'
talk "after a reboot"
on bash -c 'echo 8080,61000-65535 > /proc/sys/net/ipv4/ip_local_reserved_ports'

hold_open
apt remove slim
said "containers run on"
said "web"
well removal
[[ $(pid slim-etcd) == 0 ]] || die "a removal leaves the member of etcd running"
on test -e /etc/slim/slim.toml || die "a removal has taken the settings"
goes_on "removal, and what runs"
apt install ./slim.deb
goes_on "installed again"
talk "installed again"
remove
apt remove slim
[[ -z $(on find /sys/fs/bpf -mindepth 1 ! -name "*.debug") ]] || die "a removal leaves pins"
[[ $(reserved) == 8080 ]] || die "reserved ports: $(reserved)"
apt install ./slim.deb
containers
talk "containers anew"
apt purge slim
said "containers run on"
[[ $(reserved) == 8080 ]] || die "reserved ports: $(reserved)"
well purge
on bash -c 'docker kill web peer' > /dev/null
on systemctl stop docker.socket docker
left=$(left_over)
[[ -z $left ]] || die "a purge left: $left"
say "ok: a purge leaves nothing"
