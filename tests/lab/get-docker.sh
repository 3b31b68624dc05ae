#!/bin/bash
# Owns fetching another Debian suite's Docker into a folder, for LAB_DOCKER=DIR.  It installs nothing
# and leaves apt's own sources and lists alone: apt runs on state of its own, in a temporary folder.
#
#   get-docker.sh trixie /opt/docker-26      Docker 26.1
#   get-docker.sh sid    /opt/docker-28      Docker 28.5
#
# dockerd, docker, containerd, docker-proxy and compose of both run on bookworm's C library.  Their runc
# does not (it asks for GLIBC_2.38): it is left out, and the machine's own serves.
set -euo pipefail
suite=${1:?suite} dir=${2:?folder}
die() { printf 'get-docker: %s\n' "$*" >&2; exit 1; }

[[ ! -x $dir/usr/sbin/dockerd ]] || { "$dir/usr/sbin/dockerd" --version; exit 0; }
[[ ! -e $dir ]] || [[ -z $(ls -A "$dir") ]] || die "$dir is in use for something else"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp"/{lists/partial,cache/archives/partial,debs,parts,out}
: > "$tmp/status"

mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v '^#' |
    grep -oE 'https?://[^ ]+/debian/?( |$)' | head -1 | tr -d ' ' || true)
[[ -n $mirror ]] || die "no Debian mirror in this machine's apt sources"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$tmp/sources.list"
apt=(apt-get -q -o "Dir::Etc::sourcelist=$tmp/sources.list" -o "Dir::Etc::sourceparts=$tmp/parts"
    -o "Dir::Etc::preferencesparts=$tmp/parts" -o "Dir::State::lists=$tmp/lists"
    -o "Dir::State::status=$tmp/status" -o "Dir::Cache=$tmp/cache" -o APT::Sandbox::User=root
    -o Acquire::Languages=none)
"${apt[@]}" update >/dev/null
cd "$tmp/debs"
"${apt[@]}" download docker.io docker-cli containerd docker-compose tini >/dev/null
"${apt[@]}" download tini-static >/dev/null 2>&1 || true      # the dynamic one needs a newer C library
for package in *.deb; do dpkg -x "$package" "$tmp/out"; done
rm -f "$tmp"/out/usr/bin/ctr "$tmp"/out/usr/*bin/runc
mkdir -p "$dir.part/usr"
for part in bin sbin libexec; do cp -a "$tmp/out/usr/$part" "$dir.part/usr/"; done
[[ ! -e $dir ]] || rmdir "$dir"
mv "$dir.part" "$dir"                                   # whole or not at all
"$dir/usr/sbin/dockerd" --version
