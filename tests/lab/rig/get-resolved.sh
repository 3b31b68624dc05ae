#!/bin/bash
# Fetches Debian's systemd-resolved, and the library of its own version, into a folder of a cache.
# They are not installed: the package makes itself this machine's resolver (/etc/resolv.conf).
#
#   get-resolved.sh        print the folder, after fetching it if it is not there (3 s, 2 MB)
set -euo pipefail
packages=(systemd-resolved libsystemd-shared)
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "$ID-$VERSION_ID")  # what its other libraries are from
cache=/var/cache/slim-tests
dir=$cache/resolved-$release
die() { printf 'systemd-resolved cannot be downloaded: %s\n' "$*" >&2; exit 1; }

mkdir -p "$cache"
exec {lock}> "$cache/resolved.lock"
flock "$lock"                           # two test runs at once
if [[ ! -d $dir ]]; then
    tmp=$(mktemp -d)
    trap 'rm -rf "$tmp"' EXIT
    cd "$tmp"
    apt=(apt-get -q -o APT::Sandbox::User=root -o Acquire::http::Timeout=20)
    fetch() { "${apt[@]}" download "${packages[@]}"; }
    # What apt knows may be old: then its server has another version by now.
    fetch > log 2>&1 || { "${apt[@]}" update && fetch; } > log 2>&1 || die "$(grep -m1 '^E:' log || tail -1 log)"
    rm -rf "$dir.part"
    for package in *.deb; do dpkg -x "$package" "$dir.part"; done
    mv "$dir.part" "$dir"               # whole or not at all
fi
echo "$dir"
