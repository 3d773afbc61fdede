#!/usr/bin/env bash
# Fetches all that scripts/install_python.sh installs into a folder, for a machine without a network: docs/install-offline.md.
#
#   scripts/download_wheels.sh FOLDER [PYTHON]
#
# PYTHON is of the version that the other machine has (3.11 or 3.12), on the same processor.
set -euo pipefail
folder=$1
python=${2:-$("$(dirname "$0")/find_python.sh")}
cd "$(dirname "$0")/.."

pip=("$python" -m pip --quiet --disable-pip-version-check)
# As they are installed: PyTorch with its own dependencies, everything else as the lock says. Packages that have no wheel are
# made into one here, since that may need what is not there.
"${pip[@]}" wheel --wheel-dir "$folder" --constraint requirements.lock torch
"${pip[@]}" wheel --wheel-dir "$folder" --find-links "$folder" --no-deps --requirement requirements.lock
(cd "$folder" && sha256sum ./*.whl >SHA256SUMS)
echo "$(find "$folder" -name '*.whl' | wc -l) wheels are in $folder"
