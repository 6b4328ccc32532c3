#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# Fetches QEMU out of Debian's backports without installing it: package lists, packages and files
# all stay below one directory (.qemu-backports unless another is named), and nothing of the host
# changes. For tests on a second version: BOTHWORLDS_QEMU=DIRECTORY/root.
set -euo pipefail
directory=$(realpath -m "${1:-$(dirname "${BASH_SOURCE[0]}")/../.qemu-backports}")
packages=(qemu-system-arm qemu-system-common qemu-system-data)
binary=$directory/root/usr/bin/qemu-system-aarch64

stop() {
    printf 'fetch_qemu: %s\n' "$@" >&2
    exit 3
}

if [[ ! -x $binary ]]; then
    command -v apt-get > /dev/null || stop "this needs apt-get; on other systems unpack a QEMU to DIR yourself"
    . /etc/os-release
    [[ ${ID:-} == debian && -n ${VERSION_CODENAME:-} ]] || stop "this is not a release of Debian: it has no backports"
    # The mirror that this machine uses already.
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' |
        awk -v release="$VERSION_CODENAME" '$2 == release && $3 == "main" {print $1; exit}')
    [[ -n $mirror ]] || stop "apt's settings name no mirror of $VERSION_CODENAME"
    mkdir -p "$directory"/{state/lists/partial,cache/archives/partial,packages,root}
    printf 'deb [signed-by=%s] %s %s-backports main\n' /usr/share/keyrings/debian-archive-keyring.gpg "$mirror" \
        "$VERSION_CODENAME" > "$directory/sources.list"
    apt=(apt-get -q -o "Dir::State=$directory/state" -o "Dir::Cache=$directory/cache" -o Dir::Etc::sourceparts=-
        -o "Dir::Etc::sourcelist=$directory/sources.list" -o "APT::Sandbox::User=$(id -un)")
    "${apt[@]}" update || stop "the package lists of $VERSION_CODENAME-backports could not be fetched"
    (cd "$directory/packages" && "${apt[@]}" download "${packages[@]}") || stop "QEMU could not be downloaded"
    for package in "$directory"/packages/*.deb; do
        dpkg-deb --extract "$package" "$directory/root"
    done
fi
if missing=$(ldd "$binary" | grep 'not found'); then
    stop "this QEMU needs libraries that are not installed:" "$missing"
fi
"$binary" --version | head -1
echo "to use it: export BOTHWORLDS_QEMU=$directory/root"
