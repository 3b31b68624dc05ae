#!/bin/bash
# Makes what Debian's installer gives at least (no make, no sudo, no git, no Python), once for each
# release, and prints its folder.
#
#   MIRROR=http://... debian-root.sh bookworm
set -euo pipefail
release=$1
root=${FRESH_CACHE:-/var/cache/slim-fresh}/$release
[[ ! -e $root/.done ]] || { echo "$root"; exit; }
command -v debootstrap > /dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; exit 1; }
echo "debootstrap of $release into $root" >&2
rm -rf --one-file-system "$root"
mkdir -p "$root"
debootstrap --variant=minbase --include=ca-certificates,dbus,ifupdown,iproute2,systemd-sysv \
    "$release" "$root" "$MIRROR" > "$root.log" || { tail -3 "$root.log" >&2; exit 1; }
rm "$root.log"
touch "$root/.done"
echo "$root"
