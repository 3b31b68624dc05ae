#!/bin/bash
# Fetches the lab's Docker releases from Debian's suites, each into a folder of a cache outside the
# checkout.  It installs nothing, and leaves apt's own sources and lists alone.
#
#   get-docker.sh 26       print a folder for LAB_DOCKER, after fetching it if it is not there (15 s, 250 MB)
#   get-docker.sh          fetch all; it names those it cannot fetch, which is no failure
#
# It prints "/" if the machine's own Docker is of that version.  dockerd, docker, containerd,
# docker-proxy and compose of the newer suites run on bookworm's C library.  Their runc needs
# GLIBC_2.38, so the lab uses the machine's own.
set -euo pipefail
declare -A suite_of=([20.10]=bookworm [26]=trixie [28]=sid)
if (($# == 0)); then
    for version in "${!suite_of[@]}"; do "$0" "$version" > /dev/null || true; done
    exit
fi
version=$1
suite=${suite_of[$version]:-}
cache=/var/cache/slim-tests
dir=$cache/docker-$version
die() { printf 'Docker %s cannot be downloaded: %s\n' "$version" "$*" >&2; exit 1; }
is_wanted() { [[ $("$1/usr/sbin/dockerd" --version 2>/dev/null) == "Docker version $version."* ]]; }

[[ -n $suite ]] || die "known are ${!suite_of[*]}"
if is_wanted /; then echo /; exit; fi
mkdir -p "$cache"
exec {lock}> "$cache/lock"
flock "$lock"                           # two test runs at once
if is_wanted "$dir"; then echo "$dir"; exit; fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp"/{lists/partial,cache/archives/partial,debs,parts,out}
: > "$tmp/status"
mirror=$("${BASH_SOURCE[0]%/*}/../../support/debian-mirror.sh" 2>&1) || die "$mirror"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$tmp/sources.list"
apt=(apt-get -q -o "Dir::Etc::sourcelist=$tmp/sources.list" -o "Dir::Etc::sourceparts=$tmp/parts"
    -o "Dir::Etc::preferencesparts=$tmp/parts" -o "Dir::State::lists=$tmp/lists"
    -o "Dir::State::status=$tmp/status" -o "Dir::Cache=$tmp/cache" -o APT::Sandbox::User=root
    -o Acquire::Languages=none -o Acquire::http::Timeout=20 -o APT::Update::Error-Mode=any)
packages=(docker.io containerd tini)
[[ $suite == bookworm ]] || packages+=(docker-cli docker-compose)
try() { "$@" > "$tmp/log" 2>&1 || die "$mirror $suite: $(grep -m1 '^E:' "$tmp/log" || tail -1 "$tmp/log")"; }
try "${apt[@]}" update
cd "$tmp/debs"
try "${apt[@]}" download "${packages[@]}"
"${apt[@]}" download tini-static > /dev/null 2>&1 || true  # a package of its own in some suites
for package in *.deb; do dpkg -x "$package" "$tmp/out"; done
rm -f "$tmp"/out/usr/bin/ctr "$tmp"/out/usr/*bin/runc
rm -rf "$dir" "$dir.part"
mkdir -p "$dir.part/usr"
for part in bin sbin libexec; do [[ ! -d $tmp/out/usr/$part ]] || cp -a "$tmp/out/usr/$part" "$dir.part/usr/"; done
is_wanted "$dir.part" || die "$suite has $("$dir.part/usr/sbin/dockerd" --version 2>&1) now"
mv "$dir.part" "$dir"                                   # whole or not at all
echo "$dir"
