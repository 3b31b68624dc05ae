# Makes and removes one host of the lab: its cgroups, namespaces, private mount tree and dockerd.
# lab.sh sources it, and has the settings.
#
# A host has its own network, mount, PID, UTS, IPC and cgroup namespaces.  Its init is PID 1 of its
# PID namespace, so killing that one process ends everything on the host, mounts included.
# shellcheck shell=bash disable=SC2154

# ------------------------------------------------------------------------ identity
start_time() {  # of a pid, in clock ticks since boot: field 22 of stat, counted after the last ')'
    local s; s=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    s=${s##*) }; set -- $s; printf '%s' "${20}"
}
init_pid() {    # the host's init as the machine sees it; fails if that process is gone
    local pid started
    read -r pid started 2>/dev/null < "$(host_dir "$1")/init.pid" || return 1
    [[ $(start_time "$pid") == "$started" ]] || return 1    # else the number is used again
    printf '%s' "$pid"
}

# ------------------------------------------------------------------------- cgroups
v1_controllers() {
    awk '/ - cgroup / && $5 ~ "^/sys/fs/cgroup/" { sub(".*/", "", $5); print $5 }' /proc/self/mountinfo
}
cgroups_of() {  # the host's directory in every hierarchy of the machine
    local c v2; v2=$(awk '/ - cgroup2 / { print $5; exit }' /proc/self/mountinfo)
    for c in $(v1_controllers); do echo "/sys/fs/cgroup/$c/$NAME/$1"; done
    [[ -z $v2 ]] || echo "$v2/$NAME/$1"
}
cgroups_make() {
    local d p
    for d in $(cgroups_of "$1"); do
        mkdir -p "$d"
        for p in "${d%/*}" "$d"; do     # a v1 cpuset starts empty, and then takes no task
            [[ -e $p/cpuset.mems && -e $p/cpuset.cpus && ! -e $p/cgroup.controllers ]] || continue
            [[ -n $(<"$p/cpuset.cpus") ]] || cat "${p%/*}/cpuset.cpus" > "$p/cpuset.cpus"
            [[ -n $(<"$p/cpuset.mems") ]] || cat "${p%/*}/cpuset.mems" > "$p/cpuset.mems"
        done
    done
}
cgroups_join() {    # moves the calling shell; hooks follow the cgroup a socket is made in
    local d
    for d in $(cgroups_of "$1"); do
        [[ -d $d/init.scope ]] && d=$d/init.scope
        echo "$BASHPID" > "$d/cgroup.procs" || return 1
    done
}
cgroups_pids() {    # only the lab puts processes there
    local d
    for d in $(cgroups_of "$1"); do
        if [[ -d $d ]]; then find "$d" -name cgroup.procs -exec cat {} + 2>/dev/null || true; fi
    done | sort -un
}
cgroups_remove() {
    local d i
    for d in $(cgroups_of "$1"); do
        for i in $(seq 50); do
            [[ -d $d ]] || break
            find "$d" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
        done
        [[ ! -d $d ]] || say "cgroup $d is still there"
        rmdir "${d%/*}" 2>/dev/null || true     # the last host takes the lab's own with it
    done
}

# ----------------------------------------------- inside the new namespaces, as their PID 1
init_tree() {   # init_tree ROOT STATE-OF-HOST: a fresh root, and no mount of anybody else in it
    local R=$1 d=$2 p t c
    mount --bind / "$R"         # not rbind: that would pin the mounts of others until `down`
    for p in "$STATE" "${SELF%/*}" "$PWD" /tmp /root /home /opt /usr /var /etc ${DOCKER:-}; do
        t=$(findmnt -nro TARGET -T "$p" 2>/dev/null | tail -1)
        [[ -z $t || $t == / || $t == "$R" ]] || mountpoint -q "$R$t" || mount --bind "$t" "$R$t"
    done
    mount -t proc proc "$R/proc"
    mount --rbind /dev "$R/dev"
    mount -t sysfs sysfs "$R/sys"               # a sysfs shows the netns it is mounted from
    mount -t bpf bpf "$R/sys/fs/bpf"            # each mount is an instance: pins are the host's own
    mount -t tracefs tracefs "$R/sys/kernel/tracing" 2>/dev/null || true
    if [[ $CGROUP == v2 ]]; then
        mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
        mkdir -p "$R/sys/fs/cgroup/init.scope"  # a cgroup that delegates may hold no process
        echo 1 > "$R/sys/fs/cgroup/init.scope/cgroup.procs"
        for c in $(<"$R/sys/fs/cgroup/cgroup.controllers"); do
            echo "+$c" > "$R/sys/fs/cgroup/cgroup.subtree_control" 2>/dev/null || true
        done
    else
        mount -t tmpfs -o mode=755 tmpfs "$R/sys/fs/cgroup"
        for c in $(v1_controllers); do
            mkdir "$R/sys/fs/cgroup/$c"
            mount -t cgroup -o "$([[ $c == systemd ]] && echo none,name=systemd || echo "$c")" \
                cgroup "$R/sys/fs/cgroup/$c"
        done
        mkdir "$R/sys/fs/cgroup/unified"
        mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup/unified"
    fi
    mount -t tmpfs -o mode=755 tmpfs "$R/run"
    mkdir -p "$R/run/lock" "$R/run/docker/plugins" "$R/run/netns"
    for p in $PRIVATE; do mkdir -p "$d/fs$p"; mount --bind "$d/fs$p" "$R$p"; done
    for p in /etc/hosts /etc/hostname /etc/resolv.conf; do
        [[ ! -e $R$p ]] || mount --bind "$d/fs$p" "$R$p"
    done
}
host_init() {
    local h=$1 d outer init; d=$(host_dir "$1")
    read -r outer _ < /proc/self/stat       # /proc is still the machine's: our pid as seen there
    mount --make-rprivate /
    hostname "$h"
    mkdir -p "$d/root"
    init_tree "$d/root" "$d"
    cd "$d/root"
    pivot_root . .
    umount -l .                             # the old tree
    cd /
    mount --make-rshared /                  # as systemd has it: rslave mounts of plugins need it
    echo "$outer $(start_time 1)" > "$d/init.pid.new"
    mv "$d/init.pid.new" "$d/init.pid"
    if init=$(command -v docker-init || command -v tini); then
        exec -a "$NAME-$h-init" "$init" -s -- sleep infinity
    fi
    trap : TERM INT
    while :; do sleep 1000000 & wait $! || true; done
}

# ------------------------------------------------------------------- from the outside
host_up() {
    local h=$1 d i; d=$(host_dir "$1")
    ! init_pid "$h" >/dev/null || return 0
    host_stop "$h"                          # what is left of an earlier life, but for its disk
    mkdir -p "$d/fs/etc"
    [[ -e $d/fs/var/lib/docker ]] || docker_seeded "$d/fs/var/lib/docker"
    cable_up "$h"
    echo "$h" > "$d/fs/etc/hostname"
    echo "nameserver $NET.254" > "$d/fs/etc/resolv.conf"
    { echo "127.0.0.1 localhost"; echo "::1 localhost"
      for i in $(seq "$MAX"); do echo "$NET.$i h$i"; done; } > "$d/fs/etc/hosts"
    cgroups_make "$h"
    (
        cgroups_join "$h" || exit 1         # first: the cgroup namespace takes it as its root
        kill -0 $$ || exit 1                # from here on a killed `up` is seen in the cgroups
        exec {LOCKFD}>&-
        exec setsid nsenter --net="/run/netns/$(netns "$h")" \
            unshare --mount --uts --ipc --pid --cgroup --fork --kill-child --propagation private \
            env LAB_NAME="$NAME" LAB_STATE="$STATE" LAB_CGROUP="$CGROUP" LAB_DOCKER="$DOCKER" \
            bash "$SELF" __init "$h" < /dev/null > "$d/init.log" 2>&1
    ) &
    disown
    for i in $(seq 200); do
        ! init_pid "$h" >/dev/null || { enter_write "$h"; return 0; }
        sleep 0.05
    done
    cat "$d/init.log" >&2
    die "$h did not come up"
}
enter() {       # replaces the calling shell by a command on the host
    local h=$1; shift
    [[ -e $(host_dir "$h")/enter ]] || die "$h is not up"
    [[ -z ${LOCKFD:-} ]] || exec {LOCKFD}>&-
    exec "$(host_dir "$h")/enter" "$@"
}
# Tests enter a host a thousand times.  So the way in is a separate program: it starts only what it
# must, and its callers need only its path.
enter_write() {     # enter_write HOST, when its init has a pid
    local d pid started c join=; d=$(host_dir "$1")
    read -r pid started < "$d/init.pid"
    for c in $(cgroups_of "$1"); do
        [[ ! -d $c/init.scope ]] || c=$c/init.scope
        join+="echo \$\$ > '$c/cgroup.procs' && "
    done
    cat > "$d/enter.new" <<SH
#!/bin/sh
# Made by lab.sh: replaces the calling process by a command on $1.
of_its_life() { read -r stat < /proc/$pid/stat && set -- \${stat##*) } && [ "\${20}" = $started ]; }
{ of_its_life; } 2>/dev/null || { echo "lab: $1 is not up" >&2; exit 1; }
$join true || { echo "lab: cannot join the cgroups of $1" >&2; exit 1; }
tree=
read -r tree 2>/dev/null < '$d/docker'
# Client and daemon must be of one release, whatever the machine has under /usr/local.
PATH=\$tree/usr/bin:\$tree/usr/sbin:\$PATH
LAB_HOST=$1
export PATH LAB_HOST
unset DOCKER_HOST DOCKER_CONTEXT
exec nsenter -t $pid --mount --uts --ipc --net --pid --cgroup \\
    sh -c 'cd "\$1" 2>/dev/null || cd /; shift; exec "\$@"' lab "\$PWD" "\$@"
SH
    chmod 755 "$d/enter.new"
    mv "$d/enter.new" "$d/enter"
}
host_kill() {
    local pid i pids=
    if pid=$(init_pid "$1"); then kill -KILL "$pid" 2>/dev/null || true; fi
    for i in $(seq 200); do
        pids=$(cgroups_pids "$1")
        [[ -n $pids ]] || init_pid "$1" >/dev/null || return 0
        # What outlives the init never entered its PID namespace: an interrupted `up`, or `fabric`.
        [[ $i -lt 4 || -z $pids ]] || kill -KILL $pids 2>/dev/null || true
        sleep 0.05
    done
    die "$1 does not end: $pids"
}
host_stop() {   # all of it but the disk
    host_kill "$1"
    cgroups_remove "$1"
    [[ ! -e /run/netns/$(netns "$1") ]] || ip netns del "$(netns "$1")"
    in_fabric ip link del "$1" 2>/dev/null || true      # the end of a namespace is asynchronous
    rm -f "$(host_dir "$1")"/{init.pid,enter,docker.sock}
}
host_remove() {
    host_stop "$1"
    rm -rf --one-file-system "$(host_dir "$1")"
}

# ------------------------------------------------------------------------- dockerd
# Hard links are enough: dockerd never changes layers and plugins in place, and replaces all else.
docker_seeded() {
    local seed
    mkdir -p "$1.part"
    for seed in $SEEDS; do cp -al "$seed/." "$1.part" 2>/dev/null || cp -a "$seed/." "$1.part"; done
    mv "$1.part" "$1"
}
dockerd_alive() { ( enter "$1" sh -c 'kill -0 "$(cat /run/docker.pid)"' ) >/dev/null 2>&1; }
dockerd_launch() {
    local h=$1 d; d=$(host_dir "$1")
    ! dockerd_alive "$h" || return 0
    # LAB_DOCKER unset: with the binaries this host had before, if any.
    [[ -z ${LAB_DOCKER+set} && -e $d/docker ]] || echo "$DOCKER" > "$d/docker"
    rm -f "$d/docker.sock" "$d"/fs/usr/local/libexec/docker/cli-plugins/*
    [[ -z $(<"$d/docker") ]] || ln -s "$(<"$d/docker")"/usr/libexec/docker/cli-plugins/* \
        "$d/fs/usr/local/libexec/docker/cli-plugins/" 2>/dev/null || true
    # This bash forks dockerd and ends, so that the host's init becomes its parent.  All paths are
    # the defaults, as on a machine of its own; the second socket is for those outside.
    ( enter "$h" bash -c 'rm -f /run/docker.pid; ulimit -n 1048576 2>/dev/null
        log=$1; shift; setsid "$@" < /dev/null >> "$log" 2>&1 &' lab "$d/dockerd.log" \
        dockerd -H unix:///var/run/docker.sock -H "unix://$d/docker.sock" \
        --storage-driver overlay2 $DOCKERD_ARGS )
}
dockerd_wait() {
    local i
    for i in $(seq 1200); do
        ( enter "$1" docker version ) >/dev/null 2>&1 && return 0
        (( i < 20 || i % 20 )) || dockerd_alive "$1" || break
        sleep 0.05
    done
    tail -20 "$(host_dir "$1")/dockerd.log" >&2
    die "dockerd on $1 does not answer"
}
dockerd_stop() {
    ( enter "$1" bash -c 'p=$(cat /run/docker.pid 2>/dev/null) && kill -TERM "$p" 2>/dev/null || exit 0
        for i in $(seq $(($1 * 20))); do kill -0 "$p" 2>/dev/null || exit 0; sleep 0.05; done
        echo "lab: dockerd on $LAB_HOST did not stop in $1 s: killed" >&2
        kill -KILL "$p"; while kill -0 "$p" 2>/dev/null; do sleep 0.05; done' lab "$STOP_S" )
}
