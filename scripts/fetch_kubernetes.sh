#!/usr/bin/env bash
# Builds Kubernetes 1.20 of Debian 12's source package, for the tests: the API server, the controllers, the scheduler, the
# kubelet and the proxy, which Debian has as no package. With Debian's etcd and CNI plugins it is put into a folder of its
# own. It can run pods with Docker. Nothing of this machine changes.
#
#     scripts/fetch_kubernetes.sh [FOLDER [MIRROR]]
#
# FOLDER is .cache/kubernetes by default; 0.5 GB, and 4 GB while it is built, which took 15 minutes on two cores that
# others used too. Where it is there already, nothing is done. MIRROR is the one that apt has for this Debian. Ends with 1,
# and says why, where it can not be made here.
set -euo pipefail
. "$(dirname "$0")/debian_release.sh"
folder=${1:-.cache/kubernetes}

fail() {
  echo "Kubernetes was not built: $1" >&2
  echo "Without it the tests of it are skipped; all else works." >&2
  exit 1
}

[ -x "$folder/kube-apiserver" ] && exit 0
for needed in apt-get make; do command -v $needed >/dev/null || fail "there is no $needed here"; done

mkdir -p "$(dirname "$folder")"
work=$(mktemp -d -p "$(dirname "$folder")" .kubernetes-XXXXXX)
work=$(cd "$work" && pwd)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{root,source,home,bin,tools}
echo "Building Kubernetes of Debian 12's source into $folder" >&2
debian_release bookworm "deb deb-src" "${2:-}"
(cd "$work/apt" && "${apt[@]}" source --download-only kubernetes >>"$work/log" 2>&1 &&
  "${apt[@]}" download containernetworking-plugins etcd-server golang-1.19-go golang-1.19-src \
    golang-github-modern-go-reflect2-dev >>"$work/log" 2>&1) ||
  fail "$(grep '^E: ' "$work/log" | tail -n 1)"
for package in "$work"/apt/*.deb; do dpkg-deb --extract "$package" "$work/root"; done
tar --extract --file "$work"/apt/kubernetes_*.orig.tar.gz --directory "$work/source" --strip-components=1

# Its own copy of reflect2 knows maps as they were before Go 1.18.
reflect2=vendor/github.com/modern-go/reflect2
rm "$work/source/$reflect2"/*.{go,s}
cp "$work/root/usr/share/gocode/src/${reflect2#vendor/}"/*.{go,s} "$work/source/$reflect2"
# All that its Makefile wants of rsync.
printf '#!/bin/sh\nexec cp -p "$2" "$3"\n' >"$work/tools/rsync"
chmod +x "$work/tools/rsync"

programs=(kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet)
(
  export GOROOT=$work/root/usr/lib/go-1.19 GOPATH=$work/source/.go HOME=$work/home CGO_ENABLED=0
  export PATH=$GOROOT/bin:$work/tools:$PATH
  mkdir -p "$GOPATH/src/k8s.io"
  ln -s ../../.. "$GOPATH/src/k8s.io/kubernetes" # where Go looked for it before there were modules
  nice make --directory "$work/source" all KUBE_STATIC_OVERRIDES=kubelet WHAT="${programs[*]/#/cmd/}" >"$work/log" 2>&1
) || fail "$(tail -n 3 "$work/log")"
cp -r "$work/root/usr/lib/cni" "$work/bin/"
cp "$work/root/usr/bin/etcd" "${programs[@]/#/$work/source/_output/bin/}" "$work/bin"
told=$("$work/bin/kube-apiserver" --version 2>&1) || fail "it does not start: $told"
rm -rf "$folder"
mv "$work/bin" "$folder"
echo "$told is in $folder" >&2
