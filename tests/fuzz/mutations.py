"""Seeded mutations of sound images: what transfers, disks, old archives and ill will make of them."""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import UID, AllTransferSyntaxes

from fuzz.originals import PATIENT, Elements, Original
from isocenter_operators.dicom.series.codestream import fragments_of

__all__ = ["MUTATIONS", "Case", "case", "sound_cases"]

_VRS = [
    "AE",
    "AS",
    "AT",
    "CS",
    "DA",
    "DS",
    "DT",
    "FD",
    "FL",
    "IS",
    "LO",
    "LT",
    "OB",
    "OD",
    "OF",
    "OL",
    "OV",
    "OW",
    "PN",
    "SH",
    "SL",
    "SQ",
    "SS",
    "ST",
    "SV",
    "TM",
    "UC",
    "UI",
    "UL",
    "UN",
    "UR",
    "US",
    "UT",
    "UV",
    "ZZ",
]
_NUMBERS = [
    b"nan", b"inf", b"-inf", b"1e308", b"-1e300", b"1e-300", b"", b"0", b"-1", b"abc", b"1\\2", b"\\\\\\\\\\", b"1e999",
    b"999999999999", b"0.00000000001", b"\xff\xfe", b"1,5", b"1 2", b"-0", b"3.4E+38\\1\\1",
]  # fmt: skip
_PLANE = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "RescaleSlope",
    "RescaleIntercept",
)
_SIZES = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PixelRepresentation",
    "PlanarConfiguration", "PixelPaddingValue", "NumberOfFrames",
)  # fmt: skip
_CHARACTER_SETS = [
    b"ISO 2022 IR 87", b"ISO_IR 999", b"GB18030", b"\\ISO 2022 IR 149", b"utf16", b"ISO_IR 192", b"\xff\xff", b"rot13",
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One mutated series: its files. `seed` and `number` make it again."""

    seed: int
    number: int
    original: str
    mutation: str
    files: tuple[bytes, ...]

    def __str__(self) -> str:
        return f"case {self.seed}/{self.number}: {self.mutation} in {self.original}"


def case(originals: Sequence[Original], seed: int, number: int) -> Case:
    """The case of this number: always the same for the same originals and seed."""
    rng = random.Random(f"{seed}/{number}")
    original = rng.choice(originals)
    name = rng.choice(sorted(MUTATIONS))
    files = MUTATIONS[name](rng, original)
    return Case(seed, number, original.name, name, tuple(files))


def sound_cases(originals: Sequence[Original]) -> list[Case]:
    """The originals as they are."""
    return [
        Case(-1, number, original.name, "none", tuple(each.written() for each in original.instances))
        for number, original in enumerate(originals)
    ]


_Mutation = Callable[[random.Random, Original], list[bytes]]


def _of_one_file(change: Callable[[random.Random, bytearray], bytes | bytearray]) -> _Mutation:
    """One file of the series is changed, and the others are as they were."""

    def mutation(rng: random.Random, original: Original) -> list[bytes]:
        files = [each.written() for each in original.instances]
        which = rng.randrange(len(files))
        files[which] = bytes(change(rng, bytearray(files[which])))
        return files

    return mutation


def _of_elements(change: Callable[[random.Random, Elements], None]) -> _Mutation:
    """The elements of one instance are changed, or those of all of them in the same way."""

    def mutation(rng: random.Random, original: Original) -> list[bytes]:
        every = rng.random() < 0.3
        which = rng.randrange(len(original.instances))
        state = rng.getstate()
        files = []
        for index, each in enumerate(original.instances):
            if every or index == which:
                rng.setstate(state)
                changed = each.copy()
                change(rng, changed)
                files.append(changed.written())
            else:
                files.append(each.written())
        return files

    return mutation


def _pixels_at(content: bytes | bytearray) -> int:
    """Where the last Pixel Data element begins, in either byte order; without one, the end."""
    at = max(content.rfind(b"\xe0\x7f\x10\x00"), content.rfind(b"\x7f\xe0\x00\x10"))
    return at if at > 132 else len(content)


# --- files -----------------------------------------------------------------------------------------------------------


def _flip_header(rng: random.Random, content: bytearray) -> bytearray:
    end = _pixels_at(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20, 200))):
        content[rng.randrange(128, max(end, 129))] ^= 1 << rng.randrange(8)
    return content


def _flip_pixels(rng: random.Random, content: bytearray) -> bytearray:
    start = min(_pixels_at(content), len(content) - 1)
    for _ in range(rng.choice((1, 2, 10, 500))):
        content[rng.randrange(start, len(content))] ^= 1 << rng.randrange(8)
    return content


def _flip_fragment_headers(rng: random.Random, content: bytearray) -> bytearray:
    """The element's own header, the offset table, the first item, the codestream's header."""
    start = min(_pixels_at(content), len(content) - 1)
    for _ in range(rng.choice((1, 2, 4))):
        content[rng.randrange(start, min(start + rng.choice((12, 40, 100)), len(content)))] = rng.randrange(
            256
        )
    return content


def _truncate(rng: random.Random, content: bytearray) -> bytearray:
    kept = rng.choice((rng.randrange(len(content)), len(content) - rng.randint(1, 64), rng.randrange(400)))
    return content[: max(kept, 0)]


def _hole(rng: random.Random, content: bytearray) -> bytearray:
    """A block of a disk that came back empty, or twice."""
    start, size = rng.randrange(len(content)), rng.choice((16, 512, 4096))
    content[start : start + size] = rng.choice((bytes(size), content[:size], b""))
    return content


def _long_length(rng: random.Random, content: bytearray) -> bytearray:
    """An element's length beyond the file, or undefined."""
    end = _pixels_at(content)
    elements = [
        match.start() for match in re.finditer(rb"[\x02-\x54]\x00..[A-Z][A-Z]", content[132:end], re.DOTALL)
    ]
    at = 132 + rng.choice(elements) if elements else rng.randrange(132, len(content) - 12)
    length = rng.choice((0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, len(content), 1, 3, 0))
    if rng.random() < 0.5:
        content[at + 6 : at + 8] = struct.pack("<H", length & 0xFFFF)
    else:
        content[at + 8 : at + 12] = struct.pack("<I", length)
    return content


def _not_dicom(rng: random.Random, content: bytearray) -> bytes:
    noise = rng.randbytes(rng.choice((0, 1, 131, 132, 133, 500, 5000)))
    return rng.choice(
        (noise, b"", bytes(128) + b"DICM" + noise, b"<html>502 Bad Gateway</html>" * 20, content[128:])
    )


def _group_length(rng: random.Random, content: bytearray) -> bytearray:
    at = content.find(b"\x02\x00\x00\x00UL\x04\x00")
    if at >= 0:
        content[at + 8 : at + 12] = struct.pack(
            "<I", rng.choice((0, 1, 7, 0xFFFFFFFF, 0x7FFFFFFF, len(content)))
        )
    return content


def _deflated_bomb(rng: random.Random, original: Original) -> list[bytes]:
    files = [each.written() for each in original.instances]
    which = rng.randrange(len(files))
    head = b"".join(
        (bytes(128), b"DICM", b"\x02\x00\x10\x00UI", struct.pack("<H", 22), b"1.2.840.10008.1.2.1.99")
    )
    opening = zlib.compressobj(wbits=-15)
    begun = opening.compress(
        b"\x08\x00\x16\x00UI\x02\x001\x00\x09\x00\x01\x10OB\x00\x00" + struct.pack("<I", 0xFFFFFFF0)
    )
    begun += opening.flush(zlib.Z_FULL_FLUSH)
    files[which] = head + begun + _zeros() * rng.choice((20, 64, 250))  # of 16 MB each
    return files


@cache
def _zeros() -> bytes:
    """16 MB of zeros, deflated so that it can follow itself."""
    deflating = zlib.compressobj(9, wbits=-15)
    return deflating.compress(bytes(1 << 24)) + deflating.flush(zlib.Z_FULL_FLUSH)


# --- elements --------------------------------------------------------------------------------------------------------


def _absurd_size(rng: random.Random, image: Elements) -> None:
    for keyword in rng.sample(_SIZES, rng.choice((1, 1, 2, 3))):
        value = rng.choice((0, 1, 3, 7, 8, 12, 15, 16, 17, 32, 64, 255, 511, 513, 30000, 60000, 65535))
        if keyword == "NumberOfFrames":
            image.put(
                keyword, "IS", rng.choice((str(value).encode(), b"2147483647", b"-1", b"1.5", b"1e9", b"2"))
            )
        else:
            image.put(
                keyword, "US", struct.pack("<H" if image.little else ">H", value) * rng.choice((1, 1, 1, 2))
            )


def _wrong_vr(rng: random.Random, image: Elements) -> None:
    for tag in rng.sample(sorted(image.body), min(len(image.body), rng.choice((1, 3, 10)))):
        image.put(tag, rng.choice(_VRS), image.value(tag))


def _other_value(rng: random.Random, image: Elements) -> None:
    """What one attribute holds in the place of another: a name where numbers belong."""
    keywords = [
        *_PLANE, *_SIZES, "Modality", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPInstanceUID",
        "FrameOfReferenceUID", "ImageType", "RescaleType", "StudyDate", "StudyTime", "PhotometricInterpretation",
        "PatientPosition", "BodyPartExamined", "SeriesNumber", "SeriesDescription", "SliceThickness",
    ]  # fmt: skip
    keyword = rng.choice(keywords)
    other = rng.choice(
        (*PATIENT.values(), "A" * 2000, "\\" * 500, "1.2.3", "\x1b$B!!", " ", "1\\2\\3\\4\\5\\6\\7")
    )
    image.put(keyword, dictionary_VR(tag_for_keyword(keyword) or 0)[:2], other.encode())


def _numbers(rng: random.Random, image: Elements) -> None:
    keyword = rng.choice(_PLANE)
    count = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}.get(keyword, 1)
    old = [str(value).encode() for value in (image.image.get(keyword) or [])] if count > 1 else [b"1"]
    values = (old + [b"0"] * count)[:count]
    for index in rng.sample(range(count), rng.randint(1, count)):
        values[index] = rng.choice(_NUMBERS)
    if rng.random() < 0.2:
        values = values[: rng.randrange(count + 1)] * rng.choice((1, 1, 1000))
    image.put(keyword, "DS", b"\\".join(values))


