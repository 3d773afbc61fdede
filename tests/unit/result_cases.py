"""Volumes, label maps and findings that the tests of the result objects share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Findings, Measurement, MeasurementGroup, Segment
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.picture import overlay_pictures
from isocenter_operators.dicom.results.seg import segmentation
from isocenter_operators.dicom.results.sr import measurement_report
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.dicom.series.read import read_folder
from isocenter_operators.testing import as_datasets, thorax_phantom

ALGORITHM = Algorithm("ct_lung_density", "1.2.0", {"lungs": "3"})
CREATED = datetime(2026, 11, 22, 10, 30)
RIGHT = Segment(1, "Right lung", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (90, 160, 220), codes.RIGHT)
LEFT = Segment(2, "Left lung", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (240, 180, 90), codes.LEFT)
SEGMENTS = (RIGHT, LEFT)

# Every series of the test data that makes a volume, and how the results of it are tried.
SERIES = [
    "ct-chest-275/image",
    "ct-abdomen-41/image",
    "ct-head-phantom/S2010",
    "ct-head-phantom/S3010",
    "mr-abdomen/adc_image",
    "mr-abdomen/t2_image",
    "reference-results/dcmqi/segmentations/ct-3slice",
    "reference-results/dcmqi/segmentations/23x38x3/image",
    "reference-results/dcmqi/segmentations/24x38x3/image",
]


def phantom_case(**parameters: Any) -> tuple[Volume, NDArray[np.uint8]]:
    """The thorax phantom as a volume with its true label map (Z, Y, X)."""
    parameters = {"size": (96, 80, 24), "spacing_mm": (3.8, 3.8, 12.0), "noise_hu": 0.0, **parameters}
    phantom = thorax_phantom(**parameters)
    volume = volume_of(as_datasets(phantom))
    return volume, _on_grid(phantom.labels, phantom.affine, volume)


def _on_grid(labels: NDArray[np.uint8], affine: NDArray[np.float64], volume: Volume) -> NDArray[np.uint8]:
    """The volume's slices run along the normal, the phantom's as its orientation says."""
    flipped = float(affine[:3, 2] @ volume.affine[:3, 2]) < 0
    return np.ascontiguousarray(labels[::-1]) if flipped else labels


def read_case(folder: Path) -> tuple[Volume, NDArray[np.uint8]]:
    """A real series with two blocks of its darker voxels as a label map; the first slice stays empty."""
    volume = volume_of(read_folder(folder))
    depth, height, width = volume.voxels.shape
    labels = np.zeros((depth, height, width), np.uint8)
    rows = slice(height // 4, 3 * height // 4)
    labels[1:, rows, width // 8 : width // 2] = 1
    labels[1:, rows, width // 2 : 7 * width // 8] = 2
    labels[volume.voxels > np.percentile(volume.voxels[::4, ::4, ::4], 70)] = 0
    return volume, labels


def identity_of(volume: Volume, algorithm: Algorithm = ALGORITHM) -> JobIdentity:
    return JobIdentity.of((str(source.SOPInstanceUID) for source in volume.sources), algorithm, CREATED)


def findings_of(volume: Volume, labels: NDArray[np.uint8], *, note: str = "") -> Findings:
    """The numbers of right, left and both."""
    voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000
    regions = (
        ("Right lung", (1,), codes.RIGHT),
        ("Left lung", (2,), codes.LEFT),
        ("Both lungs", (1, 2), codes.BILATERAL),
    )
    groups = []
    for label, numbers, laterality in regions:
        hu = volume.voxels[labels > 0 if len(numbers) == 2 else labels == numbers[0]]
        mean = float(hu.mean(dtype=np.float64)) if hu.size else math.nan
        measurements = (
            Measurement("volume_mL", codes.VOLUME, hu.size * voxel_ml, codes.MILLILITER, decimals=0),
            Measurement("mean_density_HU", codes.ATTENUATION, mean, codes.HOUNSFIELD_UNIT, codes.MEAN),
            Measurement("laa_950_percent", codes.LAA_950, 100 * float(np.mean(hu < -950)), codes.PERCENT),
        )
        notes = (note,) if note and label == "Right lung" else ()
        groups.append(MeasurementGroup(label, codes.LUNG, numbers, measurements, laterality, notes))
    return Findings(tuple(groups))


def seg_of(volume: Volume, labels: NDArray[np.uint8], **others: Any) -> Dataset:
    return segmentation(
        labels=labels,
        frames=volume.frames,
        segments=SEGMENTS,
        algorithm=ALGORITHM,
        identity=identity_of(volume),
        **others,
    )


def report_of(volume: Volume, findings: Findings, seg: Dataset | None = None, **others: Any) -> Dataset:
    return measurement_report(
        findings=findings,
        seg=seg,
        frames=volume.frames,
        segments=SEGMENTS,
        algorithm=ALGORITHM,
        identity=identity_of(volume),
        **others,
    )


def pictures_of(volume: Volume, labels: NDArray[np.uint8], findings: Findings) -> Sequence[Dataset]:
    return overlay_pictures(
        volume=volume,
        labels=labels,
        segments=SEGMENTS,
        findings=findings,
        algorithm=ALGORITHM,
        identity=identity_of(volume),
    )


def written(instance: Dataset, folder: Path, name: str) -> Path:
    path = folder / f"{name}.dcm"
    instance.save_as(path, enforce_file_format=True)
    return path
