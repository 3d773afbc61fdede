"""The sound series that are mutated: real ones, in every transfer syntax there is, small."""

from __future__ import annotations

import copy
import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from isocenter_operators.testing import as_datasets, head_phantom

__all__ = ["PATIENT", "Elements", "Original", "originals"]

# What no reason may quote. The texts are in no other attribute, and in no code of ours.
PATIENT = {
    "PatientName": "Qvystrum^Zebulon",
    "PatientID": "QX-4711-ZW",
    "PatientBirthDate": "19010223",
    "PatientComments": "wjxqk-remark",
    "OtherPatientIDs": "QX-0815-ZW",
    "ReferringPhysicianName": "Vlkorpaq^Ida",
}


@dataclass(frozen=True)
class Original:
    """`instances`: in the order of their slices, or whatever the series is; `slices`: whether they make a volume."""

    name: str
    instances: tuple[Elements, ...]
    slices: bool


@dataclass
class Elements:
    """One instance as its encoded data elements, by tag: what pydicom would not write can be put among them."""

    image: FileDataset  # as it was; not to be changed
    meta: dict[int, bytes]
    body: dict[int, bytes]
    implicit: bool
    little: bool

    @classmethod
    def of(cls, image: FileDataset) -> Elements:
        syntax = image.file_meta.TransferSyntaxUID
        implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
        meta = {int(tag): _encoded(image.file_meta, tag, False, True) for tag in list(image.file_meta._dict)}
        body = {int(tag): _encoded(image, tag, implicit, little) for tag in list(image._dict)}
        return cls(image, meta, body, implicit, little)

    def copy(self) -> Elements:
        return replace(self, meta=dict(self.meta), body=dict(self.body))

    def put(self, tag: int | str, vr: str, value: bytes, length: int | None = None) -> None:
        """An element of this tag or keyword, whatever its value; `length` is what it says of it, if not its length."""
        number = int(Tag(tag))
        meta = number >> 16 == 2
        implicit, order = self.implicit and not meta, "<" if self.little or meta else ">"
        size = len(value) if length is None else length
        head = struct.pack(f"{order}HH", number >> 16, number & 0xFFFF)
        if implicit:
            head += struct.pack(f"{order}I", size)
        elif vr in EXPLICIT_VR_LENGTH_32 or size > 0xFFFF:
            head += vr.encode() + struct.pack(f"{order}HI", 0, size)
        else:
            head += vr.encode() + struct.pack(f"{order}H", size)
        (self.meta if meta else self.body)[number] = head + value

    def drop(self, tag: int | str) -> None:
        self.body.pop(int(Tag(tag)), None)

    def value(self, tag: int) -> bytes:
        """The encoded value of an element with a short header; good enough to be put somewhere else."""
        return self.body[tag][8:]

    def written(self) -> bytes:
        """The file (PS3.10, 7)."""
        meta, body = (b"".join(part[tag] for tag in sorted(part)) for part in (self.meta, self.body))
        if self.image.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
            deflating = zlib.compressobj(6, wbits=-zlib.MAX_WBITS)
            body = deflating.compress(body) + deflating.flush()
        return bytes(128) + b"DICM" + meta + body


def _encoded(image: Dataset, tag: BaseTag, implicit: bool, little: bool) -> bytes:
    written = DicomBytesIO()
    written.is_implicit_VR, written.is_little_endian = implicit, little
    write_data_element(written, image[tag] if tag.group == 2 else image.get_item(tag), "iso8859")
    return written.getvalue()


def originals(test_data: Path) -> tuple[Original, ...]:
    """All of them. Raises FileNotFoundError or ValueError where the folder does not hold what it should."""
    return tuple(_originals(test_data))


