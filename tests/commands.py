"""The commands that a user types, in a folder of the user's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["isocenter", "site"]

ROOT = Path(__file__).parents[1]


def isocenter(place: Path, *words: str | Path) -> Any:
    """Run one in `place`, which has to succeed, and give its answer as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "isocenter.cli", *map(str, words), "--json"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def site(folder: Path) -> Path:
    """A folder with a configuration and a data folder of its own, and what is installed."""
    content = {
        "data_dir": str(folder / "data"),
        "apps_dir": str(ROOT / "apps"),
        "triton": {"model_repository": str(ROOT / "triton_models")},
    }
    (folder / "isocenter.yaml").write_text(json.dumps(content))
    return folder
