"""DICOM instances from files and from bytes, complete or refused.

pydicom reads a truncated file without a word; here a missing end is found before anything is computed on it.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, MediaStorageDirectoryStorage

from isocenter_operators.errors import UnreadableInput

__all__ = ["read_bytes", "read_file", "read_folder"]

_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_PIXEL_DESCRIPTION = ("Rows", "Columns", "BitsAllocated")
_SEQUENCE_DELIMITER = b"\xfe\xff\xdd\xe0"  # (FFFE,E0DD), little endian, as in every encapsulated syntax
_PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read_folder(path: Path) -> list[Dataset]:
    """Every DICOM instance below `path` (or the one file it is), in no meaningful order.

    Files that are not DICOM, and DICOMDIR, are passed over. Raises UnreadableInput when nothing is left, or when
    an instance is truncated: half a series is not the series.
    """
    if not path.exists():
        raise UnreadableInput(f"{path} does not exist", path=str(path))
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    instances: list[Dataset] = [instance for file in files if (instance := read_file(file)) is not None]
    if not instances:
        looked_at = f"{len(files)} files were looked at" if files else "the folder is empty"
        raise UnreadableInput(f"no DICOM images in {path}: {looked_at}", path=str(path))
    return instances


def read_file(file: Path) -> FileDataset | None:
    """One instance, or None where the file is not DICOM (or is a DICOMDIR).

    Raises UnreadableInput for a DICOM file that can not be read to its end.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UnreadableInput(f"{file} can not be read: {error.strerror}", path=str(file)) from error
    if content[128:132] != b"DICM":
        return None
    return read_bytes(content, origin=str(file))


def read_bytes(content: bytes, *, origin: str) -> FileDataset | None:
    """One instance in the DICOM file format (PS3.10, 7), or None for a DICOMDIR.

    `origin` names the source in messages. Raises UnreadableInput when it is truncated or not DICOM.
    """
    try:
        instance = dcmread(BytesIO(content))
    except (InvalidDicomError, EOFError, ValueError, KeyError, NotImplementedError, AttributeError) as error:
        raise UnreadableInput(f"{origin} can not be read as DICOM: {error}", path=origin) from error
    if instance.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return None
    syntax = UID(instance.file_meta.get("TransferSyntaxUID", ""))
    if not syntax.is_transfer_syntax:
        raise UnreadableInput(
            f"{origin} has the transfer syntax {syntax or 'none'}, which is not one of DICOM (PS3.6, A)",
            path=origin,
        )
    missing = [keyword for keyword in _REQUIRED if not instance.get(keyword)]
    if missing:
        raise UnreadableInput(
            f"{origin} is truncated or damaged: it has no {', '.join(missing)}", path=origin
        )
    _refuse_truncated_pixels(instance, origin)
    instance.buffer = None  # pydicom would keep the whole file a second time
    return instance


def _refuse_truncated_pixels(instance: FileDataset, origin: str) -> None:
    if "Rows" not in instance and "Image Storage" not in UID(instance.SOPClassUID).name:
        return
    if not any(keyword in instance for keyword in _PIXEL_ELEMENTS):
        raise UnreadableInput(f"{origin} is truncated: its pixel data is missing", path=origin)
    pixels = instance.get("PixelData")
    if pixels is None:
        return
    undescribed = [keyword for keyword in _PIXEL_DESCRIPTION if not instance.get(keyword)]
    if undescribed:
        raise UnreadableInput(f"{origin} is damaged: it has pixels, but no {undescribed[0]}", path=origin)
    if instance.file_meta.TransferSyntaxUID.is_compressed:
        if not bytes(pixels[-8:]).startswith(_SEQUENCE_DELIMITER) and pixels[-2:] != b"\xff\xd9":
            _refuse_open_fragments(instance, origin)
        return
    samples = int(instance.Rows) * int(instance.Columns) * int(instance.get("SamplesPerPixel", 1))
    frames = int(instance.get("NumberOfFrames") or 1)
    expected = (samples * frames * int(instance.BitsAllocated) + 7) // 8
    subsampled = str(instance.get("PhotometricInterpretation", "")).endswith("_422")
    if not subsampled and len(pixels) < expected:
        raise UnreadableInput(
            f"{origin} is truncated: {len(pixels)} of {expected} bytes of pixel data are there", path=origin
        )


def _refuse_open_fragments(instance: FileDataset, origin: str) -> None:
    """Refuse encapsulated pixel data whose last fragment is cut short (PS3.5, A.4)."""
    from pydicom.encaps import generate_fragments

    try:
        fragments = sum(1 for _ in generate_fragments(instance.PixelData))
    except (ValueError, EOFError) as error:
        raise UnreadableInput(
            f"{origin} is truncated in its compressed pixel data: {error}", path=origin
        ) from error
    if fragments == 0:
        raise UnreadableInput(f"{origin} is truncated: its compressed pixel data is empty", path=origin)
