#!/usr/bin/env bash
# Prints the Python that .venv is made with: $PYTHON, else the first 3.11 or 3.12 that has its venv module.
set -u

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }

for candidate in ${PYTHON:-python3 python3.12 python3.11 /usr/bin/python3}; do
  usable "$candidate" && exec "$candidate" -c 'import sys; print(sys.executable)'
done
if [ -n "${PYTHON:-}" ]; then
  echo "PYTHON=$PYTHON is not a Python 3.11 or 3.12 with its venv module" >&2
else
  echo "No Python 3.11 or 3.12 with its venv module was found. Debian 12, Ubuntu 24.04: sudo apt-get install" \
    "python3-venv. Elsewhere (Debian 13 has 3.13 only) uv brings one: PYTHON=\$(uv python find 3.12) make" >&2
fi
exit 1
