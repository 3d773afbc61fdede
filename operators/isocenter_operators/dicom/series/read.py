"""DICOM instances from files and from bytes, complete or refused.

pydicom reads a truncated file without a word; here a missing end is found before anything is computed on it. Nothing
that a file says of itself is believed before it was looked at: sizes cost no memory, and messages quote no values.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import _read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from isocenter_operators.dicom.series.codestream import Codestream, fragments_of, read_codestream
from isocenter_operators.dicom.series.part10 import (
    PIXEL_DATA,
    PixelBytes,
    Regular,
    Seen,
    regular,
    stored_pixels,
    tag_of,
)
from isocenter_operators.dicom.value import converted, whole_number
from isocenter_operators.errors import UnreadableInput
from isocenter_operators.room import require_room

__all__ = ["read_bytes", "read_file", "read_folder"]

_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# Read by whatever comes after: of these it must be known here that they can be.
_USED = (
    "Modality",
    "ImageType",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "RescaleType",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PhotometricInterpretation",
    "ModalityLUTSequence",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "AccessionNumber",
    "SeriesDate",
    "SeriesTime",
    "SeriesDescription",
    "SeriesNumber",
    "BodyPartExamined",
    "PatientPosition",
    "Laterality",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
)
_PIXEL_DESCRIPTION = ("Rows", "Columns", "BitsAllocated")
_WHOLE_NUMBERS = ("BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration")
_PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_BITS = (1, 8, 16, 32, 64)
# What most instances of a series have in common, and what is looked at together.
_COMMON = tuple(
    tag_of(keyword)
    for keyword in (
        *("MediaStorageSOPClassUID", "TransferSyntaxUID", "SpecificCharacterSet"),
        *("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"),
        *(*_PIXEL_DESCRIPTION, *_WHOLE_NUMBERS, "SamplesPerPixel", "NumberOfFrames"),
        *_PIXEL_ELEMENTS[1:],
    )
)
_USED_KEYWORDS = {tag_of(keyword): keyword for keyword in _USED}
_SUFFIXES = (".dcm", ".dicom")
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)+")
_MB = 1 << 20
_LARGEST_FILE_MB = 4096  # as the length of one element has 32 bits
_LARGEST_PIXELS_MB = 4096  # of one instance, all frames decompressed
_LARGEST_FRAME_MEGAPIXELS = 100  # of a compressed frame: its decoder needs many times the memory
_LARGEST_DEFLATED_MB = 256  # of one instance, once it is inflated: a kilobyte inflates to a megabyte at most


def read_folder(path: Path, passed_over: list[Path] | None = None) -> list[Dataset]:
    """Every DICOM instance below `path` (or the one file it is), in no meaningful order.

    Files that are not DICOM, and DICOMDIR, are passed over, and added to `passed_over`. Pixels that are not compressed
    are read when they are asked for: the files have to stay as they are until then. Raises UnreadableInput when nothing
    is left, or when an instance is truncated: half a series is not the series.
    """
    if not path.exists():
        raise UnreadableInput(f"{path} does not exist", path=str(path))
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    instances: list[Dataset] = []
    seen = Seen()
    for file in files:
        instance = read_file(file, seen=seen)
        if instance is not None:
            instances.append(instance)
        elif passed_over is not None:
            passed_over.append(file)
    if not instances:
        looked_at = f"{len(files)} files were looked at" if files else "the folder is empty"
        raise UnreadableInput(f"no DICOM images in {path}: {looked_at}", path=str(path))
    return instances


def read_file(file: Path, *, seen: Seen | None = None) -> FileDataset | None:
    """One instance, or None where the file is not DICOM (or is a DICOMDIR). Its pixels are read as in `read_folder`.

    seen: of the instances of its series that were read before. Raises UnreadableInput for a DICOM file that can not be
    read to its end, or is one by its name alone.
    """
    origin, seen = str(file), seen or Seen()
    try:
        with file.open("rb", buffering=0) as opened:
            head = opened.read(seen.head_bytes)
            if head[128:132] != b"DICM":
                _refuse_misnamed(file)
                return None
            size = os.fstat(opened.fileno()).st_size
            _refuse_large(size, origin)
            read = regular(head, size, seen, file)
            if read is None:
                require_room(size)
                content = head + opened.readall()
    except OSError as error:
        raise UnreadableInput(f"{file} can not be read: {error.strerror}", path=origin) from error
    return _parsed_whole(content, origin) if read is None else _sound_as_before(read, origin, seen)


def _refuse_misnamed(file: Path) -> None:
    """An image that has lost its beginning, or all of it, is missing from its series without a word."""
    if file.suffix.lower() in _SUFFIXES and not file.name.startswith("."):
        raise UnreadableInput(
            f"{file} is truncated or damaged: it has the name of a DICOM file, and not its beginning (PS3.10, 7.1)",
            path=str(file),
        )


def read_bytes(content: bytes | memoryview, *, origin: str, seen: Seen | None = None) -> FileDataset | None:
    """One instance in the DICOM file format (PS3.10, 7), or None for a DICOMDIR.

    `origin` names the source in messages. A memoryview is not copied: its bytes have to stay. seen: see `read_file`.
    Raises UnreadableInput when it is truncated, damaged or not DICOM.
    """
    _refuse_large(len(content), origin)
    seen = seen or Seen()
    source = PixelBytes(memoryview(content))
    read = regular(source.content[: seen.head_bytes], len(content), seen, source)
    return _parsed_whole(bytes(content), origin) if read is None else _sound_as_before(read, origin, seen)


def _parsed_whole(content: bytes, origin: str) -> FileDataset | None:
    """By pydicom, which reads whatever can be read; our own way of reading only what is as it should be."""
    require_room(2 * len(content))  # pydicom reads from one copy into another
    instance = _sound(_parsed(content, origin), origin)
    if instance is not None:
        instance.buffer = None  # pydicom would keep the whole file a second time
    return instance


def _sound_as_before(read: Regular, origin: str, seen: Seen) -> FileDataset | None:
    """As `_sound`, of an instance of which little is new."""
    common = [read.elements.get(tag) for tag in _COMMON]
    pixels = read.elements.get(PIXEL_DATA)
    pixel_bytes = -1 if pixels is None else pixels.length
    if not seen.is_sound(common, pixel_bytes):
        instance = _sound(read.instance, origin)
        if instance is not None:
            seen.found_sound(common, pixel_bytes)
        return instance
    _refuse_unnamed(read.instance, origin, _REQUIRED[1:2])
    for element in read.unseen:
        if element.tag in _USED_KEYWORDS:
            converted(read.instance, _USED_KEYWORDS[element.tag], origin)
    return read.instance


def _sound(instance: FileDataset, origin: str) -> FileDataset | None:
    """The instance, with whatever it is used for looked at; None where it is a DICOMDIR."""
    meta = instance.file_meta
    if converted(meta, "MediaStorageSOPClassUID", origin) == MediaStorageDirectoryStorage:
        return None
    syntax = UID(str(converted(meta, "TransferSyntaxUID", origin) or ""))
    if not _UID.fullmatch(syntax) or not syntax.is_transfer_syntax:
        shown = syntax if _UID.fullmatch(syntax) else "that is no UID" if syntax else "none"
        raise UnreadableInput(
            f"{origin} has the transfer syntax {shown}, which is not one of DICOM (PS3.6, A)", path=origin
        )
    _refuse_unnamed(instance, origin)
    for keyword in _USED:
        converted(instance, keyword, origin)
    _refuse_broken_pixels(instance, syntax, origin)
    return instance


def _parsed(content: bytes, origin: str) -> FileDataset:
    try:
        _refuse_bomb(content, origin)
        return dcmread(BytesIO(content))
    except (MemoryError, UnreadableInput):
        raise
    except RecursionError as error:
        raise UnreadableInput(
            f"{origin} is damaged: its sequences are nested too deep", path=origin
        ) from error
    except Exception as error:  # a damaged file reaches every line of pydicom; its text may quote any value
        raise UnreadableInput(
            f"{origin} can not be read as DICOM: it is damaged, or something else ({type(error).__name__})",
            path=origin,
        ) from error


def _refuse_large(size_bytes: int, origin: str) -> None:
    if size_bytes > _LARGEST_FILE_MB * _MB:
        raise UnreadableInput(
            f"{origin} has {size_bytes // _MB} MB, and an instance of more than {_LARGEST_FILE_MB} MB is not read",
            path=origin,
        )


def _refuse_bomb(content: bytes, origin: str) -> None:
    """Inflate a deflated instance (PS3.5, A.5) once without keeping it, as pydicom takes whatever comes out."""
    part10 = BytesIO(content)
    part10.seek(132)
    meta = _read_file_meta_info(part10)
    if str(meta.get("TransferSyntaxUID")) != DeflatedExplicitVRLittleEndian:
        return
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    left, size = part10.read(), 0
    while left and not inflating.eof:
        size += len(inflating.decompress(left, _MB))
        left = inflating.unconsumed_tail
        if size > _LARGEST_DEFLATED_MB * _MB:
            raise UnreadableInput(
                f"{origin} is deflated, and more than the {_LARGEST_DEFLATED_MB} MB that are read of such a file",
                path=origin,
            )
    require_room(3 * size)


def _refuse_unnamed(instance: FileDataset, origin: str, required: Sequence[str] = _REQUIRED) -> None:
    missing = [keyword for keyword in required if not converted(instance, keyword, origin)]
    if missing:
        raise UnreadableInput(
            f"{origin} is truncated or damaged: it has no {', '.join(missing)}", path=origin
        )
    for keyword in required:
        if not _UID.fullmatch(str(instance[keyword].value)):
            raise UnreadableInput(f"{origin} is damaged: its {keyword} is no UID (PS3.5, 9.1)", path=origin)


def _refuse_broken_pixels(instance: FileDataset, syntax: UID, origin: str) -> None:
    if "Rows" not in instance and "Image Storage" not in UID(instance.SOPClassUID).name:
        return
    if not any(keyword in instance for keyword in _PIXEL_ELEMENTS):
        raise UnreadableInput(f"{origin} is truncated: its pixel data is missing", path=origin)
    if "PixelData" not in instance:
        return
    size = _pixel_bytes(instance, origin)
    if not size:
        raise UnreadableInput(f"{origin} is damaged: its pixel data is empty, or no pixel data", path=origin)
    undescribed = [keyword for keyword in _PIXEL_DESCRIPTION if not converted(instance, keyword, origin)]
    if undescribed:
        raise UnreadableInput(f"{origin} is damaged: it has pixels, but no {undescribed[0]}", path=origin)
    frames, expected = _expected_size(instance, origin)
    if syntax.is_compressed:
        _refuse_broken_fragments(instance, syntax, frames, expected, origin)
    elif not _is_subsampled(instance) and size < expected:
        raise UnreadableInput(
            f"{origin} is truncated: {size} of {expected} bytes of pixel data are there", path=origin
        )


def _pixel_bytes(instance: FileDataset, origin: str) -> int:
    """How many bytes of pixel data there are; 0 where they are none."""
    stored = stored_pixels(instance)
    if stored is not None:
        return stored.length
    pixels = converted(instance, "PixelData", origin)
    return len(pixels) if isinstance(pixels, bytes) else 0


def _is_subsampled(instance: FileDataset) -> bool:
    return str(instance.get("PhotometricInterpretation", "")).endswith("_422")


def _expected_size(instance: FileDataset, origin: str) -> tuple[int, int]:
    """The number of frames, and the bytes that all of them have when they are not compressed."""
    rows, columns, bits = (whole_number(instance, keyword, origin) for keyword in _PIXEL_DESCRIPTION)
    samples = whole_number(instance, "SamplesPerPixel", origin, 1)
    frames = whole_number(instance, "NumberOfFrames", origin, 1, bits=31) or 1
    for keyword in _WHOLE_NUMBERS:
        whole_number(instance, keyword, origin, 0)
    if min(rows, columns, samples, frames) < 1 or bits not in _BITS:
        raise UnreadableInput(
            f"{origin} is damaged: {columns} x {rows} pixels of {samples} samples of {bits} bits, or no frames",
            path=origin,
        )
    expected = (rows * columns * samples * frames * bits + 7) // 8
    if expected > _LARGEST_PIXELS_MB * _MB:
        raise UnreadableInput(
            f"{origin} says that it holds {columns} x {rows} pixels in so many frames that they are more than the "
            f"{_LARGEST_PIXELS_MB} MB that are read of one instance",
            path=origin,
        )
    return frames, expected


def _refuse_broken_fragments(
    instance: FileDataset, syntax: UID, frames: int, expected: int, origin: str
) -> None:
    """Refuse encapsulated pixel data that is cut short, or that is not the image the attributes tell of."""
    rows, columns = int(instance.Rows), int(instance.Columns)
    if rows * columns > _LARGEST_FRAME_MEGAPIXELS * 1_000_000:
        raise UnreadableInput(
            f"{origin} has a compressed frame of {columns} x {rows} pixels, and more than "
            f"{_LARGEST_FRAME_MEGAPIXELS} megapixels are not read",
            path=origin,
        )
    try:
        fragments = fragments_of(instance.PixelData)
        if not any(fragments):
            raise ValueError("there is none")
        if frames == 1:
            fragments = [b"".join(fragments)]
        elif len(fragments) != frames:
            return  # which fragments make a frame is up to the offset table
        for fragment in fragments:
            _refuse_other_image(read_codestream(fragment, syntax), instance, expected // frames)
    except ValueError as error:
        raise UnreadableInput(
            f"{origin} is truncated or damaged in its compressed pixel data: {error}", path=origin
        ) from error


def _refuse_other_image(stream: Codestream, instance: FileDataset, expected: int) -> None:
    if stream.most_bytes is not None and stream.most_bytes < expected:
        raise ValueError(f"its {expected} bytes can not come out of so little")
    for keyword, said in (
        ("Rows", stream.rows),
        ("Columns", stream.columns),
        ("SamplesPerPixel", stream.samples),
    ):
        wanted = int(instance.get(keyword, 1))
        if said not in (None, wanted):
            raise ValueError(f"the compressed frame has {said} {keyword}, and the image {wanted}")
    if stream.precision is not None and not 1 <= stream.precision <= int(instance.BitsAllocated):
        raise ValueError(f"the compressed frame has {stream.precision} bits, which do not fit the image's")
