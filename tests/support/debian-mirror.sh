#!/bin/bash
# Prints the first mirror in this machine's apt sources.
set -euo pipefail
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v '^#' |
    grep -oE 'https?://[^ ]+/debian/?( |$)' | head -1 | tr -d ' ' || true)
[[ -n $mirror ]] || { echo "no Debian mirror in this machine's apt sources" >&2; exit 1; }
echo "$mirror"
