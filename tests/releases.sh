#!/bin/sh
# Unpacks rdma-core of other Debian releases into FOLDER/SUITE, with the C library, Python and headers that belong to it. Nothing is
# installed and no privilege is needed. Then: GAUDI_RELEASES=FOLDER/SUITE:... cargo test --release -p gaudi-tests --test releases
# Usage: releases.sh FOLDER SUITE...
set -eu

packages="ibverbs-utils ibverbs-providers libibverbs-dev perftest python3 python3-pyverbs rdma-core"
[ $# -ge 2 ] || { sed -n 's/^# //p' "$0"; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift

# Where this machine gets its own packages from.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
[ -n "$mirror" ] || { echo "releases.sh: apt has no lists (apt-get update)" >&2; exit 1; }

for suite; do
    root=$folder/$suite
    if [ -e "$root/complete" ]; then continue; fi
    echo "rdma-core of $suite into $root"
    apt=$folder/apt-$suite
    rm -rf "$root" "$apt"
    mkdir -p "$root" "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/sources.d"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
    # Nothing counts as installed, so that everything comes along.
    : >"$apt/status"
    set -- -q -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts="$apt/sources.d" -o Dir::State::Lists="$apt/lists" \
        -o Dir::State::Status="$apt/status" -o Dir::Cache="$apt/cache" -o Debug::NoLocking=1 -o Acquire::Languages=none \
        -o APT::Sandbox::User= -o APT::Get::AllowUnauthenticated=false
    apt-get "$@" update >"$apt/log" 2>&1 || { cat "$apt/log" >&2; exit 1; }
    # shellcheck disable=SC2086 # a list
    apt-get "$@" install --download-only --no-install-recommends -y $packages >>"$apt/log" 2>&1 || { tail -n 20 "$apt/log" >&2; exit 1; }
    # The folders of a merged /usr, which packages of older releases do not bring.
    mkdir -p "$root/usr/lib" "$root/usr/lib64" "$root/usr/bin" "$root/usr/sbin"
    for link in lib lib64 bin sbin; do ln -s "usr/$link" "$root/$link"; done
    for package in "$apt"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar x -C "$root" --keep-directory-symlink --no-same-owner
    done
    rm -rf "$apt"
    : >"$root/complete"
done
