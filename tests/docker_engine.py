"""Stands where `docker` does for docker/backup.sh and docker/restore.sh: the few things they ask, done on this machine.

Its settings are a JSON file, named by DOCKER_ENGINE: `volumes` (name to folder), `database` (name to the one here),
`port` and `programs` of PostgreSQL, `calls` (a file that each call is noted in).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def main(words: list[str]) -> int:
    settings: dict[str, Any] = json.loads(Path(os.environ["DOCKER_ENGINE"]).read_text())
    with Path(settings["calls"]).open("a") as calls:
        calls.write(f"{' '.join(words)}\n")
    match words:
        case ["volume", "inspect", name]:
            return 0 if Path(settings["volumes"].get(name, "/nowhere")).exists() else 1
        case ["run", *options]:
            return _tar(options, settings)
        case ["compose", *options] if "exec" in options:
            return _postgres(options[options.index("postgres") + 1 :], settings)
        case ["compose", *_]:
            return 0  # the test starts and stops processes itself
    sys.stderr.write(f"nobody has taught this {words}\n")
    return 125


def _tar(options: list[str], settings: dict[str, Any]) -> int:
    mounted, _, where = options[options.index("--volume") + 1].partition(":")
    folder = Path(settings["volumes"][mounted])
    folder.mkdir(parents=True, exist_ok=True)
    words = options[options.index("isocenter/gateway:0.1.0") + 1 :]
    words = [str(folder) if word == where.partition(":")[0] else word for word in words]
    return subprocess.run(["tar", *words], check=False).returncode


def _postgres(words: list[str], settings: dict[str, Any]) -> int:
    program, *others = words
    for there, here in settings["database"].items():
        others = [
            here if word == there else word.replace(f"--dbname={there}", f"--dbname={here}")
            for word in others
        ]
    environment = {**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(settings["port"])}
    return subprocess.run(
        [Path(settings["programs"]) / program, *others], env=environment, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
