"""Results as other people's programs read them: dcmqi from PyPI, dciodvfy from Debian."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from isocenter_operators.dicom.rules.problem import Problem
from isocenter_operators.dicom.rules.validate import dciodvfy

Placed = tuple[NDArray[np.int16], NDArray[np.float64]]  # voxels (Z, Y, X); index (x, y, z, 1) to LPS mm


def dcmqi(program: str, *arguments: str) -> None:
    """Run one of dcmqi's programs, which lie beside this interpreter."""
    run = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def read_seg(path: Path, folder: Path) -> Placed:
    """A SEG's label map and where it lies; dcmqi writes into `folder`. Its box is that of the frames there are."""
    dcmqi(
        "segimage2itkimage", "--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nrrd",
        "--mergeSegments",
    )  # fmt: skip
    return read_nrrd(folder / "1.nrrd")


def read_report(path: Path, folder: Path) -> list[dict[str, Any]]:
    """The measurement groups of a TID 1500 report."""
    out = folder / "report.json"
    dcmqi("tid1500reader", "--inputDICOM", str(path), "--outputMetadata", str(out))
    groups: list[dict[str, Any]] = json.loads(out.read_text())["Measurements"]
    return groups


def dumped_by_dcmtk(path: Path) -> str:
    """An SR document as DCMTK prints it, every text whole. dsrdump refuses a tree that the IOD does not allow."""
    program = shutil.which("dsrdump")
    if program is None:
        lacking("dsrdump is not installed (Debian package dcmtk)")
    run = subprocess.run(
        [program, "+Pl", "+Pc", "+Pu", str(path)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert not run.stderr, run.stderr
    return run.stdout


def read_nrrd(path: Path) -> Placed:
    """A gzipped NRRD of shorts or floats."""
    header, _, content = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line)
    assert fields["space"] == "left-posterior-superior"
    shape = [int(size) for size in fields["sizes"].split()][::-1]
    stored = {"unsigned char": "u1", "short": "<i2", "float": "<f4", "double": "<f8"}[fields["type"]]
    voxels = np.frombuffer(gzip.decompress(content), stored).reshape(shape)
    columns = [
        [float(v) for v in group.split(",")]
        for group in re.findall(r"\(([^)]*)\)", fields["space directions"])
    ]
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns).T
    affine[:3, 3] = [float(v) for v in fields["space origin"].strip("()").split(",")]
    return voxels, affine


def read_series(folder: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The one series in a folder as ITK reads it: voxels (Z, Y, X), and index (x, y, z, 1) to LPS mm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its wrapper
        import SimpleITK as sitk  # noqa: N813
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), affine


def on_grid(placed: Placed, shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.int16]:
    """The same voxels on another grid (Z, Y, X) of the same spacing: each where it lies in the patient."""
    voxels, its_affine = placed
    index = np.argwhere(voxels > 0)
    points = index[:, ::-1] @ its_affine[:3, :3].T + its_affine[:3, 3]
    there = (points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    nearest = np.rint(there).astype(int)
    assert np.abs(there - nearest).max() < 0.05, "the voxels do not lie on this grid"
    moved = np.zeros(shape, np.int16)
    moved[tuple(nearest[:, ::-1].T)] = voxels[tuple(index.T)]
    return moved


def found_by_dciodvfy(path: Path) -> list[Problem]:
    """What dciodvfy says of a file. See `lacking` for where there is none."""
    found = dciodvfy(path)
    if found is None:
        lacking("dciodvfy is not installed (Debian package dicom3tools)")
    return found


def lacking(message: str) -> NoReturn:
    """Skip this test, or with ISOCENTER_REQUIRE_TEST_DATA=1 let it fail: what it needs is not here."""
    if os.environ.get("ISOCENTER_REQUIRE_TEST_DATA") == "1":
        pytest.fail(message)
    pytest.skip(message)
