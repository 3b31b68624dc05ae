#!/bin/bash
# Sets up a machine: Debian packages, .venv, pinned requirements.  It starts no daemon; up.sh does.
#
#   setup.sh               what the driver and its checks need
#   setup.sh --demo        also the programs that the demo and the tests run
#   setup.sh --tests       as --demo, and what only the tests run: name servers, a browser, a Go program,
#                          npm where there is none, which fetches what the page of `slim ui` needs
#   setup.sh --tests all   also the other Docker releases, in /var/cache/slim-tests
#   setup.sh --vm          as --demo, and an emulator for tests on another kernel (tests/vm/run.sh)
#
# Run again, it only compares (under a second) and changes nothing.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# python3-bpfcc is the BPF Compiler Collection's own binding; PyPI's "bcc" is another project.
packages=(ca-certificates etcd-server iproute2 iptables linux-libc-dev procps python3
    python3-bpfcc python3-venv util-linux)
# Programs that the tests' containers and hosts run, and those that make their images.
[[ -z ${1:-} ]] || packages+=(bird2 bpftool busybox-static docker-compose etcd-client ethtool gcc iperf3
    iputils-ping libc-bin libc6-dev libmemcached-tools memcached nats-server nftables nginx postgresql
    redis-server redis-tools tcpdump wrk)
# Resolvers of names that only tests ask, dig, the server that stands for those of the internet,
# Prometheus, which reads a driver's metrics and tests the example's alerts, and a browser for the
# page of `slim ui`.
[[ ${1:-} != --tests ]] || packages+=(aria2 bind9-dnsutils chromium chromium-driver dnsmasq-base
    fonts-dejavu-core knot musl-tools
    openjdk-17-jre-headless prometheus)
[[ ${1:-} != --tests ]] || command -v npm >/dev/null || packages+=(npm)   # may be another source's
[[ ${1:-} != --vm ]] || packages+=(cpio kmod qemu-system-x86)
command -v dockerd >/dev/null || packages+=(docker.io)

# We run these daemons ourselves, on other ports; their packages would start them on the default
# ones.  A daemon that was here before stays as it is.
declare -A unit_of=([bird2]=bird [etcd-server]=etcd [knot]=knot [memcached]=memcached [nats-server]=nats-server
    [nginx]=nginx [postgresql]=postgresql [prometheus]=prometheus [redis-server]=redis-server)
policy=/usr/sbin/policy-rc.d    # what a package asks before it starts a daemon, with systemd and without
silence_daemons() {
    [[ ! -e $policy ]] || return 0      # somebody else's policy
    trap unsilence_daemons EXIT
    # invoke-rc.d asks for `etcd`, deb-systemd-invoke for `etcd.service`.
    local silent; silent="$(IFS='|'; echo "${unit_of[*]}")|postgresql@*"
    # Docker's init script knows only cgroup v1, and its failure would fail the package; up.sh
    # starts dockerd.
    [[ -d /run/systemd/system ]] || silent+='|docker|containerd'
    printf '%s\n' '#!/bin/sh' "# slim's setup.sh, while it installs packages" 'case ${1%.service} in' \
        "$silent) exit 101 ;;" esac > "$policy"
    chmod 755 "$policy"
}
unsilence_daemons() { if grep -qs "^# slim's setup.sh" "$policy"; then rm "$policy"; fi; }

install_packages() {    # what dpkg does not have, or has only the settings of
    local missing=() p
    for p in "${packages[@]}"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null || true) == installed ]] ||
            missing+=("$p")
    done
    ((${#missing[@]})) || return 0
    ((EUID == 0)) || die "missing: ${missing[*]}. Run it as root (su -, or sudo -s): make setup"
    say "installing ${missing[*]}"
    local apt=(apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
    export DEBIAN_FRONTEND=noninteractive
    "${apt[@]}" update >/dev/null
    silence_daemons
    "${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null
    unsilence_daemons
    [[ -d /run/systemd/system ]] || return 0
    for p in "${missing[@]}"; do    # nor at the next boot
        [[ -z ${unit_of[$p]:-} ]] || systemctl --quiet disable "${unit_of[$p]}.service" 2>/dev/null || true
    done
}

install_requirements() {    # the stamp names what .venv was filled from
    local want have
    want=$(cat requirements.txt requirements-dev.txt <(/usr/bin/python3 --version) | sha256sum)
    have=$(cat .venv/requirements.sha256 2>/dev/null || true)
    [[ $want != "$have" || ! -x .venv/bin/python ]] || return 0
    say "filling .venv"
    # Not the first python3 in PATH: only the system's Python has python3-bpfcc.
    [[ -x .venv/bin/pip ]] || /usr/bin/python3 -m venv --clear --system-site-packages .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --no-warn-script-location \
        --root-user-action=ignore -r requirements.txt -r requirements-dev.txt
    printf '%s\n' "$want" > .venv/requirements.sha256
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    die "this is no Debian: install what Debian 12 calls ${packages[*]}, then make .venv as in scripts/setup.sh"
fi
install_packages
/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "/usr/bin/python3 is $(/usr/bin/python3 --version 2>&1); 3.11 or later is needed (Debian 12)"
[[ ! -e .venv || -w .venv ]] || [[ -e .venv/requirements.sha256 ]] || die ".venv is not yours: make setup"
install_requirements
if [[ ${1:-} == --tests ]]; then    # what cannot be had is named, and its tests skipped
    tests/lab/rig/get-go.sh > /dev/null || true
    tests/lab/rig/get-resolved.sh > /dev/null || true
    scripts/page.sh
fi
[[ ${*:1:2} != "--tests all" ]] || tests/lab/rig/get-docker.sh