def _missing(rng: random.Random, image: Elements) -> None:
    tags = sorted(image.body)
    known = [
        tag_for_keyword(keyword) for keyword in (*_PLANE, *_SIZES, "SOPInstanceUID", "Modality", "PixelData")
    ]
    for tag in [*rng.sample(tags, min(len(tags), rng.choice((1, 5)))), rng.choice(known)]:
        image.drop(tag or 0)
    if rng.random() < 0.2:
        image.meta.pop(rng.choice(sorted(image.meta)))


def _character_set(rng: random.Random, image: Elements) -> None:
    image.put("SpecificCharacterSet", "CS", rng.choice(_CHARACTER_SETS))
    for keyword in ("PatientName", "StudyDescription", "SeriesDescription", "PatientComments"):
        image.put(keyword, dictionary_VR(keyword), rng.randbytes(rng.randrange(0, 80, 2)))


def _transfer_syntax(rng: random.Random, image: Elements) -> None:
    """The meta information tells of one, the file is in another."""
    other = rng.choice(
        (*AllTransferSyntaxes, UID("1.2.840.10008.1.2.99"), UID("1.2.3"), UID(""), UID("x" * 70))
    )
    image.put("TransferSyntaxUID", "UI", str(other).encode() + b"\0" * (len(other) % 2))


