#!/usr/bin/env bash
# Makes the virtual environment: exactly the versions in requirements.lock, on Python 3.11 or 3.12.
set -euo pipefail
venv=$1

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }

if [ ! -x "$venv/bin/python" ]; then
  for candidate in ${PYTHON:-} python3 python3.12 python3.11 /usr/bin/python3; do
    if usable "$candidate"; then python=$candidate; break; fi
  done
  if [ -z "${python:-}" ]; then
    echo "No Python 3.11 or 3.12 with its venv module was found. On Debian or Ubuntu: apt-get install python3-venv" >&2
    exit 1
  fi
  "$python" -m venv "$venv"
fi

pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
echo "Installing the Python environment into $venv (about 1.4 GB with a CPU build of PyTorch, 6 GB with CUDA)"
# PyTorch first and with its own dependencies: a CUDA build brings libraries that a CPU build does not have. Everything
# else is complete in the lock, so nothing is resolved anew (nvidia-pytriton would ask for an older NumPy).
"${pip[@]}" install --constraint requirements.lock torch
"${pip[@]}" install --no-deps --requirement requirements.lock
# setuptools warns about every editable installation, which is what is wanted here.
"${pip[@]}" install --no-deps --no-build-isolation --editable . 2> >(grep -v -e '^ *!!' -e BuildBackendWarning \
  -e '^ *\*\*' -e 'Please be careful' -e 'name as your package' -e 'with strategy' -e '^ *$' >&2)
