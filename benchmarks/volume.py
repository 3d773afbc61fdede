"""Files to one volume: ours against the MONAI Deploy SDK's loader and volume operators, in seconds and in memory."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from comparison import Comparison, machine, side_by_side
from numpy.typing import NDArray

from isocenter_operators.dicom.series.geometry import volume_of
from isocenter_operators.dicom.series.part10 import Seen
from isocenter_operators.dicom.series.read import read_bytes, read_folder
from isocenter_operators.dicomweb.client import DICOMwebClient

__all__ = ["compare", "memory_of"]

_Volume = NDArray[np.int16]  # (Z, Y, X)


def compare(chest: Path) -> Iterator[Comparison]:
    ours, sdk = _ours(chest), _sdk(chest)
    if not np.array_equal(ours(), sdk()):
        raise SystemExit("our volume and the SDK's differ: the benchmark means nothing")
    against = "the SDK's loader and volume operators"
    yield side_by_side("files to volume", ours, sdk, against=against)
    yield Comparison(
        "files to volume, memory",
        memory_of("ours", str(chest)),
        memory_of("sdk", str(chest)),
        "x",
        f"{against}; times the voxels' bytes",
        machine(),
    )


def memory_of(way: str, *place: str) -> float:
    """How many times the voxels' bytes a process of its own held more at most, while it made the volume."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, way, *place], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{way}: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def _ours(chest: Path) -> Callable[[], _Volume]:
    def read() -> _Volume:
        voxels: _Volume = volume_of(read_folder(chest)).voxels
        return voxels

    return read


def _ours_from_archive(url: str, study_uid: str, series_uid: str) -> Callable[[], _Volume]:
    def read() -> _Volume:
        seen = Seen()
        with DICOMwebClient(url) as client:
            received = client.retrieve_series(study_uid, series_uid)
            instances = [read_bytes(content, origin="a part", seen=seen) for content in received]
        voxels: _Volume = volume_of([each for each in instances if each is not None]).voxels
        return voxels

    return read


def _sdk(chest: Path) -> Callable[[], _Volume]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.deploy.core import Fragment
        from monai.deploy.core.domain.dicom_series_selection import SelectedSeries, StudySelectedSeries
        from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
        from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
    logging.disable(logging.WARNING)
    fragment = Fragment()
    loader = DICOMDataLoaderOperator(fragment, input_folder=chest, name="loader")
    converter = DICOMSeriesToVolumeOperator(fragment, name="converter")

    def read() -> _Volume:
        (study,) = loader.load_data_to_studies(chest)
        selected = StudySelectedSeries(study)
        selected.add_selected_series(SelectedSeries("", study.get_all_series()[0]))
        voxels: _Volume = converter.convert_to_image([selected]).asnumpy()
        return voxels

    return read


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _measure(way: str, *place: str) -> float:
    ways: dict[str, Callable[..., Any]] = {"ours": _ours, "sdk": _sdk, "archive": _ours_from_archive}
    read = ways[way](*(place if way == "archive" else map(Path, place)))
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # from now on the most is counted anew
    voxels = read()
    return (_status_bytes("VmHWM") - before) / int(voxels.nbytes)


if __name__ == "__main__":
    print(json.dumps(_measure(*sys.argv[1:])))