def _private(rng: random.Random, image: Elements) -> None:
    for _ in range(rng.choice((1, 10, 300))):
        tag = rng.randrange(0x0003_0000, 0xFFFF_0000)
        image.put(tag, rng.choice(_VRS), rng.randbytes(rng.choice((0, 2, 8, 64, 4096))))


def _nested(rng: random.Random, image: Elements) -> None:
    """A sequence in a sequence in a sequence (PS3.5, 7.5)."""
    depth, implicit = rng.choice((2, 50, 300, 3000, 20000)), image.implicit
    tag = rng.choice((b"\x08\x00\x40\x11", b"\x09\x00\x01\x10", b"\x40\x00\x75\x02", b"\x28\x00\x00\x30"))
    begin = tag + (b"" if implicit else b"SQ\0\0")
    content = (
        b"\x08\x00\x50\x11"
        + (b"" if implicit else b"UI")
        + struct.pack("<I" if implicit else "<H", 6)
        + b"1.2.3\0"
    )
    if rng.random() < 0.5:
        item, ends = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
        content = (item + begin + b"\xff\xff\xff\xff") * depth + item + content + ends * (depth + 1)
    else:
        for _ in range(min(depth, 3000)):
            item = _item(content)
            content = begin + struct.pack("<I", len(item)) + item
        content = _item(content)
    undefined = rng.random() < 0.5
    ending = b"\xfe\xff\xdd\xe0\0\0\0\0" if undefined and rng.random() < 0.8 else b""
    group, number = struct.unpack("<HH", tag)
    image.put(group << 16 | number, "SQ", content + ending, 0xFFFFFFFF if undefined else None)


