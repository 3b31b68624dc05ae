#!/bin/bash
# Builds the managed plugin, build/plugin/config.json and build/plugin/rootfs, from the packages of
# this machine's Debian release.  It installs nothing on this machine, and needs no engine and no
# image registry; with both, `docker build .` makes the same root file system.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh
out=build/plugin
cache=${PLUGIN_CACHE:-/var/cache/slim-plugin}
# No compiler: the programs are compiled here.  libbpf loads them; gRPC's library needs libstdc++.
packages=(python3 libbpf1 libstdc++6 ca-certificates)
# Dependencies that the packages need only at installation, or that slim never uses.
left_out='^(cdebconf|debconf|dpkg|tar|install-info|perl.*|libperl.*|libdebian-installer4|libnewt.*|libslang2|libtextwrap1|mailcap|media-types|mime-support|openssl|libgdbm.*|libdb5.3)$'

need_root plugin
[[ -x .venv/bin/python ]] || scripts/setup.sh
scripts/page.sh
mkdir -p "$cache" build
work=$(mktemp -d "$PWD/build/plugin.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/rootfs
mkdir -p "$root"/{usr/bin,usr/sbin,usr/lib,usr/lib64,etc/ssl/certs,tmp,proc,sys/fs/bpf,sys/fs/cgroup,dev}
mkdir -p "$root"/{run/docker/plugins,hostrun/var/run,hoststate,etc/slim,root,tls,opt/slim}
for name in bin sbin lib lib64; do ln -s "usr/$name" "$root/$name"; done

say() { printf 'slim: %s\n' "$*" >&2; }
say "packages"
mapfile -t names < <(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances "${packages[@]}" | grep -E '^[a-z0-9]' | sort -u | grep -vE "$left_out")
( cd "$cache" && apt-get -q download "${names[@]}" > /dev/null )
for name in "${names[@]}"; do
    found=("$cache/${name}_"*.deb)
    newest=$(ls -t "${found[@]}" | head -1)
    dpkg --fsys-tarfile "$newest" | tar -x --keep-directory-symlink -C "$root"
done
rm -rf "$root"/usr/share/{doc,man,locale,info,lintian,bug,perl5,bash-completion,applications,pixmaps}
rm -rf "$root"/usr/lib/python3.*/{test,idlelib,tkinter,turtledemo,lib2to3} "$root"/usr/share/icons
find "$root" -name __pycache__ -prune -exec rm -rf {} +
cat "$root"/usr/share/ca-certificates/mozilla/*.crt > "$root/etc/ssl/certs/ca-certificates.crt"
echo 'root:x:0:0:root:/root:/bin/false' > "$root/etc/passwd"
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
ldconfig -r "$root"

say "eBPF programs"
.venv/bin/python -c 'import pathlib, sys; from driver.datapath.build import cache; cache.ship(pathlib.Path(sys.argv[1]))' \
    "$root/opt/slim"

say "Python packages"
.venv/bin/python -m pip install -q --no-compile --target "$root/opt/slim/packages" -r requirements.txt
cp -a driver kernel "$root/opt/slim/"
find "$root/opt/slim" -name __pycache__ -prune -exec rm -rf {} +
# Compile here, once: else every start of the plugin does it, Python's library included (1 s).
libraries=("$root"/usr/lib/python3*)
chroot "$root" /usr/bin/python3 -m compileall -q /opt/slim "${libraries[@]#"$root"}" || true

# A library that is missing shows here, and not as a plugin that does not start.
PYTHONPATH=/opt/slim:/opt/slim/packages PYTHONDONTWRITEBYTECODE=1 chroot "$root" /usr/bin/python3 -c '
import driver.compose.build, driver.doctor.checks, driver.metrics.text
from driver.datapath.build.cache import shipped_unit
assert shipped_unit() is not None, "the eBPF programs are not there"'

cp plugin.json "$work/config.json"
rm -rf --one-file-system "$out"
mkdir -p "${out%/*}"
chmod 755 "$work"
mv "$work" "$out"
trap - EXIT
say "$out: $(du -sh --apparent-size "$out/rootfs" | cut -f1)"
