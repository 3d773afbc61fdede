"""Confined by the kernel's namespaces alone, with `unshare` of util-linux: where bubblewrap is not installed.

`unshare` makes the namespaces and becomes the first process in them, `confinement.py`; that makes the file system,
gives up what it may, and runs the package.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from isocenter.maps import seccomp
from isocenter.maps.cell import Cell

__all__ = ["available", "command_of"]

_CONFINEMENT = Path(__file__).with_name("confinement.py")
_TRY_S = 20.0


def available() -> bool:
    """Whether this user may make namespaces here."""
    if shutil.which("unshare") is None:
        return False
    words = [*_unshare(network=False), "true"]
    try:
        return subprocess.run(words, capture_output=True, timeout=_TRY_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def command_of(cell: Cell, folder: Path) -> list[str]:
    """The command that runs the cell. It ends with its parent, and all that was started in it with it.

    folder: an empty one of this run, on which the file system is made; nothing is left in it.
    """
    place = folder / "root"
    place.mkdir(exist_ok=True)
    plan = {
        "root": str(place),
        "mounts": [asdict(mount) for mount in cell.mounts],
        "devices": [str(device) for device in cell.devices],
        "arguments": list(cell.arguments),
        "environment": dict(cell.environment),
        "directory": cell.directory,
        "uid": cell.user.uid,
        "gid": cell.user.gid,
        "network": cell.network,
        "filter": seccomp.program().hex(),
    }
    file = folder / "plan.json"
    file.write_text(json.dumps(plan))
    return [*_unshare(network=cell.network), sys.executable, "-I", "-S", str(_CONFINEMENT), str(file)]


def _unshare(*, network: bool) -> list[str]:
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--ipc", "--uts"]
    if os.geteuid() != 0:
        words += ["--user", "--map-root-user"]
    return words if network else [*words, "--net"]
