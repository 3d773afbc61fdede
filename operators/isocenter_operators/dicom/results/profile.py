"""What a destination is known to take, and so in which form results are written for it.

Every archive that takes segmentations takes BINARY ones, uncompressed: that is the profile "any". Label maps (PS3.3,
A.51, since 2024) are smaller and faster to show, where archive and viewers know them: the profile "modern".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from io import BytesIO
from typing import Any, Literal, get_args

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from isocenter_operators.errors import ConfigurationError, InvalidResult

__all__ = ["ANY", "MODERN", "DestinationProfile", "SegmentationKind", "profile_of"]

SegmentationKind = Literal["BINARY", "LABELMAP"]

_RLE, _DEFLATED = "RLELossless", "DeflatedExplicitVRLittleEndian"
_BASE = "like"  # in a mapping: the named profile whose fields hold where nothing else is said


@dataclass(frozen=True)
class DestinationProfile:
    """One destination's abilities.

    Parameters
    ----------
    segmentation
        The kind of Segmentation it keeps and its viewers show: "BINARY" or "LABELMAP" (PS3.3, C.8.20.2.3).
    transfer_syntaxes
        The keywords of those that it takes besides Explicit VR Little Endian: "RLELossless", which is for FRACTIONAL
        and LABELMAP; "DeflatedExplicitVRLittleEndian", which is for BINARY too (PS3.5, A.4.2, A.5).
    largest_instance_mb
        The size of the largest object that it takes, in 2^20 bytes; None where there is no limit.
    pictures, documents
        Whether it wants Secondary Capture pictures, and reports as Encapsulated PDF.
    """

    segmentation: SegmentationKind = "BINARY"
    transfer_syntaxes: tuple[str, ...] = ()
    largest_instance_mb: int | None = None
    pictures: bool = True
    documents: bool = True

    def wants(self, sop_class_uid: str) -> bool:
        """Whether objects of this class are for it at all."""
        if sop_class_uid == SecondaryCaptureImageStorage:
            return self.pictures
        return self.documents or sop_class_uid != EncapsulatedPDFStorage

    def shared_with(self, others: Iterable[DestinationProfile]) -> DestinationProfile:
        """What this destination and all the others can take: results are written once, for all that they go to.

        Pictures and documents are as this one wants them; from the others they can be kept back.
        """
        every = (self, *others)
        sizes = [each.largest_instance_mb for each in every if each.largest_instance_mb is not None]
        return replace(
            self,
            segmentation="LABELMAP" if all(each.segmentation == "LABELMAP" for each in every) else "BINARY",
            transfer_syntaxes=tuple(
                syntax
                for syntax in self.transfer_syntaxes
                if all(syntax in each.transfer_syntaxes for each in every)
            ),
            largest_instance_mb=min(sizes, default=None),
        )

    def transfer_syntax(self, kind: str) -> UID:
        """The one in which a Segmentation of this kind is written for it."""
        if kind != "BINARY" and _RLE in self.transfer_syntaxes:
            return RLELossless
        return (
            DeflatedExplicitVRLittleEndian if _DEFLATED in self.transfer_syntaxes else ExplicitVRLittleEndian
        )

    def refuse_large(self, result: Dataset) -> None:
        """Raise InvalidResult where the object is larger than what the destination takes."""
        if self.largest_instance_mb is None:
            return
        size = _size_of(result, at_most=self.largest_instance_mb << 20)
        if size > self.largest_instance_mb << 20:
            raise InvalidResult(
                f"{result.SOPInstanceUID} has {-(-size >> 20)} MB and its destination takes {self.largest_instance_mb} "
                "MB; write it as LABELMAP or compressed, or raise largest_instance_mb in the destination's profile",
                series_uid=str(result.SeriesInstanceUID),
            )


ANY = DestinationProfile()
MODERN = DestinationProfile(segmentation="LABELMAP", transfer_syntaxes=(_RLE,))
_NAMED = {"any": ANY, "modern": MODERN}


def profile_of(value: str | Mapping[str, Any] | DestinationProfile) -> DestinationProfile:
    """The profile of that name, or with these fields; what they leave out is as in the one they are `like`, or "any".

    Raises ConfigurationError, which names the field, for a name or a value that is none.

    Example: `profile_of({"like": "modern", "largest_instance_mb": 100})`
    """
    if isinstance(value, DestinationProfile):
        return value
    if isinstance(value, str):
        return _named(value)
    known = {field.name for field in fields(DestinationProfile)}
    unknown = sorted(set(value) - known - {_BASE})
    if unknown:
        raise ConfigurationError(
            f"destination profile: there is no {unknown[0]!r}; known are {', '.join(sorted(known | {_BASE}))}"
        )
    base = _named(value.get(_BASE, "any"))
    return replace(base, **{name: _checked(name, value[name]) for name in value if name != _BASE})


def _named(name: object) -> DestinationProfile:
    if name not in _NAMED:
        raise ConfigurationError(
            f"destination profile: there is none called {name!r}; known are {', '.join(_NAMED)}"
        )
    return _NAMED[str(name)]


def _checked(name: str, value: Any) -> Any:
    if name == "segmentation":
        if value not in get_args(SegmentationKind):
            raise _wrong(name, value, "BINARY or LABELMAP")
        return value
    if name == "transfer_syntaxes":
        given = (value,) if isinstance(value, str) else tuple(value or ())
        for one in given:
            if one not in (_RLE, _DEFLATED):
                raise _wrong(name, one, f"{_RLE} and {_DEFLATED}")
        return given
    if name == "largest_instance_mb":
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise _wrong(name, value, "a whole number of megabytes, or nothing")
        return value
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _wrong(name: str, value: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"destination profile: {name} is {value!r}; it may be {allowed}")


def _size_of(result: Dataset, at_most: int) -> int:
    """The bytes of the object as it will be written: it is, to see, where its pixels alone do not say enough."""
    size = len(result.get("PixelData") or b"")
    if size > at_most and not result.file_meta.TransferSyntaxUID.is_deflated:
        return size
    target = BytesIO()
    result.save_as(target, enforce_file_format=True)
    return target.tell()
