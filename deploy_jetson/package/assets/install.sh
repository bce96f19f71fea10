#!/bin/sh
# Installs the detector's daemon on a board: no network needed. Research use only.
set -eu

usage() {
    cat <<'TEXT'
Usage: ./install.sh [--prefix DIR] [--root DIR] [--python FILE] [--user NAME] [--any-machine]
       ./install.sh --uninstall [--purge] [--prefix DIR] [--root DIR]

  --prefix DIR    where the program goes (default /opt/pneumonia)
  --root DIR      stage below this folder: no user is made, systemd is not called
  --python FILE   interpreter of the board (default python3; 3.6 or newer)
  --user NAME     account of the daemon (default pneumonia)
  --any-machine   do not insist on an aarch64 processor (to try it elsewhere)
  --uninstall     remove the program and its unit; configuration and images stay
  --purge         with --uninstall: remove these, too

Run again with a newer archive to upgrade: configuration and images stay as they are.
TEXT
}

fail() { echo "error: $1" >&2; exit "${2:-1}"; }

prefix=/opt/pneumonia root='' python=python3 user=pneumonia any=0 remove=0 purge=0
while [ $# -gt 0 ]; do
    case "$1" in
        --prefix|--root|--python|--user)
            [ -n "${2:-}" ] || fail "$1 needs a value" 2
            case "$1" in
                --prefix) prefix=$2 ;; --root) root=$2 ;; --python) python=$2 ;; --user) user=$2 ;;
            esac
            shift 2 ;;
        --any-machine) any=1; shift ;;
        --uninstall) remove=1; shift ;;
        --purge) purge=1; shift ;;
        -h|--help) usage; exit 0 ;;
        *) fail "unknown option $1 (see --help)" 2 ;;
    esac
