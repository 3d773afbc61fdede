"""A phantom as a series of CT Image Storage instances (PS3.3, A.3)."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from isocenter_operators.testing.phantom import Phantom

__all__ = ["as_datasets", "write_series"]

_RESCALE_INTERCEPT = -1024
_DATE, _TIME = "20260105", "083000"  # a phantom has no age: the same bytes on every day
_MODELS = {"CHEST": "Thorax phantom", "HEAD": "Head phantom", "ABDOMEN": "Abdomen phantom"}
_NAMESPACE = uuid.UUID("4f0c2d0e-6c1b-5b0a-9d8e-3a7f51c0b9d2")


def as_datasets(phantom: Phantom, *, uid_seed: str = "", series_number: int = 1) -> list[Dataset]:
    """One Dataset per slice, in the order of the array's Z, ready to be sent or saved (with `file_meta`).

    uid_seed: the UIDs follow from the phantom and this; another text makes another study of the same patient.
    series_number: series of different numbers and the same phantom and `uid_seed` belong to one study.

    A reader that orders slices along the normal of the image plane, as PS3.3 C.7.6.2.1.1 has it, finds them in
    reverse where the phantom's orientation is left-handed.
    """
    series = _Series(phantom, uid_seed, series_number)
    return [series.instance(index) for index in range(phantom.hu.shape[0])]


def write_series(phantom: Phantom, folder: Path, *, uid_seed: str = "", series_number: int = 1) -> list[Path]:
    """Write one file per slice and return the paths in the order of the array's Z.

    The order of the file names is not that order: no reader should rely on it. The folder is made if needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for dataset, name in zip(
        as_datasets(phantom, uid_seed=uid_seed, series_number=series_number),
        _shuffled_names(phantom.hu.shape[0]),
        strict=True,
    ):
        paths.append(folder / name)
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def _shuffled_names(count: int) -> Iterator[str]:
    for number in np.random.default_rng(count).permutation(count):
        yield f"IM{number + 1:05d}.dcm"


class _Series:
    """What the slices of one series have in common, and how to make one of them."""

    def __init__(self, phantom: Phantom, uid_seed: str, series_number: int) -> None:
        self._phantom = phantom
        self._study_key = f"{phantom.digest}/{uid_seed}"
        self._series_key = f"{self._study_key}/{series_number}"
        self._common = self._attributes(series_number)

    def instance(self, index: int) -> Dataset:
        phantom = self._phantom
        dataset = deepcopy(self._common)  # so that a test may spoil one slice and no other
        uid = _uid(f"{self._series_key}/{index}")
        position = phantom.affine[:3, :3] @ (0, 0, index) + phantom.affine[:3, 3]
        dataset.SOPInstanceUID = uid
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [format_number_as_ds(float(part)) for part in position]
        dataset.SliceLocation = format_number_as_ds(float(position @ _normal(phantom)))
        stored = phantom.hu[index].astype("<i2") - np.int16(_RESCALE_INTERCEPT)
        dataset.PixelData = stored.tobytes()
        dataset.file_meta = _file_meta(uid)
        return dataset

    def _attributes(self, series_number: int) -> Dataset:
        dataset = Dataset()
        self._patient_and_study(dataset)
        self._series_and_equipment(dataset, series_number)
        self._acquisition(dataset)
        self._image(dataset)
        return dataset

    def _patient_and_study(self, dataset: Dataset) -> None:
        dataset.PatientName = "Phantom^Thorax"
        dataset.PatientID = "ISOCENTER-PHANTOM"
        dataset.PatientBirthDate = ""
        dataset.PatientSex = "O"
        dataset.QualityControlSubject = "YES"  # PS3.3, C.7.1.1: the subject is a phantom
        dataset.StudyInstanceUID = _uid(self._study_key)
        dataset.StudyDate, dataset.StudyTime = _DATE, _TIME
        dataset.StudyID = "1"
        # An accession number of its own for each study: archives and viewers look studies up by it.
        dataset.AccessionNumber = "P" + hashlib.sha256(self._study_key.encode()).hexdigest()[:12].upper()
        dataset.ReferringPhysicianName = ""
        dataset.StudyDescription = f"CT {self._phantom.body_part.title()} (phantom)"

    def _series_and_equipment(self, dataset: Dataset, series_number: int) -> None:
        dataset.Modality = "CT"
        dataset.SeriesInstanceUID = _uid(self._series_key + "/series")
        dataset.SeriesNumber = series_number
        dataset.SeriesDate, dataset.SeriesTime = _DATE, _TIME
        dataset.SeriesDescription = f"{self._phantom.body_part.title()} phantom"
        dataset.ProtocolName = "Phantom"
        dataset.BodyPartExamined = self._phantom.body_part
        dataset.PatientPosition = "HFS"
        dataset.FrameOfReferenceUID = _uid(self._study_key + "/frame")
        dataset.PositionReferenceIndicator = ""
        dataset.Manufacturer = "Isocenter"
        dataset.ManufacturerModelName = _MODELS.get(self._phantom.body_part, "Phantom")
        dataset.DeviceSerialNumber = "1"
        dataset.SoftwareVersions = "1"

    def _acquisition(self, dataset: Dataset) -> None:
        dataset.AcquisitionNumber = 1
        dataset.AcquisitionDate, dataset.AcquisitionTime = _DATE, _TIME
        dataset.ContentDate, dataset.ContentTime = _DATE, _TIME
        dataset.KVP = "120"
        dataset.XRayTubeCurrent = 200
        dataset.ExposureTime = 500
        dataset.Exposure = 100
        dataset.ScanOptions = "HELIX"
        dataset.FilterType = "NONE"
        dataset.ConvolutionKernel = "STANDARD"
        dataset.GantryDetectorTilt = "0"
        dataset.RotationDirection = "CW"

    def _image(self, dataset: Dataset) -> None:
        phantom = self._phantom
        column_mm, row_mm, slice_mm = np.linalg.norm(phantom.affine[:3, :3], axis=0)
        directions = phantom.affine[:3, :3] / (column_mm, row_mm, slice_mm)
        _, dataset.Rows, dataset.Columns = phantom.hu.shape
        dataset.SOPClassUID = CTImageStorage
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImageOrientationPatient = [format_number_as_ds(float(p)) for p in directions.T[:2].flat]
        dataset.PixelSpacing = [format_number_as_ds(float(part)) for part in (row_mm, column_mm)]
        dataset.SliceThickness = format_number_as_ds(float(slice_mm))
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = 1
        dataset.RescaleIntercept = str(_RESCALE_INTERCEPT)
        dataset.RescaleSlope = "1"
        dataset.RescaleType = "HU"
        dataset.WindowCenter, dataset.WindowWidth = "-600", "1500"
        dataset.WindowCenterWidthExplanation = "LUNG"
        dataset.BurnedInAnnotation = "NO"
        dataset.LossyImageCompression = "00"


def _normal(phantom: Phantom) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    normal = np.cross(phantom.affine[:3, 0], phantom.affine[:3, 1])
    unit: np.ndarray[tuple[int], np.dtype[np.float64]] = normal / np.linalg.norm(normal)
    return unit


def _uid(key: str) -> UID:
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, key).int}")  # PS3.5, B.2


def _file_meta(sop_instance_uid: UID) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = sop_instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta
