#!/bin/bash
# Builds the Debian package, build/deb/RELEASE/slim_VERSION_ARCH.deb, in a clean root of each
# release, and has that release's lintian judge it.
#
#   deb.sh [bookworm] [trixie]      both, if none is named
#
# SUFFIX=+1 is for another version of the same.  The build takes Debian's packages from MIRROR (that
# of this machine), the Python packages that requirements.txt pins from pip's index, and the page's
# from npm (page.sh); the installation takes nothing but Debian's packages.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh
need_root deb
scripts/page.sh
export MIRROR=${MIRROR:-$(tests/support/debian-mirror.sh)}
tools=(build-essential debhelper lintian python3 python3-pip python3-setuptools python3-wheel)
declare -A number=([bookworm]=12 [trixie]=13)
(($#)) || set -- bookworm trixie
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' driver/__init__.py)${SUFFIX:-}
SOURCE_DATE_EPOCH=$(git -c safe.directory='*' log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)
export SOURCE_DATE_EPOCH

say() { printf 'slim: %s\n' "$*" >&2; }
inside() {      # inside ROOT CMD...: in a mount namespace of its own, so that nothing stays mounted
    local root=$1; shift
    unshare --mount sh -euc 'mount -t proc proc "$0/proc"; exec chroot "$0" "$@"' "$root" \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" "$@"
}
make_root() {   # the release's base, a way to the network, and what builds packages
    cp -a "$(scripts/debian-root.sh "$release")/." "$root"
    cp /etc/resolv.conf "$root/etc/"
    cp /etc/pip.conf "$root/etc/" 2>/dev/null || true
    cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
    echo "deb [check-valid-until=no] $MIRROR $release main" > "$root/etc/apt/sources.list"
    printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    inside "$root" sh -euc 'update-ca-certificates; apt-get -q update
        apt-get -qy install --no-install-recommends "$@"' sh "${tools[@]}" > "$work/tools.log" 2>&1 ||
        die "the build's tools: $(tail -5 "$work/tools.log")"
}
copy_source() {
    local source=$root/build/slim
    mkdir -p "$source" "$source/packaging"
    cp -r driver kernel docs examples requirements.txt README.md CHANGELOG.md "$source/"
    cp -r packaging/network packaging/*.service "$source/packaging/"
    cp -r packaging/deb "$source/debian"
    find "$source" -name __pycache__ -prune -exec rm -rf {} +
    # The epoch: Debian has a login manager of this name, which no upgrade may take for a newer slim.
    cat > "$source/debian/changelog" <<TEXT
slim (1:$version~deb${number[$release]}) $release; urgency=medium

  * Version $version: /usr/share/doc/slim/changelog.gz says what has changed.

 -- $(sed -n 's/^Maintainer: //p' packaging/deb/control)  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
TEXT
}

for release; do
    [[ -n ${number[$release]:-} ]] || die "it is built for ${!number[*]}, not for $release"
    work=$(mktemp -d "/var/tmp/slim-deb.XXXXXX")
    trap 'rm -rf --one-file-system "$work"' EXIT
    root=$work/root
    mkdir "$root"
    say "$release: a clean root"
    make_root
    say "$release: the package"
    copy_source
    inside "$root" env -C /build/slim dpkg-buildpackage -b -us -uc > "$work/build.log" 2>&1 ||
        { tail -40 "$work/build.log" >&2; die "$release: it is not built"; }
    mkdir -p "build/deb/$release"
    rm -f "build/deb/$release"/*
    cp "$root"/build/*.deb "build/deb/$release/"
    say "$release: lintian"
    inside "$root" sh -c 'lintian --allow-root --fail-on error --tag-display-limit 0 /build/*.deb' >&2
    rm -rf --one-file-system "$work"
    du -h "build/deb/$release"/*.deb
done
