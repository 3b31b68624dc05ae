#!/bin/bash
# Runs one command as root in a virtual machine with a newer kernel than Debian 12's: it has netkit.
#
#   tests/vm/run.sh .venv/bin/python -m pytest tests/netns      output and status are the command's,
#   tests/vm/run.sh env A=B sh -c 'ip link | grep nk'           the environment is not this machine's
#   VM_KERNEL=linux-image-cloud-amd64 tests/vm/run.sh ...       Debian 12's own kernel, the oldest
#
# Needs root and Debian's qemu-system-x86 and kmod; it unpacks the kernel into a cache and does not
# install it.  The machine is emulated in software: it needs no KVM, and programs take several times
# as long.  It reads this machine's root file system and the project's folder by virtiofs, and
# forgets what the command writes.  It has cgroup v2, its own /tmp and /run, and no network device
# but loopback.
set -euo pipefail

# Depends on the newest; in bookworm-security and bookworm-backports.
KERNEL=${VM_KERNEL:-linux-image-6.12-cloud-amd64}
CACHE=${VM_CACHE:-/var/cache/slim-tests/kernel-vm}${VM_KERNEL:+-$VM_KERNEL}
MEMORY=${VM_MEMORY:-3G}                 # half of it at most for what is written
CPUS=${VM_CPUS:-2}
VIRTIOFSD=/usr/lib/qemu/virtiofsd       # of qemu-system-common

SELF=$(readlink -f "${BASH_SOURCE[0]}")
PROJECT=${SELF%/tests/vm/run.sh}

# 125, as with `timeout` and `docker run`, says that the command did not fail, but this script.
die() { printf 'vm: %s\n' "$*" >&2; exit 125; }

# --------------------------------------------------------------------------- kernel
kernel_fetch() {        # whole or not at all; two test runs at once fetch it once
    local lock package modules version needed option
    mkdir -p "${CACHE%/*}"
    exec {lock}> "$CACHE.lock"
    flock "$lock"
    [[ ! -e $CACHE/version ]] || return 0
    for _ in 1 2; do    # apt's lists may be old, or not there yet
        package=$(apt-cache depends --important "$KERNEL" 2>/dev/null | sed -n 's/^ *Depends: //p') || true
        ! ( cd "$T" && apt-get -q -o APT::Sandbox::User=root download "${package:-$KERNEL}" ) &> "$T/log" || break
        package=
        apt-get -q update &> /dev/null || true
    done
    [[ -n $package ]] || die "$KERNEL cannot be had (bookworm-security, bookworm-backports): $(grep -m1 ^E: "$T/log")"
    rm -rf "$CACHE" "$CACHE.part"
    dpkg-deb -x "$T/$package"_*.deb "$CACHE.part"
    modules=("$CACHE.part"/lib/modules/*)
    version=${modules[0]##*/}
    needed=(BPF_JIT DEBUG_INFO_BTF DEVTMPFS BLK_DEV_INITRD)
    [[ -n ${VM_KERNEL:-} ]] || needed+=(NETKIT)
    for option in "${needed[@]}"; do
        grep -q "^CONFIG_$option=y" "$CACHE.part/boot/config-$version" || die "$package has no CONFIG_$option=y"
    done
    depmod -b "$CACHE.part" "$version"
    initramfs_make "$version" > "$CACHE.part/boot/initramfs"
    echo "$version" > "$CACHE.part/version"
    mv "$CACHE.part" "$CACHE"
}

