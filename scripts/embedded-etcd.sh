#!/bin/sh
# Runs the etcd of this host.  In a cluster made by `slim cluster`, the folder of that says how.
# Else it is what `make up` starts if the user names no etcd: one member on loopback, for this host
# alone.  It is a process of its own, so that the driver can restart without it.
set -eu
data=${1:?data folder} port=${2:?port}
mkdir -p "$data"
chmod 700 "$data"
if [ -e /etc/slim/cluster/etcd.env ]; then
    while IFS= read -r line; do export "$line"; done < /etc/slim/cluster/etcd.env
    exec /usr/bin/etcd
fi
exec /usr/bin/etcd --name slim --data-dir "$data" \
    --listen-client-urls "http://127.0.0.1:$port" --advertise-client-urls "http://127.0.0.1:$port" \
    --listen-peer-urls "http://127.0.0.1:$((port + 10))" \
    --initial-advertise-peer-urls "http://127.0.0.1:$((port + 10))" \
    --initial-cluster "slim=http://127.0.0.1:$((port + 10))" \
    --auto-compaction-mode periodic --auto-compaction-retention 1h