def _originals(test_data: Path) -> Iterator[Original]:
    results = test_data / "reference-results"
    for name, folder, number in (
        ("chest, implicit", test_data / "ct-chest-275" / "image", 3),
        ("abdomen", test_data / "ct-abdomen-41" / "image", 3),
        ("tilted head", test_data / "ct-head-phantom" / "S2010", 3),
        ("MR", test_data / "mr-abdomen" / "adc_image", 3),
        ("tiny CT", results / "highdicom" / "ct-4-slices", 3),
        ("tiny CT, implicit", results / "dcmqi" / "segmentations" / "24x38x3" / "image", 3),
    ):
        yield Original(name, _elements(map(_patient, _neighbours(folder, number))), slices=True)
    for number in range(1, 10):
        (file,) = (test_data / "transfer-syntaxes" / "In").rglob(f"{number}.dcm")
        yield Original(f"transfer syntax {number}", _elements(_stacked(dcmread(file))), slices=True)
        if number == 1:
            yield Original("deflated", _elements(map(_deflated, _stacked(dcmread(file)))), slices=True)
            yield Original("JPEG", _elements(map(_as_jpeg, _stacked(dcmread(file)))), slices=True)
    yield Original("phantom", _elements(_phantom()), slices=True)
    several = results / "dcmqi" / "segmentations" / "24x38x3" / "multiframe" / "mf.dcm"
    yield Original("multi-frame", _elements([_patient(dcmread(several))]), slices=True)
    for name, file in (
        ("SEG", results / "highdicom" / "seg_image_ct_binary.dcm"),
        ("SR", results / "highdicom" / "sr_document.dcm"),
        ("secondary capture", test_data / "ct-head-phantom" / "S1000" / "I10"),
    ):
        yield Original(name, _elements([_patient(dcmread(file))]), slices=False)


def _elements(images: Iterable[FileDataset]) -> tuple[Elements, ...]:
    return tuple(Elements.of(image) for image in images)


def _neighbours(folder: Path, count: int) -> list[FileDataset]:
    files = sorted(file for file in folder.iterdir() if file.name not in ("DIRFILE", "LICENSE"))
    heads = [
        dcmread(file, specific_tags=["ImagePositionPatient", "ImageOrientationPatient"]) for file in files
    ]
    cosines = np.array(heads[0].ImageOrientationPatient, float)
    normal = np.cross(cosines[:3], cosines[3:])
    order = np.argsort([float(np.dot(normal, head.ImagePositionPatient)) for head in heads])
    middle = (len(files) - count + 1) // 2
    return [dcmread(files[index]) for index in order[middle : middle + count]]


def _stacked(first: FileDataset) -> tuple[FileDataset, ...]:
    """Three slices of the one that there is."""
    cosines = np.array(first.ImageOrientationPatient, float)
    step_mm = 5 * np.cross(cosines[:3], cosines[3:])
    slices = []
    for index in range(3):
        each = _patient(copy.deepcopy(first))
        position = np.array(first.ImagePositionPatient, float) + index * step_mm
        each.ImagePositionPatient = [f"{value:.6f}"[:16] for value in position]
        each.SOPInstanceUID = f"{first.SOPInstanceUID[:55]}.{index + 1}"
        each.file_meta.MediaStorageSOPInstanceUID = each.SOPInstanceUID
        slices.append(each)
    return tuple(slices)


def _deflated(image: FileDataset) -> FileDataset:
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return image


def _as_jpeg(image: FileDataset) -> FileDataset:
    """Lossy, 8 bits: the data has none."""
    grey = (image.pixel_array >> 4).clip(0, 255).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(grey).save(written, "JPEG", quality=90)
    image.PixelData = encapsulate([written.getvalue()])
    image["PixelData"].is_undefined_length = True
    image["PixelData"].VR = "OB"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return image


def _phantom() -> Iterator[FileDataset]:
    for slice_ in as_datasets(head_phantom(size=(48, 40, 12), spacing_mm=(5.0, 5.0, 16.0)))[4:8]:
        written = io.BytesIO()
        slice_.save_as(written, enforce_file_format=True)
        yield _patient(dcmread(io.BytesIO(written.getvalue())))


def _patient(image: FileDataset) -> FileDataset:
    for keyword, value in PATIENT.items():
        setattr(image, keyword, value)
    return image
