#!/usr/bin/env bash
# Puts the Orthanc 1.12 of Debian 13, with its plugins, into a folder of its own, to be tried beside the system's: by
# debootstrap, as root, in some two minutes and 0.4 GB. Nothing of it is started or installed.
#
#     scripts/fetch_orthanc_1_12.sh [FOLDER [MIRROR]]
#
# FOLDER is .cache/orthanc-1.12 by default. FOLDER/bin/Orthanc is what `orthanc.program` names. Where FOLDER is there
# already, nothing is done. Ends with 1, and says why, where it can not be made here.
set -euo pipefail
folder=${1:-.cache/orthanc-1.12}
PATH=$PATH:/usr/sbin:/usr/local/sbin

fail() {
  echo "Orthanc 1.12 was not fetched: $1" >&2
  echo "Without it the tests against it are skipped; all else works." >&2
  exit 1
}

[ -x "$folder/bin/Orthanc" ] && exit 0
command -v debootstrap >/dev/null || fail "there is no debootstrap here (apt-get install debootstrap)"
[ "$(id -u)" -eq 0 ] || fail "debootstrap needs root: sudo $0"

mkdir -p "$(dirname "$folder")"
work=$(mktemp -d -p "$(dirname "$folder")" .orthanc-XXXXXX)
work=$(cd "$work" && pwd)
trap 'rm -rf --one-file-system "$work"' EXIT
echo "Fetching Debian 13's Orthanc 1.12 into $folder" >&2
debootstrap --variant=minbase --include=orthanc,orthanc-dicomweb,orthanc-python \
  trixie "$work/root" ${2:+"$2"} >"$work/log" 2>&1 || fail "$(tail -n 1 "$work/log")"
rm -rf "$work"/root/var/cache/apt/*.bin "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*

mkdir -p "$work/bin" "$work/share/orthanc"
ln -s ../../root/usr/share/orthanc/plugins "$work/share/orthanc/plugins"
# Its own loader and libraries, without a chroot: ports, paths and signals are those of any program here.
cat >"$work/bin/Orthanc" <<'START'
#!/bin/sh
root=$(cd "$(dirname "$0")/../root" && pwd) || exit 1
for loader in "$root"/usr/lib/*-linux-gnu*/ld-linux-*.so.*; do break; done
PYTHONHOME=$root/usr DCMDICTPATH=$root/usr/share/dcmtk/dicom.dic
export PYTHONHOME DCMDICTPATH
exec "$loader" --argv0 "$0" --library-path "${loader%/*}" "$root/usr/sbin/Orthanc" "$@"
START
chmod 755 "$work" "$work/bin/Orthanc"
"$work/bin/Orthanc" --version >"$work/log" 2>&1 || fail "it does not start: $(tail -n 1 "$work/log")"
rm -rf --one-file-system "$folder"
mv "$work" "$folder"
echo "Orthanc $(sed -n '1s/.* //p' "$folder/log") is $folder/bin/Orthanc" >&2
