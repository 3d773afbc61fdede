#!/usr/bin/env bash
# Writes requirements.lock from the environment in .venv: run it after changing a dependency there.
set -euo pipefail
cd "$(dirname "$0")/.."
{
  echo "# Every package of the environment, exactly. Made by scripts/lock.sh; installed without resolving."
  .venv/bin/python -m pip freeze --all --exclude-editable --exclude pip |
    sed -E 's/\+cpu$//; s/ @ .*//' | grep -v '^-e' | LC_ALL=C sort -f
} > requirements.lock
