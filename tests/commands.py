"""The commands that a user types, in a folder of the user's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from ports import free_port

from isocenter.cli import main
from isocenter.settings import Settings
from isocenter.stack.running import exclusively, write
from isocenter.stack.triton import running_triton

__all__ = ["in_this_process", "isocenter", "running_site", "site"]

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


def in_this_process(place: Path, group: str, *words: str | Path) -> Any:
    """The same for a command that would first import MONAI, which a test has done that makes bundles."""
    said = StringIO()
    with redirect_stdout(said):
        code = main([group, "--config", str(place / "isocenter.yaml"), *map(str, words), "--json"])
    assert code == 0, said.getvalue()
    return json.loads(said.getvalue())


def site(folder: Path, **triton: Any) -> Path:
    """A folder with a configuration and a data folder of its own, and what is installed."""
    content = {
        "data_dir": str(folder / "data"),
        "apps_dir": str(ROOT / "apps"),
        "triton": {"model_repository": str(ROOT / "triton_models"), **triton},
    }
    (folder / "isocenter.yaml").write_text(json.dumps(content))
    return folder


@contextmanager
def running_site(folder: Path) -> Iterator[Path]:
    """Such a folder, and a Triton that runs on it, without any model yet: this process holds the folder's lock, as the
    supervisor does."""
    place = site(folder, **{f"{name}_port": free_port() for name in ("http", "grpc", "metrics")})
    settings = Settings.resolved(place / "isocenter.yaml")
    with exclusively(settings), running_triton(settings, []):
        write(settings)
        yield place