def _deep_in_meta(rng: random.Random, image: Elements) -> None:
    image.put(
        0x0002_0000 | rng.choice((0x0010, 0x0102, 0x0016)),
        rng.choice(_VRS),
        rng.randbytes(rng.randrange(0, 90, 2)),
    )


def _same_place(rng: random.Random, original: Original) -> list[bytes]:
    """A slice twice: the same instance, or another at the same position, or far away."""
    files = [each.written() for each in original.instances]
    again = rng.choice(original.instances).copy()
    if rng.random() < 0.7:
        again.put("SOPInstanceUID", "UI", b"1.2.3.4\0")
    if rng.random() < 0.3:
        again.put("ImagePositionPatient", "DS", b"1e5\\1e5\\1e5 ")
    return [*files, again.written()]


# --- codestreams -----------------------------------------------------------------------------------------------------


def _codestream(rng: random.Random, image: Elements) -> None:
    """The compressed frame's own header lies, alone or together with the image's; or there are odd fragments."""
    if not image.image.file_meta.TransferSyntaxUID.is_compressed:
        _absurd_size(rng, image)
        return
    frame = bytearray(b"".join(fragments_of(image.image.PixelData)))
    kind = rng.choice(("size", "size", "both", "byte", "bytes", "cut", "cut and ended"))
    _spoil(rng, frame, kind, size := rng.choice((0, 1, 383, 385, 5000, 30000, 60000, 65535)))
    if kind == "both":
        for keyword in ("Rows", "Columns"):
            image.put(keyword, "US", struct.pack("<H", size))
    _encapsulate(rng, image, [bytes(frame)])


