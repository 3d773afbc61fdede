"""Images that are damaged, or made to do harm: refused with a reason, and nothing else happens."""

from __future__ import annotations

import copy
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate

from isocenter_operators.dicom.series import decoder
from isocenter_operators.dicom.series.codestream import fragments_of, read_codestream
from isocenter_operators.dicom.series.read import read_bytes, read_folder
from isocenter_operators.errors import UnreadableInput
from isocenter_operators.room import require_room

COMPRESSED = range(4, 10)


@pytest.fixture(scope="module")
def images(test_data: Path) -> dict[int, FileDataset]:
    folder = test_data / "transfer-syntaxes" / "In"
    return {number: dcmread(next(folder.rglob(f"{number}.dcm"))) for number in range(1, 10)}


def frame_of(image: FileDataset) -> bytes:
    return b"".join(fragments_of(image.PixelData))


@pytest.mark.parametrize("number", COMPRESSED)
def test_a_frame_is_decoded_elsewhere_as_pydicom_decodes_it(
    images: dict[int, FileDataset], number: int
) -> None:
    image = images[number]
    decoded = decoder.decode(frame_of(image), image, image.file_meta.TransferSyntaxUID)
    assert decoded.dtype == image.pixel_array.dtype
    np.testing.assert_array_equal(decoded, image.pixel_array)


@pytest.mark.parametrize("number", [5, 6])
def test_a_frame_that_crashes_its_decoder_costs_nobody_else_anything(
    images: dict[int, FileDataset], number: int
) -> None:
    image = images[number]
    syntax, sound = image.file_meta.TransferSyntaxUID, frame_of(image)
    header = sound.index(b"\xff\xc3")
    for precision in (24, 128, 255):  # GDCM reads and writes beyond its memory on some of these
        bad = bytearray(sound)
        bad[header + 4] = precision
        with pytest.raises(ValueError, match="its decoder"):
            decoder.decode(bytes(bad), image, syntax)
        np.testing.assert_array_equal(decoder.decode(sound, image, syntax), image.pixel_array)


@pytest.mark.parametrize("number", [5, 6, 7, 8, 9])
def test_a_frame_that_is_cut_is_refused_even_with_an_end_put_behind_it(
    images: dict[int, FileDataset], number: int
) -> None:
    image = images[number]
    syntax, sound = image.file_meta.TransferSyntaxUID, frame_of(image)
    half = sound[: len(sound) // 2]
    with pytest.raises(ValueError, match=r"cut short|no end"):
        read_codestream(half, syntax)
    if number < 9:  # what is missing of JPEG 2000 looks like an image compressed more
        with pytest.raises(ValueError, match="its decoder"):
            decoder.decode(half + b"\xff\xd9", image, syntax)


def _written(image: FileDataset) -> bytes:
    from io import BytesIO

    written = BytesIO()
    image.save_as(written, enforce_file_format=True)
    return written.getvalue()


def _says_60000(image: FileDataset) -> None:
    frame = bytearray(frame_of(image))
    at = frame.index(b"\xff\xf7") + 5
    frame[at : at + 4] = struct.pack(">HH", 60000, 60000)
    image.PixelData = encapsulate([bytes(frame)])


def _both_say_20000(image: FileDataset) -> None:
    image.Rows = image.Columns = 20000


def _many_frames(image: FileDataset) -> None:
    image.NumberOfFrames = 2_000_000_000


def _other_bits(image: FileDataset) -> None:
    image.BitsAllocated = 19


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_says_60000, "the compressed frame has 60000 Rows, and the image 384"),
        (_both_say_20000, "more than 100 megapixels are not read"),
        (_many_frames, "more than the 4096 MB"),
        (_other_bits, "samples of 19 bits"),
    ],
)
def test_a_size_is_looked_at_before_it_costs_memory(
    images: dict[int, FileDataset], damage: Callable[[FileDataset], None], said: str
) -> None:
    image = copy.deepcopy(images[7])
    damage(image)
    with pytest.raises(UnreadableInput, match=said):
        read_bytes(_written(image), origin="image")


def test_what_inflates_without_end_is_refused(images: dict[int, FileDataset]) -> None:
    deflating = zlib.compressobj(9, wbits=-15)
    zeros = deflating.compress(bytes(1 << 24)) + deflating.flush(zlib.Z_FULL_FLUSH)
    meta = b"\x02\x00\x10\x00UI" + struct.pack("<H", 22) + b"1.2.840.10008.1.2.1.99"
    with pytest.raises(UnreadableInput, match="more than the 256 MB"):
        read_bytes(bytes(128) + b"DICM" + meta + zeros * 100, origin="bomb")


def test_sequences_without_end_are_refused(images: dict[int, FileDataset]) -> None:
    content = _written(images[2])  # implicit VR
    begin = b"\x08\x00\x40\x11\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(UnreadableInput, match="nested too deep"):
        read_bytes(content[: content.index(b"\x08\x00\x16\x00")] + begin * 20_000, origin="deep")


def test_an_image_that_lost_its_beginning_is_not_passed_over(
    images: dict[int, FileDataset], tmp_path: Path
) -> None:
    (tmp_path / "1.dcm").write_bytes(_written(images[1]))
    (tmp_path / "LICENSE").write_text("no image")
    (tmp_path / "._1.dcm").write_bytes(b"what some systems put beside a file")
    passed_over: list[Path] = []
    assert len(read_folder(tmp_path, passed_over)) == 1
    assert {file.name for file in passed_over} == {"LICENSE", "._1.dcm"}
    (tmp_path / "2.dcm").write_bytes(b"")
    with pytest.raises(UnreadableInput, match=r"2\.dcm is truncated or damaged"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "keyword", ["Rows", "SOPClassUID", "BitsAllocated", "NumberOfFrames", "StudyInstanceUID"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_reason_quotes_what_stands_in_the_wrong_place(
    images: dict[int, FileDataset], keyword: str
) -> None:
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    image = copy.deepcopy(images[1])
    tag = Tag(tag_for_keyword(keyword) or 0)
    name = b"Qvystrum^Zebulon"
    image._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(name), name, 0, False, True)
    with pytest.raises(UnreadableInput) as refusal:
        read_bytes(_written(image), origin="image")
    assert keyword in str(refusal.value)
    assert "Qvystrum" not in str(refusal.value)


def test_near_the_limit_large_things_are_refused_and_small_ones_not() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    in_use = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (in_use + (512 << 20), before[1]))
    try:
        require_room(64 << 20)
        with pytest.raises(MemoryError):
            require_room(512 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    require_room(1 << 50)
