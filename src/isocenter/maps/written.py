"""What a package wrote, looked at before anybody believes it: which of it is DICOM, and whether that is right."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isocenter.maps.output_watch import DEEPEST
from isocenter_operators.dicom.rules.problem import Problem
from isocenter_operators.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Written", "check_written", "collect", "discard", "headers_below", "looks_like_dicom"]

_PREFIX = 128  # bytes before the four that a DICOM file has


@dataclass(frozen=True)
class Written:
    """One file. `problems` is empty of what is no DICOM, which nobody here can judge."""

    path: Path
    sop_class_uid: str | None  # None: no DICOM
    sop_instance_uid: str | None
    modality: str
    size: int  # bytes
    problems: Sequence[Problem]

    @property
    def valid(self) -> bool:
        return not any(problem.severity == "error" for problem in self.problems)


def collect(output: Path, folder: Path) -> list[Path]:
    """Move the files that a package wrote below `output` to the same places below `folder`.

    Only plain files: a link could lead to any file of this machine, and whoever follows it would give that away. Raises
    InputError for a file that can not be taken.
    """
    taken = []
    for number, path in enumerate(_plain_files(output), start=1):
        place = folder / path.relative_to(output)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.replace(place)
            # It is data: nobody gains a right by it, and whoever has it can read it.
            place.chmod(stat.S_IMODE(place.stat().st_mode) & 0o666 | 0o600)
            if os.geteuid() == 0:  # an engine's user may have the number of somebody here
                os.chown(place, 0, 0)
        except OSError as error:
            raise InputError(
                f"file {number} of what the package wrote can not be taken: {error.strerror}"
            ) from error
        taken.append(place)
    return taken


def _plain_files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):  # links to folders are not entered
        folders.sort()
        if len(Path(place).relative_to(folder).parts) >= DEEPEST:
            folders.clear()  # a run that left more has failed
        for name in sorted(names):
            path = Path(place) / name
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def discard(folder: Path) -> None:
    """Remove what a package wrote, however deep its folders lie and whatever their modes are.

    What can not be removed stays. Python's own way gives up where the path is longer than the kernel takes.
    """
    for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        if shutil.which(command[0]) is not None:
            subprocess.run([*command, "--", str(folder)], capture_output=True, check=False)


def headers_below(folder: Path) -> dict[str, Dataset]:
    """The DICOM files below it, without their pixels, by their SOP Instance UID."""
    found = {}
    for path in _plain_files(folder):
        header = _header(path)
        if header is not None:
            found[str(header.get("SOPInstanceUID"))] = header
    return found


def check_written(files: Sequence[Path], sources: dict[str, Dataset]) -> list[Written]:
    """Each file by the project's own rules, beside the others and the images that it was made from.

    sources: by SOP Instance UID, see `headers_below`.
    """
    headers = {path: header for path in files if (header := _header(path)) is not None}
    others = {**sources, **{str(header.get("SOPInstanceUID")): header for header in headers.values()}}
    return [_written(path, headers.get(path), others) for path in files]


def _written(path: Path, header: Dataset | None, others: dict[str, Dataset]) -> Written:
    from isocenter_operators.dicom.rules.validate import check_against, problems

    size = path.stat().st_size
    if header is None:
        wrong = problems(path) if looks_like_dicom(path) else ()
        return Written(path, None, None, "", size, wrong)
    found = [*problems(path), *check_against(header, others)]
    return Written(
        path,
        str(header.get("SOPClassUID", "")) or None,
        str(header.get("SOPInstanceUID", "")) or None,
        str(header.get("Modality", "")),
        size,
        found,
    )


def looks_like_dicom(path: Path) -> bool:
    """By its name, or by the letters that a DICOM file has behind its preamble."""
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    with path.open("rb") as content:
        return content.read(_PREFIX + 4)[_PREFIX:] == b"DICM"


def _header(path: Path) -> Dataset | None:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        return dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError, EOFError, ValueError):
        return None
