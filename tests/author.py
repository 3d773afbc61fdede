"""What the author of a MONAI bundle runs, in a process of its own: one that has imported MONAI already.

To import it takes longer than to run a small bundle. A process that has done so, and nothing else, is kept, and forked
for each run, so that none sees what another has changed.
"""

from __future__ import annotations

import os
import runpy
import sys
import warnings
from multiprocessing import get_context
from pathlib import Path

__all__ = ["run_as_author"]

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["monai.bundle", "monai.handlers", "nibabel"])


def run_as_author(script: str, folder: Path) -> None:
    """Run this script with `folder` as its working directory, and wait for it; it has to end in order."""
    file, said = folder / "author.py", folder / "author.log"
    file.write_text(script)
    process = _CONTEXT.Process(target=_run, args=(file, folder, said))
    process.start()
    process.join()
    assert process.exitcode == 0, said.read_text()[-3000:]
    process.close()


def _run(file: Path, folder: Path, said: Path) -> None:
    with said.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(folder)
    warnings.simplefilter("ignore")
    sys.argv = [str(file)]
    runpy.run_path(str(file))