initramfs_make() {      # mounts the root, by modules where the kernel has them not built in
    local module path
    mkdir -p "$T"/early/{bin,dev,root}
    cp "$(command -v busybox)" "$T/early/bin/busybox"
    {
        printf '#!/bin/busybox sh\n'
        for module in virtio_pci virtio_console virtiofs; do
            modprobe -d "$CACHE.part" -S "$1" --show-depends "$module" | while read -r _ path _; do
                [[ $path == /* ]] || continue       # "builtin ..."
                path=${path//\/\//\/}
                cp -n "$path" "$T/early/${path##*/}"
                printf '/bin/busybox insmod /%s 2>/dev/null\n' "${path##*/}"    # two may need the same one
            done
        done
        printf '%s\n' '/bin/busybox mount -t virtiofs -o ro host /root' \
            'exec /bin/busybox switch_root /root /mnt/project/tests/vm/run.sh __init'
    } > "$T/early/init"
    chmod 755 "$T/early/init"
    ( cd "$T/early" && find . | cpio --quiet -o -H newc )
}

# --------------------------------------------------------------- this machine's side
# The only view of the file system that virtiofsd has, in a mount namespace of its own.  Of other mounts
# than / it has what the command needs, under /mnt.
root_serve() {
    mount --bind -o ro / "$T/root"
    mount --bind -o ro "$T/mnt" "$T/root/mnt"
    mount --bind -o ro "$PROJECT" "$T/root/mnt/project"
    mount --bind -o ro "$CACHE/lib/modules/$1" "$T/root/mnt/modules"
    exec "$VIRTIOFSD" --socket-path="$T/fs" -o source="$T/root",cache=always,xattr,sandbox=chroot,log_level=err
}
machine_start() {       # no option that the kernel does not know: such a one becomes init's argument
    exec qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none -nic none \
        -machine q35,memory-backend=memory -accel tcg,thread=multi -cpu max,la57=off -smp "$CPUS" -m "$MEMORY" \
        -object "memory-backend-memfd,id=memory,size=$MEMORY,share=on" -kernel "$CACHE/boot/vmlinuz-$1" \
        -initrd "$CACHE/boot/initramfs" -append "console=ttyS0 quiet panic=-1 mitigations=off" \
        -serial "file:$T/console" -device virtio-serial-pci \
        -chardev "file,id=output,path=$T/output" -device virtserialport,nr=1,chardev=output \
        -chardev "file,id=status,path=$T/status" -device virtserialport,nr=2,chardev=status \
        -chardev "socket,id=fs,path=$T/fs" -device vhost-user-fs-pci,chardev=fs,tag=host
}
clean() {
    ((${#PIDS[@]} == 0)) || kill "${PIDS[@]}" 2>/dev/null || true
    wait
    rm -rf --one-file-system "$T"
}
run() {
    local program version status=
    (($#)) || die "run what? tests/vm/run.sh COMMAND ARGUMENT..."
    ((EUID == 0)) || die "needs root"
    for program in qemu-system-x86_64 "$VIRTIOFSD" depmod busybox cpio; do
        command -v "$program" > /dev/null ||
            die "$program is missing: apt-get install qemu-system-x86 kmod busybox-static cpio"
    done
    PIDS=()
    T=$(mktemp -d)
    trap clean EXIT
    ( kernel_fetch )                    # the lock goes with the subshell
    version=$(< "$CACHE/version")
    mkdir -p "$T"/root "$T"/mnt/{modules,project,old}
    printf 'PROJECT=%q\ncd %q && exec %s\n' "$PROJECT" "$PWD" "$(printf '%q ' "$@")" > "$T/mnt/job"
    mkfifo "$T/output"
    T=$T unshare --mount "$SELF" __serve "$version" < /dev/null &> "$T/fs.log" & PIDS+=($!)
    for _ in {1..200}; do [[ ! -S $T/fs ]] || break; sleep 0.05; done
    [[ -S $T/fs ]] || die "virtiofsd does not start: $(tail -3 "$T/fs.log")"
    machine_start "$version" < /dev/null &> "$T/qemu.log" & PIDS+=($!)
    cat "$T/output" & PIDS+=($!)
    wait -n "${PIDS[@]}" || true        # without its files, or nobody to read, the machine would hang
    [[ ! -e $T/status ]] || status=$(< "$T/status")
    [[ $status =~ ^[0-9]+$ ]] || die "ended before the command did: $(tail -n 3 "$T/qemu.log"
        sed '/Kernel panic/q' "$T/console" | tail -n 5)"
    wait "${PIDS[2]}"                   # the rest of the output
    exit "$status"
}

# --------------------------------------------------------------------- inside of it
init_root() {           # what the kernel starts: makes a root that can be written to
    mount -t tmpfs tmpfs /run
    mkdir /run/{upper,work,new}
    insmod /mnt/modules/kernel/fs/overlayfs/overlay.ko*
    mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay /run/new
    cd /run/new
    pivot_root . mnt/old
    exec chroot . /mnt/project/tests/vm/run.sh __run
}
init_mounts() {
    local at modules; modules=/lib/modules/$(uname -r)
    for at in proc:/proc sysfs:/sys devtmpfs:/dev tmpfs:/tmp tmpfs:/run cgroup2:/sys/fs/cgroup \
        bpf:/sys/fs/bpf debugfs:/sys/kernel/debug tracefs:/sys/kernel/tracing; do
        mount -t "${at%:*}" "${at%:*}" "${at#*:}"
    done
    chmod 755 /run
    mkdir -p /dev/pts /dev/shm "$modules"
    mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs tmpfs /dev/shm
    ln -s /proc/self/fd /dev/fd
    for at in 0,stdin 1,stdout 2,stderr; do ln -s "/proc/self/fd/${at%,*}" "/dev/${at#*,}"; done
    mount --bind /mnt/modules "$modules"
    mkdir -p "$1"                       # it may have been under /tmp
    mount --bind /mnt/project "$1"
    umount -l /mnt/old
}
init_run() {            # PID 1 from here on
    local out cat ports PROJECT status=0
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
    eval "$(head -1 /mnt/job)"
    init_mounts "$PROJECT"
    ip link set lo up
    hostname vm
    ports=(/dev/vport*)                 # output, status
    # A port can be open once only, so the command gets a pipe.  It ends with its last writer, and what
    # the command left in the background may be one.
    exec {out}> >(exec cat > "${ports[0]}")
    cat=$!
    bash /mnt/job < /dev/null >&"$out" 2>&1 {out}>&- || status=$?
    exec {out}>&-
    timeout 5 tail --pid="$cat" -s 0.05 -f /dev/null || true
    echo "$status" > "${ports[1]}"
    echo b > /proc/sysrq-trigger        # -no-reboot: qemu ends
    sleep 60
}

case ${1:-} in
    __serve) root_serve "$2" ;;
    __init) init_root ;;
    __run) init_run ;;
    *) run "$@" ;;
esac
