#!/bin/bash
# Fetches what the page of `slim ui` takes from npm, into driver/api/page/static/vendor: the packages
# that packaging/page/package-lock.json pins, each checked against its hash there.  None of their
# scripts runs.  Where that is here already it only compares, and asks nobody.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
lock=packaging/page/package-lock.json
vendor=driver/api/page/static/vendor
made=$vendor/made.sha256    # of the lock file, this script, and what they made

say() { printf 'slim: %s\n' "$*" >&2; }
! sha256sum --check --strict --status "$made" 2>/dev/null || exit 0
command -v npm >/dev/null || { say "npm is missing, which fetches the page's charts: apt-get install npm, then make page"; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp packaging/page/package.json "$lock" "$work/"
say "the page's packages, by npm"
(cd "$work" && npm ci --ignore-scripts --omit=dev --no-audit --no-fund --no-update-notifier \
    --cache "$work/cache" --fetch-retries=3 --fetch-timeout=60000 --loglevel=error --logs-max=0 >&2) ||
    { say "npm cannot fetch them; what it says is above"; exit 1; }

rm -rf "$vendor"
install -D -m 644 -t "$vendor/uplot" "$work"/node_modules/uplot/{LICENSE,dist/uPlot.esm.js,dist/uPlot.min.css}
sha256sum "$lock" scripts/page.sh "$vendor"/uplot/* > "$work/made"
install -m 644 "$work/made" "$made"
