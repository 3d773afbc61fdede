"""A result as the bytes of a DICOM file (PS3.10, 7), byte for byte those that pydicom writes.

A result about a scan of 300 images refers to each of them in four objects, some ten thousand elements, for which
pydicom takes a second. Nearly all of them are a UID, a code or a short text in ASCII: those are put together here, and
every other element is pydicom's to write.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

from pydicom import charset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr, dcmwrite, write_data_element
from pydicom.uid import DeflatedExplicitVRLittleEndian

__all__ = ["encoded"]

_LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}  # PS3.5, 7.1.2
_ASCII = {"AE", "AS", "CS", "DA", "DT", "TM", "UI", "UR"}
_BYTES = {"OB", "OW"}
_TEXT = {"LO", "LT", "SH", "ST", "UC", "UT"}  # in the object's character set
_BEYOND_ASCII = ("\\", "~")  # which are other letters in some character sets
_SHORT_MOST = 0xFFFE
_SHORT, _LENGTHY = struct.Struct("<HH2sH"), struct.Struct("<HH2sHL")
_ITEM = struct.Struct("<HHL")


def encoded(instance: Dataset) -> bytes:
    """The file, with preamble and File Meta Information, in the transfer syntax that the latter names.

    What was not looked into since it was read, or set as bytes, is written as it is. Raises whatever pydicom raises
    where the object can not be written.
    """
    syntax = instance.file_meta.TransferSyntaxUID
    if syntax.is_implicit_VR or not syntax.is_little_endian or syntax == DeflatedExplicitVRLittleEndian:
        file = BytesIO()
        instance.save_as(file, enforce_file_format=True)
        return file.getvalue()
    if "PixelData" in instance:
        instance["PixelData"].is_undefined_length = syntax.is_compressed
    return b"".join([_head(instance), *_elements(instance, charset.default_encoding, outermost=True)])


def _head(instance: Dataset) -> bytes:
    """Preamble and File Meta Information, as pydicom writes them before an object of nothing but its identity."""
    outline = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if keyword in instance:
            outline[keyword] = instance[keyword]
    outline.file_meta = FileMetaDataset(instance.file_meta)
    outline.preamble = getattr(instance, "preamble", None)
    file = BytesIO()
    dcmwrite(file, outline, enforce_file_format=True)
    content = file.getvalue()
    return content[: len(content) - len(b"".join(_elements(outline, charset.default_encoding)))]


def _elements(dataset: Dataset, parents: str | list[str], *, outermost: bool = False) -> list[bytes]:
    as_it_is = (
        dataset.original_encoding == (False, True)
        and dataset.original_character_set == dataset._character_set
    )
    if outermost and not as_it_is:
        correct_ambiguous_vr(dataset, True)
    declared = dataset.get("SpecificCharacterSet")
    encodings = parents if declared is None else declared
    written: list[bytes] = []
    for tag in sorted(dataset.keys()):
        if tag.element == 0 and tag.group > 6:
            continue  # a group's length, retired (PS3.5, 7.2)
        element: Any = dataset.get_item(tag)
        if isinstance(element, RawDataElement) and not as_it_is:
            element = dataset[tag]
        value = None if isinstance(element, RawDataElement) else _value(element, encodings)
        if value is None:
            written.append(_by_pydicom(element, encodings))
        elif element.VR in _LONG:
            written += (_LENGTHY.pack(tag >> 16, tag & 0xFFFF, element.VR.encode(), 0, len(value)), value)
        else:
            written.append(_SHORT.pack(tag >> 16, tag & 0xFFFF, element.VR.encode(), len(value)) + value)
    return written


def _value(element: DataElement, encodings: str | list[str]) -> bytes | None:
    """None where it is left to pydicom."""
    vr, value = element.VR, element.value
    if vr == "SQ":
        return None if element.is_undefined_length else _items(value, encodings)
    if vr in _BYTES and isinstance(value, bytes):
        return None if element.is_undefined_length or len(value) % 2 else value
    if not isinstance(value, str) or not value.isascii():
        return None
    if vr not in _ASCII and (vr not in _TEXT or any(each in value for each in _BEYOND_ASCII)):
        return None
    content = value.encode("ascii")
    if len(content) % 2:
        content += b"\0" if vr == "UI" else b" "
    return content if vr in _LONG or len(content) <= _SHORT_MOST else None


def _items(sequence: Any, encodings: str | list[str]) -> bytes | None:
    written: list[bytes] = []
    for item in sequence:
        if getattr(item, "is_undefined_length_sequence_item", False):
            return None
        content = b"".join(_elements(item, encodings))
        written += (_ITEM.pack(0xFFFE, 0xE000, len(content)), content)
    return b"".join(written)


def _by_pydicom(element: DataElement | RawDataElement, encodings: str | list[str]) -> bytes:
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_data_element(file, element, charset.convert_encodings(encodings))
    return file.getvalue()
