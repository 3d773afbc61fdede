"""A result in UTF-8, whatever character set its source is in (PS3.3, C.12.1.1.2)."""

from __future__ import annotations

from pydicom import charset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

__all__ = ["in_unicode"]

_PER_FRAME = 0x52009230  # Per-frame Functional Groups Sequence: long, and without text
_UTF_8 = "ISO_IR 192"
_TEXT_VRS = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}
# Python's GB 2312, which stands for ISO 2022 IR 58 in pydicom, leaves the escape sequences of PS3.3, C.12.1.1.2 in.
_ESCAPES = ("\x1b$)A", "\x1b(B")


def in_unicode(result: Dataset) -> None:
    """Let every text of `result` be written in UTF-8. Nothing but the encoding changes.

    A text that is not in the character set its object declares stays as wrong as it was.
    """
    if result.get("SpecificCharacterSet") == _UTF_8:
        return
    _decode(result)
    result.SpecificCharacterSet = _UTF_8
    # All text is read; the per-frame groups, which have none, may be written as the bytes that they are.
    implicit_vr, little_endian = result.original_encoding
    result.set_original_encoding(implicit_vr, little_endian, charset.convert_encodings(_UTF_8))


def _decode(dataset: Dataset) -> None:
    """Read every text, while the character set that it is in is still known; items' own sets go."""
    for tag in dataset.keys():  # noqa: SIM118 - the values are read below, one by one
        if tag == _PER_FRAME:
            continue
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            if element.VR is not None and element.VR not in (*_TEXT_VRS, "SQ", "UN"):
                continue  # such as the coordinates of a structure set, millions of numbers
            element = dataset[tag]
        if element.VR in _TEXT_VRS and element.value:
            _without_escapes(element)
        elif element.VR == "SQ":
            for item in element.value:
                _decode(item)
                item.pop("SpecificCharacterSet", None)


def _without_escapes(element: DataElement) -> None:
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    texts = [str(value) for value in values]
    if not any(escape in text for text in texts for escape in _ESCAPES):
        return
    for escape in _ESCAPES:
        texts = [text.replace(escape, "") for text in texts]
    element.value = texts if len(texts) > 1 else texts[0]
