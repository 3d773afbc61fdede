#!/usr/bin/env bash
# Puts Docker and Podman, as this release of Debian or Ubuntu has them, into a folder of their own, for the tests: their
# packages and what these need are unpacked and not installed, so no service starts and nothing of this machine changes.
#
#     scripts/fetch_engines.sh [FOLDER]
#
# FOLDER is .cache/engines by default; some 0.4 GB. Where it is there already, nothing is done. Ends with 1, and says why,
# where it can not be made here.
set -euo pipefail
folder=${1:-.cache/engines}

fail() {
  echo "Docker and Podman were not fetched: $1" >&2
  echo "Without them the tests of both are skipped; all else works." >&2
  exit 1
}

[ -e "$folder/fetched" ] && exit 0
command -v apt-get >/dev/null || fail "there is no apt-get here"

mkdir -p "$(dirname "$folder")"
work=$(mktemp -d -p "$(dirname "$folder")" .engines-XXXXXX)
work=$(cd "$work" && pwd)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/packages/partial"
echo "Fetching Docker and Podman into $folder" >&2
# What is installed is not fetched again, but for the programs themselves; nobody's lock is asked for.
apt-get install --download-only --yes --no-install-recommends -o Debug::NoLocking=1 \
  -o "Dir::Cache::archives=$work/packages" -o APT::Sandbox::User=root docker.io podman runc conmon >"$work/log" 2>&1 ||
  fail "$(grep '^E: ' "$work/log" | tail -n 1)"
for package in "$work"/packages/*.deb; do
  [ -e "$package" ] || continue
  dpkg-deb --extract "$package" "$work"
done
rm -rf "$work/packages" "$work/log"
touch "$work/fetched"
chmod 755 "$work"
rm -rf "$folder"
mv "$work" "$folder"
