#!/usr/bin/env bash
# Makes the virtual environment: exactly the versions in requirements.lock, on Python 3.11 or 3.12.
set -euo pipefail
venv=$1

# One that was left half made has no pip: it is completed.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  python=$("$(dirname "$0")/find_python.sh")
  "$python" -m venv "$venv"
fi

pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
echo "Installing the Python environment into $venv (2.5 GB with a CPU build of PyTorch, 6.5 GB with CUDA)"
# PyTorch first and with its own dependencies: a CUDA build brings libraries that a CPU build does not have. Everything
# else is complete in the lock, so nothing is resolved anew (nvidia-pytriton would ask for an older NumPy).
"${pip[@]}" install --constraint requirements.lock torch
"${pip[@]}" install --no-deps --requirement requirements.lock
# setuptools warns about every editable installation, which is what is wanted here.
"${pip[@]}" install --no-deps --no-build-isolation --editable . 2> >(grep -v -e '^ *!!' -e BuildBackendWarning \
  -e '^ *\*\*' -e 'Please be careful' -e 'name as your package' -e 'with strategy' -e '^ *$' >&2)
# Holoscan is linked to the CUDA runtime, on a CPU too. Where the system has none it looks beside its own libraries only,
# not into the package that brings it.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
ln -sf ../../nvidia/cu13/lib/libcudart.so.13 "$site/holoscan/lib/"
