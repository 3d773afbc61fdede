"""A label map to a DICOM Segmentation in a file: ours against the SDK's writer and plain highdicom, on equal arrays.

    python benchmarks/segmentation.py        prints each comparison

300 slices of 512 x 512 with 1, 10 and 104 segments. Each writer works in a process of its own, whose growth is its
memory, and has written one slice before, as in a warm worker; what highdicom and ours wrote is then compared.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from comparison import Comparison, machine
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

SHAPE = (300, 512, 512)  # (Z, Y, X)
WRITERS = ("ours BINARY", "highdicom BINARY", "ours LABELMAP", "highdicom LABELMAP", "SDK BINARY")
_MOST_MB = 2048


@dataclass(frozen=True)
class Taken:
    """`seconds` from the arrays to the file, `memory_mb` by which the process grew, `file_mb` that were written."""

    seconds: float
    memory_mb: float
    file_mb: float


def compare(rounds: int = 1) -> Iterator[Comparison]:
    for count in (1, 10, 104):
        with tempfile.TemporaryDirectory() as folder:
            taken = _measured(count, Path(folder), rounds)
            _require_same(Path(folder))
        binary, labelmap = taken["ours BINARY"], taken["ours LABELMAP"]
        if max(binary.memory_mb, labelmap.memory_mb) > _MOST_MB:
            raise SystemExit(f"SEG of {count} segments took more than {_MOST_MB} MB")
        yield from _lines(f"SEG of {count}, BINARY", binary, taken["highdicom BINARY"], "plain highdicom")
        yield from _lines(
            f"SEG of {count}, LABELMAP", labelmap, taken["highdicom LABELMAP"], "plain highdicom"
        )
        sdk = "the SDK's writer, which writes BINARY and reads it back"
        yield Comparison(
            f"SEG of {count}, beside the SDK",
            binary.seconds,
            taken["SDK BINARY"].seconds,
            "s",
            sdk,
            machine(),
        )


def _lines(name: str, ours: Taken, peer: Taken, against: str) -> Iterator[Comparison]:
    yield Comparison(name, ours.seconds, peer.seconds, "s", against, machine())
    yield Comparison(f"{name}, memory", ours.memory_mb, peer.memory_mb, "MB", against, machine())
    yield Comparison(f"{name}, size", ours.file_mb, peer.file_mb, "MB", against, machine())


def _measured(count: int, folder: Path, rounds: int) -> dict[str, Taken]:
    """The writers in turn, so that a noisy machine is noisy for all."""
    found: dict[str, list[Taken]] = {writer: [] for writer in WRITERS}
    for _ in range(rounds):
        for writer in WRITERS:
            found[writer].append(_child(writer, count, folder / f"{writer}.dcm"))
    return {
        writer: Taken(
            statistics.median(one.seconds for one in taken),
            max(one.memory_mb for one in taken),
            taken[0].file_mb,
        )
        for writer, taken in found.items()
    }


def _child(writer: str, count: int, path: Path) -> Taken:
    run = subprocess.run(
        [sys.executable, __file__, writer, str(count), str(path)], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"{writer}, {count} segments: {run.stderr}")
    return Taken(**json.loads(run.stdout.splitlines()[-1]))


def _require_same(folder: Path) -> None:
    """The same frames in the same order with the same bits; otherwise the benchmark means nothing."""
    ours, theirs = (dcmread(folder / f"{writer} BINARY.dcm") for writer in ("ours", "highdicom"))
    if (
        ours.PixelData != theirs.PixelData
        or ours.PerFrameFunctionalGroupsSequence != theirs.PerFrameFunctionalGroupsSequence
    ):
        raise SystemExit("our segmentation and highdicom's differ: the benchmark means nothing")
    ours, theirs = (dcmread(folder / f"{writer} LABELMAP.dcm") for writer in ("ours", "highdicom"))
    if not np.array_equal(ours.pixel_array, theirs.pixel_array):
        raise SystemExit("our label map and highdicom's differ: the benchmark means nothing")


def _labels(count: int) -> NDArray[np.uint8]:
    """As many ellipsoids as segments, of the sizes of organs, within a body; what lies over another hides it."""
    random = np.random.default_rng(104)
    labels = np.zeros(SHAPE, np.uint8)
    for number in range(1, count + 1):
        centre = random.uniform([0.15, 0.25, 0.2], [0.85, 0.75, 0.8]) * SHAPE
        radius = random.uniform([0.05, 0.04, 0.04], [0.2, 0.12, 0.12]) * SHAPE
        low = np.maximum((centre - radius).astype(int), 0)
        box = tuple(slice(a, int(b) + 1) for a, b in zip(low, centre + radius, strict=True))
        region = labels[box]
        grid = np.ogrid[tuple(slice(a, a + n) for a, n in zip(low, region.shape, strict=True))]
        away = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True))
        region[away <= 1] = number
    return labels


def _sources(depth: int) -> list[Dataset]:
    """Headers of as many CT images, without their pixels."""
    from isocenter_operators.testing import as_datasets, thorax_phantom

    small = thorax_phantom(size=(64, 64, depth), spacing_mm=(5.0, 5.0, 1.2), noise_hu=0)
    instances = as_datasets(small)
    for instance in instances:
        del instance.PixelData
        instance.Rows, instance.Columns = SHAPE[1:]
        instance.PixelSpacing = [0.7, 0.7]
    return instances


def _ours(kind: str, labels: NDArray[np.uint8], count: int, path: Path) -> Callable[[], None]:
    from isocenter_operators.dicom import codes
    from isocenter_operators.dicom.findings import Segment
    from isocenter_operators.dicom.identity import Algorithm, JobIdentity
    from isocenter_operators.dicom.results.profile import MODERN
    from isocenter_operators.dicom.results.seg import segmentation
    from isocenter_operators.dicom.series.frame import Frame

    frames = [Frame(instance) for instance in _sources(len(labels))]
    segments = [
        Segment(number, f"Part {number}", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (number, 90, 200))
        for number in range(1, count + 1)
    ]
    identity = JobIdentity("0" * 64, datetime(2026, 11, 25))

    def write() -> None:
        segmentation(
            labels=labels,
            frames=frames,
            segments=segments,
            algorithm=Algorithm("parts", "1"),
            identity=identity,
            kind="LABELMAP" if kind == "LABELMAP" else "BINARY",
            transfer_syntax_uid=MODERN.transfer_syntax(kind),
        ).save_as(path, enforce_file_format=True)

    return write


def _highdicom(kind: str, labels: NDArray[np.uint8], count: int, path: Path) -> Callable[[], None]:
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    sources = _sources(len(labels))
    described = [_described(highdicom, codes, number) for number in range(1, count + 1)]

    def write() -> None:
        highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=labels,
            segmentation_type=kind,
            segment_descriptions=described,
            series_instance_uid=highdicom.UID(),
            series_number=1,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="Isocenter",
            manufacturer_model_name="parts",
            software_versions="1",
            device_serial_number="1",
            transfer_syntax_uid=RLELossless if kind == "LABELMAP" else ExplicitVRLittleEndian,
        ).save_as(path, enforce_file_format=True)

    return write


def _described(highdicom: Any, codes: Any, number: int) -> Any:
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"Part {number}",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Lung,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="parts", family=codes.DCM.ArtificialIntelligence, version="1"
        ),
    )


def _sdk(kind: str, labels: NDArray[np.uint8], count: int, path: Path) -> Callable[[], None]:
    """The SDK's operator, called as its `compute` calls it once it has the series."""
    from monai.deploy.core import Fragment
    from monai.deploy.operators.dicom_seg_writer_operator import (
        DICOMSegmentationWriterOperator,
        SegmentDescription,
    )
    from pydicom.sr.codedict import codes

    described = [
        SegmentDescription(
            segment_label=f"Part {number}",
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Lung,
            algorithm_name="parts",
            algorithm_version="1",
        )
        for number in range(1, count + 1)
    ]
    writer = DICOMSegmentationWriterOperator(
        Fragment(), segment_descriptions=described, output_folder=path.parent, name="seg"
    )
    instances = [
        SimpleNamespace(get_native_sop_instance=lambda one=one: one) for one in _sources(len(labels))
    ]
    series = SimpleNamespace(get_sop_instances=lambda: instances)

    def write() -> None:
        folder = path.with_suffix("")
        writer.create_dicom_seg(labels, series, folder)
        for written in folder.iterdir():
            written.replace(path)

    return write


def _work(writer: str, count: int, path: Path) -> None:
    """In a process of its own: write, and print what it took."""
    who, kind = writer.split()
    prepare = {"ours": _ours, "highdicom": _highdicom, "SDK": _sdk}[who]
    write = prepare(kind, _labels(count), count, path)
    prepare(kind, np.ones((1, *SHAPE[1:]), np.uint8), 1, path)()
    Path("/proc/self/clear_refs").write_text("5")  # the highest use of memory counts from here
    before_mb = _memory_mb("VmRSS")
    seconds = min(_seconds(write) for _ in range(2))  # the one that others' work disturbed less
    grown_mb = _memory_mb("VmHWM") - before_mb
    print(json.dumps({"seconds": seconds, "memory_mb": grown_mb, "file_mb": path.stat().st_size / 2**20}))


def _seconds(write: Callable[[], None]) -> float:
    started = time.perf_counter()
    write()
    return time.perf_counter() - started


def _memory_mb(what: str) -> float:
    """Of this process: what it holds (VmRSS), or the most that it held (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(what))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    else:
        for one in compare():
            print(one.name, one.as_json())
