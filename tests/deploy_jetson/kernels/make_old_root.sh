#!/bin/sh
# Makes a folder with the files of an old arm64 system (Debian 11: glibc 2.31, pthread a library of its
# own; Python 3.9), from Debian's packages, without touching this machine's apt:
#
#   tests/deploy_jetson/kernels/make_old_root.sh FOLDER
#   PNEUMONIA_ARM64_ROOT=FOLDER pytest tests/deploy_jetson/kernels/test_old_root.py
set -eu
mkdir -p "$1/.apt/lists/partial" "$1/.apt/cache/archives/partial"
cd "$1"
here=$(pwd)
echo 'deb [arch=arm64 trusted=yes] http://deb.debian.org/debian bullseye main' >.apt/sources.list
apt() {
    apt-get -q -o "Dir::Etc::sourcelist=$here/.apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o "Dir::State::lists=$here/.apt/lists" -o "Dir::Cache=$here/.apt/cache" -o APT::Architecture=arm64 "$@"
}
apt update
(cd .apt && apt download libc6:arm64 libc6-dev:arm64 linux-libc-dev:arm64 libgcc-s1:arm64 libcrypt1:arm64 \
    libcrypt-dev:arm64 libpython3.9-minimal:arm64 libpython3.9-stdlib:arm64 python3.9-minimal:arm64 \
    zlib1g:arm64 libexpat1:arm64 libffi7:arm64)
for package in .apt/*.deb; do dpkg-deb -x "$package" .; done
rm -rf .apt