done
case "$prefix" in /*) ;; *) fail "--prefix must be an absolute path" 2 ;; esac
# Relative to where the user is, not to the archive, which becomes the current folder below.
case "$root" in ''|/*) ;; *) root=$PWD/$root ;; esac
interpreter=$(command -v "$python") || interpreter=''
case "$interpreter" in ''|/*) ;; *) interpreter=$PWD/$interpreter ;; esac
case "$prefix$root$user$interpreter" in *[!A-Za-z0-9/._-]*) fail "paths and names may hold letters, digits, . _ - / only" 2 ;; esac

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
program=$root$prefix config=/etc/pneumonia/daemon.ini state=/var/lib/pneumonia
unit=$root/etc/systemd/system/pneumonia-daemon.service command=$root/usr/local/bin/pneumonia-device
# only where systemd runs: not in a container, not while an image for a board is made
systemd() { if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemctl "$@"; fi; }

[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "run as root, or stage with --root DIR" 2

if [ $remove = 1 ]; then
    [ -e "$program/releases" ] || [ $purge = 1 ] || fail "nothing is installed in $program (--prefix DIR)" 2
    systemd disable --now pneumonia-daemon 2>/dev/null || true
    rm -f "$unit" "$command"
    # Only what the installation made: the prefix may be a folder of other programs, too.
    rm -rf "$program/releases" "$program/current"
    rmdir "$program" 2>/dev/null || true
    [ $purge = 0 ] || rm -rf "$root/etc/pneumonia" "$root$state"
    systemd daemon-reload
    echo "removed $prefix"
    exit 0
fi

# OpenBLAS in NumPy's wheels takes a TX2 for another processor and dies of it (numpy#18131).
export OPENBLAS_CORETYPE="${OPENBLAS_CORETYPE:-ARMV8}"

# Nothing is touched before the archive is known to be whole and the board to be able to run it.
cd "$here"
sha256sum -c --quiet SHA256SUMS >/dev/null 2>&1 || fail "the archive is damaged: sha256sum -c SHA256SUMS names the files" 4
listed=$(wc -l <SHA256SUMS)
found=$(find . -type f ! -name SHA256SUMS ! -path '*/__pycache__/*' | wc -l)
[ "$listed" = "$found" ] || fail "the archive holds $found files, SHA256SUMS lists $listed" 4
machine=$(uname -m)
[ $any = 1 ] || [ "$machine" = aarch64 ] || fail "this is $machine, the program is for aarch64 (--any-machine to try it all the same)" 10
[ -n "$interpreter" ] || fail "no $python here (--python FILE)" 10
python=$interpreter
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 6))' || fail "Python 3.6 or newer is needed, this is $("$python" -V 2>&1)" 10

have=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
wanted=$(cut -d ' ' -f 1 BOARD)
if [ -d wheels ] && [ "$have" != "$wanted" ]; then
    fail "the archive's packages are for Python $wanted ($(cut -d ' ' -f 2- BOARD)), this is $have: make one with device-package --board, or give another --python" 10
fi

release=$prefix/releases/$(tr ' ' '-' <VERSION)
new=$root$release.new
# Half a release does not stay on the board's disk, and half a file never takes its place.
finish() {
    code=$?
    rm -rf "$new" "$root$config.new" "$unit.new" "$command.new"
    [ $code != 1 ] || fail "cannot write below ${root:-/}: free space or make it writable, then run again" 5
    exit $code
}
write() { cat >"$1.new"; chmod "$2" "$1.new"; mv "$1.new" "$1"; }
trap finish EXIT

rm -rf "$new"
mkdir -p "$new"
cp -R lib bundle docs README.md LICENSE VERSION BOARD "$new/" 2>/dev/null || exit 1
if [ -d wheels ]; then
    "$python" unpack_wheels.py requirements.txt wheels "$new/lib" \
        || fail "the wheels could not be unpacked" 10
else
    PYTHONPATH=$new/lib "$python" -c 'import numpy, PIL, pydicom, pynetdicom' 2>/dev/null \
        || fail "numpy, Pillow, pydicom and pynetdicom are needed: the archive was made without wheels" 10
fi
PYTHONPATH=$new/lib "$python" -c 'import deploy_jetson.device.daemon.config, pneumonia.runtime.detection.detector' \
    || fail "the program does not start with this Python" 10
find "$new" -type d -name __pycache__ -prune -exec rm -rf {} +

rm -rf "$root$release"
mv "$new" "$root$release"
ln -sfn "$release" "$program/current.new"
mv -T "$program/current.new" "$program/current"

mkdir -p "$root/etc/pneumonia" "$root/etc/systemd/system" "$root/usr/local/bin" "$root$state/cache"
chmod 700 "$root$state"
if [ ! -e "$root$config" ]; then
    sed -e "s|@BUNDLE@|$prefix/current/bundle|" -e "s|@STATE@|$state|" -e "s|@DOCS@|$prefix/current/docs|" \
        daemon.ini | write "$root$config" 640
fi
sed -e "s|@USER@|$user|" -e "s|@PYTHON@|$python|" -e "s|file://@ROOT@|file://$prefix/current|" \
    -e "s|@ROOT@|$prefix/current/lib|" -e "s|@CONFIG@|$config|" -e "s|@STATE@|$state|" \
    "$root$release/lib/deploy_jetson/device/daemon/pneumonia-daemon.service" | write "$unit" 644

# The commands of the operator, with the program, the cache and the environment of the unit.
sed -e "s|@USER@|$user|" -e "s|@PYTHON@|$python|" -e "s|@ROOT@|$prefix/current|" -e "s|@STATE@|$state|" \
    pneumonia-device | write "$command" 755

if [ -z "$root" ]; then
    id "$user" >/dev/null 2>&1 || useradd --system --no-create-home --home-dir "$state" --shell /usr/sbin/nologin "$user"
    for group in video render i2c; do  # the GPU, and the power sensors
        if getent group "$group" >/dev/null; then usermod -a -G "$group" "$user"; fi
    done
    chown "$user" "$state" "$state/cache"
    chgrp "$(id -gn "$user")" "$config"
fi
systemd daemon-reload
# releases before the last one are of no use any more
for old in "$root$prefix/releases"/*; do
    [ "$old" = "$root$release" ] || rm -rf "$old"
done
echo "installed $(cat VERSION) in $prefix; configuration $config"
[ -n "$root" ] || echo "next: sudo pneumonia-device engine; sudo systemctl enable --now pneumonia-daemon; pneumonia-device --help"
