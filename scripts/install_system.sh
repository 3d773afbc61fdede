#!/usr/bin/env bash
# Installs the system's packages that the demo is made of, with the argument `test` also those of the tests, where this
# user may. Otherwise says what is missing, what works without it, and how to get it. Never fails: what is missing is
# found again by `isocenter doctor`.
set -u
here=$(dirname "$0")
PATH=$PATH:/usr/sbin:/usr/local/sbin

declare -A without=(
  [python3-venv]="nothing works"
  [libpython]="Triton can not run models, so nothing but an external one (triton.url) works"
  [orthanc]="no embedded archive, so no demo: set orthanc.url to an Orthanc that is there; 'isocenter run' works"
  [orthanc-dicomweb]="the embedded Orthanc does not start, so no demo; 'isocenter run' works"
  [orthanc-python]="the embedded Orthanc does not start, so no demo; 'isocenter run' works"
  [dicom3tools]="no dciodvfy: results are checked by Isocenter's own rules only, and some tests are skipped"
  [npm]="OHIF can not be fetched, so there is no viewer; all else works"
  [bubblewrap]="'isocenter map run' needs Docker, Podman, or root; all else works"
  [libatomic1]="Playwright does not start, so the browser tests fail; all else works"
  [chromium]="the browser tests are skipped; all else works"
  [postgresql]="the tests of several workers on PostgreSQL are skipped; all else works"
  [dcmtk]="results are not sent to its storescp in the tests; all else works"
  [debootstrap]="no base for 'isocenter map build' can be made, so one has to be given (--base); that and Orthanc 1.12 are not tested"
  [buildah]="packages are not built by it in the tests; all else works"
)

python() { .venv/bin/python -c 'import sys; print(sys.executable)' 2>/dev/null || "$here/find_python.sh" 2>/dev/null; }

plugin() {
  local folder
  for folder in /usr/share/orthanc/plugins /usr/lib/orthanc /usr/local/share/orthanc/plugins; do
    [ -e "$folder/$1" ] && return
  done
  return 1
}

libpython() { # where Triton's Python backend is given it from: see src/isocenter/stack/tritonserver.py
  "$(python)" - <<'PYTHON'
import os, sys, sysconfig
libdir, multiarch = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("MULTIARCH") or ""
folders = (libdir, os.path.join(libdir, multiarch), os.path.join(sys.base_prefix, "lib"), f"/usr/lib/{multiarch}")
name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
sys.exit(not any(os.path.exists(os.path.join(folder, name)) for folder in folders))
PYTHON
}

have() {
  case $1 in
    python3-venv) python ;;
    libpython) libpython ;;
    orthanc) command -v Orthanc ;;
    orthanc-dicomweb) plugin libOrthancDicomWeb.so ;;
    orthanc-python) plugin libOrthancPython.so ;;
    dicom3tools) command -v dciodvfy ;;
    bubblewrap) command -v bwrap ;;
    npm) [ -e "${ISOCENTER_OHIF:-.cache/ohif}/version" ] || [ -n "${OHIF_TARBALL:-}" ] || command -v npm ;;
    libatomic1) ldconfig -p | grep -q 'libatomic\.so\.1 ' ;;
    postgresql) compgen -G '/usr/lib/postgresql/*/bin/initdb' ;;
    dcmtk) command -v storescp ;;
    debootstrap) command -v debootstrap ;;
    buildah) command -v buildah ;;
    chromium) command -v chromium || chromium-browser --version || command -v google-chrome ;;
  esac >/dev/null 2>&1
}

# Ubuntu's package of that name is a script that asks for the snap.
snap() { [ "$1" = chromium ] && grep -qs '^ID=ubuntu' /etc/os-release; }

package() { # its name here: libpython carries the version of the Python that is found, or would be installed
  [ "$1" = libpython ] || { echo "$1"; return; }
  local version=3.11
  grep -qs '^VERSION_CODENAME=noble' /etc/os-release && version=3.12t64
  version=$("$(python)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo "$version")
  if apt-cache show "libpython${version}t64" >/dev/null 2>&1; then version+=t64; fi
  echo "libpython$version"
}

missing=() # and of these, what apt-get may have
by_apt=()
look() {
  missing=() by_apt=()
  local part
  for part in "$@"; do
    have "$part" && continue
    missing+=("$part")
    snap "$part" || by_apt+=("$part")
  done
}

wanted=(python3-venv libpython orthanc orthanc-dicomweb orthanc-python dicom3tools npm bubblewrap)
[ "${1:-}" = test ] && wanted+=(libatomic1 chromium postgresql dcmtk debootstrap buildah)
look "${wanted[@]}"
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
why="neither root nor sudo without a password, so nothing was installed"
if [ ${#by_apt[@]} -eq 0 ]; then
  why="Ubuntu has it as a snap only"
elif ! command -v apt-get >/dev/null; then
  why="no apt-get here, so nothing was installed"
elif "${as_root[@]}" true 2>/dev/null; then
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  echo "Installing from the system's packages: ${by_apt[*]}"
  "${as_root[@]}" apt-get update -qq >"$log" 2>&1
  # One at a time: a package that this release does not have must not keep the others away.
  for part in "${by_apt[@]}"; do
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "$(package "$part")" >>"$log" 2>&1
  done
  # The package's own service would hold the ports that the embedded Orthanc wants.
  if [[ " ${missing[*]} " == *" orthanc "* ]] && command -v systemctl >/dev/null; then
    "${as_root[@]}" systemctl disable --now orthanc >>"$log" 2>&1
  fi
  # A server that nobody asked for: the tests start their own.
  if [[ " ${missing[*]} " == *" postgresql "* ]] && command -v systemctl >/dev/null; then
    "${as_root[@]}" systemctl disable --now postgresql >>"$log" 2>&1
  fi
  look "${missing[@]}"
  why=$(grep '^E: ' "$log" | tail -n 1)
fi
[ ${#missing[@]} -eq 0 ] && exit 0

{
  echo "Missing here (${why:-apt-get did not install it}):"
  for part in "${missing[@]}"; do echo "  $part: without it ${without[$part]}"; done
  if [ ${#by_apt[@]} -gt 0 ]; then
    echo "To get it on Debian or Ubuntu: sudo apt-get install $(for part in "${by_apt[@]}"; do package "$part"; done | xargs)"
  fi
  if [ ${#by_apt[@]} -lt ${#missing[@]} ]; then echo "To get Chromium on Ubuntu: sudo snap install chromium"; fi
} >&2
exit 0
