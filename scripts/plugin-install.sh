#!/bin/bash
# Installs build/plugin on an engine (DOCKER_HOST): create, set, enable.  Run again, it upgrades.
#
#   SET="ETCD=http://10.0.0.1:2379 LOG_LEVEL=debug" plugin-install.sh
#
# An engine has no command to upgrade a plugin from a folder.  So this script removes the old plugin
# and gives its settings to the new one.  Connections go on meanwhile: programs and maps stay
# pinned, and containers keep their interfaces.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'slim: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
name=slim:latest

[[ -e build/plugin/config.json ]] || die "there is no build/plugin: make plugin"
settings=()
if docker plugin inspect "$name" > /dev/null 2>&1; then
    settable=$(python3 -c 'import json; print(*(e["name"] for e in json.load(open("plugin.json"))["env"] if e["settable"]), sep="|")')
    mapfile -t settings < <(docker plugin inspect -f '{{range .Settings.Env}}{{println .}}{{end}}' "$name" |
        grep -E "^($settable)=")
    mapfile -t -O "${#settings[@]}" settings < <(docker plugin inspect \
        -f '{{range .Settings.Mounts}}{{.Name}}.source={{.Source}}{{println}}{{end}}' "$name" | grep .)
    docker plugin disable -f "$name" > /dev/null 2>&1 || true
    docker plugin rm -f "$name" > /dev/null
    say "the older plugin is removed, its settings are kept"
fi
docker plugin create "$name" build/plugin > /dev/null
read -ra given <<< "${SET:-}"
if ((${#settings[@]} + ${#given[@]})); then docker plugin set "$name" "${settings[@]}" "${given[@]}"; fi
docker plugin enable "$name" > /dev/null ||
    die "it does not start: see dockerd's log; settings: docker plugin set $name ETCD=...; docker plugin enable $name"
say "docker network create -d $name --ipam-driver $name --subnet 10.32.0.0/16 --attachable app"
