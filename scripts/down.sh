#!/bin/bash
# Undoes up.sh, for `make down`.  Data stays (addresses, the embedded etcd) unless PURGE=1.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"
need_root down
cd "$PROJECT"

if in_cluster && [[ ${PURGE:-} == 1 ]]; then
    die "this host is in a cluster, and other hosts may need what it has: slim cluster leave, then make down PURGE=1"
fi
if docker_answers && [[ -n $(slim_networks) ]]; then
    if [[ ${PURGE:-} == 1 ]]; then
        echo "slim: Docker keeps networks of slim; what they were is purged. Without the driver" \
            "\`docker network rm\` takes a minute" >&2
    else
        echo "slim: Docker keeps networks of slim; they work again after \`make up\` with the same etcd" >&2
    fi
fi
# dockerd first: it takes 15 s to stop when the driver of its networks is gone.
if [[ -e $RUN/our-dockerd ]]; then
    unsupervise dockerd
    rm -f "$RUN/our-dockerd"
fi

if has_systemd; then
    systemctl --quiet disable --now slim slim-cluster slim-etcd 2>/dev/null || true
    rm -f "$UNITS"/slim{,-cluster,-etcd}.service
    systemctl daemon-reload
    packaging/network/install --remove /etc
fi
unsupervise slim
unsupervise cluster
rm -f "$SOCKET"             # a socket without a driver costs dockerd 15 s at each call

# Remove what outlives the driver on purpose: pinned programs and maps, links, routes.
if [[ -x .venv/bin/python ]] && scripts/slim --help 2>/dev/null | grep -qw cleanup; then
    scripts/slim cleanup
fi
unsupervise etcd
rm -f "$UP_ENV"
[[ ${PURGE:-} != 1 ]] || rm -rf "$CLUSTER".{old,new}    # keys that a killed slim cluster has left
rmdir "${UP_ENV%/*}" 2>/dev/null || true        # unless the user has settings there
[[ -z $COMMAND || $(readlink "$COMMAND") != "$PROJECT/scripts/slim" ]] || rm -f "$COMMAND"
rm -rf "$RUN"
if [[ ${PURGE:-} == 1 ]]; then
    for folder in "$STATE" "$CACHE" "$LOGS"; do
        # Keep the folder itself where it is a mount.
        rm -rf --one-file-system "$folder" 2>/dev/null || find "$folder" -mindepth 1 -delete
    done
fi
echo "slim is down."