def _spoil(rng: random.Random, frame: bytearray, kind: str, size: int) -> None:
    if kind in ("size", "both"):
        _say_size(frame, rng.choice(("rows", "columns", "both", "tiles", "precision", "samples")), size)
    elif kind == "byte":
        frame[rng.randrange(min(len(frame), 120))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    elif kind == "bytes":
        for _ in range(rng.choice((1, 5, 50))):
            frame[rng.randrange(len(frame))] = rng.randrange(256)
    else:
        frame[rng.randrange(len(frame)) :] = b"" if kind == "cut" else b"\xff\xd9"


def _odd_fragments(rng: random.Random, image: Elements) -> None:
    """The frame is sound, and its fragments are twice there, in another order, none, or cut."""
    if not image.image.file_meta.TransferSyntaxUID.is_compressed:
        image.put("PixelData", "OB", rng.randbytes(rng.choice((0, 10, 5000))), 0xFFFFFFFF)
        return
    frame = b"".join(fragments_of(image.image.PixelData))
    at = rng.randrange(len(frame)) & ~1
    pieces = [frame[:at], b"", frame[at:]]
    rng.shuffle(pieces)
    _encapsulate(rng, image, rng.choice(([frame, frame], pieces, [frame[:at], frame[at:]], [b""])))


def _encapsulate(rng: random.Random, image: Elements, pieces: list[bytes]) -> None:
    table = rng.choice((b"", bytes(4), rng.randbytes(8)))
    pixels = b"".join(_item(piece + b"\0" * (len(piece) % 2)) for piece in (table, *pieces))
    if rng.random() < 0.1:
        pixels = pixels[: rng.randrange(len(pixels))]
    image.put("PixelData", "OB", pixels + b"\xfe\xff\xdd\xe0\0\0\0\0", 0xFFFFFFFF)


def _item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content


def _say_size(frame: bytearray, what: str, size: int) -> None:
    """Write another size into SOF (JPEG, JPEG-LS) or SIZ (JPEG 2000); into RLE's header, other offsets."""
    if frame.startswith(b"\xff\x4f"):
        places = {"rows": (12,), "columns": (8,), "both": (8, 12), "tiles": (24, 28)}.get(what, (4,))
        for at in places:
            frame[at : at + 4] = struct.pack(">I", 1 if what == "tiles" else size)
        if what in ("precision", "samples"):
            frame[42 if what == "precision" else 41] = size & 0xFF
        return
    found = re.search(rb"\xff[\xc0-\xc3\xf7]..(.)(....)(.)", frame, re.DOTALL)
    if not frame.startswith(b"\xff\xd8") or found is None:
        frame[4:8] = struct.pack("<I", size * size % 2**32)
        return
    precision, sizes, samples = found.start(1), found.start(2), found.start(3)
    if what in ("rows", "both", "tiles"):
        frame[sizes : sizes + 2] = struct.pack(">H", size)
    if what in ("columns", "both"):
        frame[sizes + 2 : sizes + 4] = struct.pack(">H", size)
    if what in ("precision", "samples"):
        frame[precision if what == "precision" else samples] = size & 0xFF


MUTATIONS: dict[str, _Mutation] = {
    "bits of the header": _of_one_file(_flip_header),
    "bits of the pixels": _of_one_file(_flip_pixels),
    "bytes of offset table and codestream header": _of_one_file(_flip_fragment_headers),
    "truncated": _of_one_file(_truncate),
    "a block lost": _of_one_file(_hole),
    "a length beyond the file": _of_one_file(_long_length),
    "no DICOM": _of_one_file(_not_dicom),
    "group length": _of_one_file(_group_length),
    "deflated bomb": _deflated_bomb,
    "absurd size": _of_elements(_absurd_size),
    "wrong VR": _of_elements(_wrong_vr),
    "another attribute's value": _of_elements(_other_value),
    "geometry": _of_elements(_numbers),
    "attributes missing": _of_elements(_missing),
    "character set": _of_elements(_character_set),
    "another transfer syntax": _of_elements(_transfer_syntax),
    "private junk": _of_elements(_private),
    "nested sequences": _of_elements(_nested),
    "meta information": _of_elements(_deep_in_meta),
    "a slice twice": _same_place,
    "codestream": _of_elements(_codestream),
    "fragments": _of_elements(_odd_fragments),
}
