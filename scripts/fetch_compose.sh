#!/usr/bin/env bash
# Puts Docker Compose 2, as Debian 13 has it, into a folder of its own, for the tests: Debian 12's is too old for
# docker/compose.yaml. With it slirp4netns, as this Debian has it, by which a Docker in a network namespace of its own gets
# out, and docker-registry, from which it pulls images there. They are unpacked and not installed; nothing of this machine
# changes.
#
#     scripts/fetch_compose.sh [FOLDER [MIRROR]]
#
# FOLDER is .cache/compose by default; some 80 MB. FOLDER is a DOCKER_CONFIG: with it `docker compose` is there. Where it
# is there already, nothing is done. MIRROR is the one that apt has for this Debian. Ends with 1, and says why, where it can
# not be made here.
set -euo pipefail
. "$(dirname "$0")/debian_release.sh"
folder=${1:-.cache/compose}

fail() {
  echo "Docker Compose was not fetched: $1" >&2
  echo "Without it the tests of it are skipped; all else works." >&2
  exit 1
}

plugin=cli-plugins/docker-compose
[ -x "$folder/$plugin" ] && [ -x "$folder/bin/docker-registry" ] && exit 0
command -v apt-get >/dev/null || fail "there is no apt-get here"

mkdir -p "$(dirname "$folder")"
work=$(mktemp -d -p "$(dirname "$folder")" .compose-XXXXXX)
work=$(cd "$work" && pwd)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/cli-plugins" "$work/bin"
echo "Fetching Debian 13's Docker Compose into $folder" >&2
debian_release trixie deb "${2:-}"
(cd "$work/apt" && "${apt[@]}" download docker-compose >>"$work/log" 2>&1 &&
  apt-get download docker-registry libslirp0 slirp4netns >>"$work/log" 2>&1) || fail "$(grep '^E: ' "$work/log" | tail -n 1)"
for package in "$work"/apt/*.deb; do dpkg-deb --extract "$package" "$work/apt/root"; done
cp "$work/apt/root/usr/libexec/docker/$plugin" "$work/$plugin"
"$work/$plugin" version >"$work/log" 2>&1 || fail "it does not start: $(tail -n 1 "$work/log")"
cp "$work"/apt/root/usr/bin/{docker-registry,slirp4netns} "$work"/apt/root/usr/lib/*-linux-gnu*/libslirp.so.0 "$work/bin/"
LD_LIBRARY_PATH=$work/bin "$work/bin/slirp4netns" --version >>"$work/log" 2>&1 || fail "slirp4netns: $(tail -n 1 "$work/log")"
"$work/bin/docker-registry" --version >>"$work/log" 2>&1 || fail "docker-registry: $(tail -n 1 "$work/log")"
told=$(head -n 1 "$work/log")
rm -rf "$work/apt" "$work/log"
chmod 755 "$work"
rm -rf "$folder"
mv "$work" "$folder"
echo "$told is $folder/$plugin" >&2
