"""`python apps/<app> [-i FOLDER] [-o FOLDER]`: an application by itself, as any MONAI Application Package runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from isocenter_operators.dicom.results.standard_tables import load_tables
from isocenter_operators.errors import IsocenterError
from isocenter_operators.manifest import AppManifest
from isocenter_operators.run import Folder, Run
from isocenter_operators.standby import stand_by

if TYPE_CHECKING:
    from isocenter_operators.application import Application

__all__ = ["main"]


def main(manifest: AppManifest, application: Callable[[Run], Application]) -> int:
    """Run it once on folders. The numbers go to stdout as JSON, anything else to stderr.

    Returns the exit code: 0 also where the application is not applicable, 1 where it failed.
    """
    parser = argparse.ArgumentParser(
        prog=manifest.name, description="Without options: the environment of a MAP."
    )
    parser.add_argument("-i", "--input", type=Path, help="folder of DICOM files; else HOLOSCAN_INPUT_PATH")
    parser.add_argument("-o", "--output", type=Path, help="folder for the results; else HOLOSCAN_OUTPUT_PATH")
    given = parser.parse_args()
    if not stand_by(load_tables):  # whatever belongs to the run, as its time, comes after this
        sys.stderr.write(f"{manifest.name}: nobody said that it is to begin\n")
        return 1
    task = Run.from_environment(deadline_s=manifest.deadline_s)
    if given.input:
        task = replace(task, source=Folder(given.input))
    if given.output:
        task = replace(task, sink=Folder(given.output))
    try:
        outcome = application(task).execute()
    except IsocenterError as error:
        sys.stderr.write(f"{manifest.name}: {error}\n")
        return 1
    if outcome.status == "not_applicable":
        sys.stderr.write(f"not applicable: {outcome.reason}\n")
    for note in outcome.notes:
        sys.stderr.write(f"note: {note}\n")
    sys.stdout.write(json.dumps([dict(group) for group in outcome.groups], indent=2) + "\n")
    return 0
