#!/usr/bin/env bash
# Installs Debian's packages that the embedded stack is made of, where this user may; otherwise says what is missing,
# what works without it, and how to get it. Never fails: what is missing is found again by `isocenter doctor`.
set -u

declare -A without=(
  [orthanc]="no embedded archive: set orthanc.url to an Orthanc that is already there; 'isocenter run' works without"
  [orthanc-dicomweb]="the embedded Orthanc has no DICOMweb, so the demo and OHIF do not work; 'isocenter run' does"
  [orthanc-python]="new scans are noticed by polling only; everything else works"
  [dicom3tools]="no dciodvfy: 'isocenter validate' uses its own checks alone, and its tests are skipped"
  [chromium]="no browser test; everything else works"
)

have() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "This is not a Debian or Ubuntu system: install Orthanc with its DICOMweb and Python plugins, dicom3tools and" \
       "Chromium by hand; see 'isocenter doctor' for what is found."
  exit 0
fi

# The default python3 of this system, its venv module, and the libpython that Triton's Python backend links to.
python_packages=()
if [ -x /usr/bin/python3 ]; then
  version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  python_packages=(python3-venv "libpython$version")
  apt-cache show "libpython${version}t64" >/dev/null 2>&1 && python_packages=(python3-venv "libpython${version}t64")
fi

missing=()
for package in orthanc orthanc-dicomweb orthanc-python dicom3tools chromium; do
  have "$package" || missing+=("$package")
done
for package in "${python_packages[@]}"; do
  have "$package" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root=(sudo -n); else as_root=(false); fi
fi

if [ "${as_root[*]:-}" != "false" ]; then
  echo "Installing from the system's packages: ${missing[*]}"
  log=$(mktemp)
  "${as_root[@]}" apt-get update -qq >"$log" 2>&1
  for package in "${missing[@]}"; do
    # One at a time: a package that this release does not have must not keep the others away.
    # policy-rc.d semantics: Orthanc's own system service is not wanted, it would take our ports.
    was_there=$(systemctl is-active orthanc 2>/dev/null || true)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
      apt-get install -y -qq --no-install-recommends "$package" >>"$log" 2>&1 || true
    if [ "$package" = orthanc ] && [ "$was_there" != active ] && command -v systemctl >/dev/null; then
      "${as_root[@]}" systemctl disable --now orthanc >>"$log" 2>&1 || true
    fi
  done
fi

for package in "${missing[@]}"; do
  have "$package" && continue
  echo "missing: $package (${without[$package]:-needed for the Python environment}); get it with: apt-get install $package" >&2
done
exit 0
