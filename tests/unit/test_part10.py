"""What is read fast is what pydicom reads, element by element, or is left to pydicom."""

from __future__ import annotations

import os
import random
import warnings
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from isocenter_operators.dicom.series.geometry import volume_of
from isocenter_operators.dicom.series.part10 import (
    PixelBytes,
    Regular,
    Seen,
    regular,
    stored_pixels,
)
from isocenter_operators.dicom.series.read import read_bytes, read_folder
from isocenter_operators.errors import UnreadableInput
from isocenter_operators.testing import thorax_phantom, write_series


def _read(content: bytes, seen: Seen) -> Regular | None:
    return regular(content[: seen.head_bytes], len(content), seen, PixelBytes(memoryview(content)))


def _same(read: Regular, content: bytes) -> None:
    expected = dcmread(BytesIO(content))
    assert [*read.instance.keys()] == [*expected.keys()]
    assert read.instance.file_meta == expected.file_meta
    assert read.instance.original_character_set == expected.original_character_set
    assert read.instance == expected  # every value, and the pixels, which are read for it
    for element in expected:
        assert read.instance[element.tag].VR == element.VR
        assert read.instance[element.tag].is_undefined_length == element.is_undefined_length


@pytest.mark.parametrize(
    "series", ["ct-chest-275", "ct-abdomen-41", "mr-abdomen", "transfer-syntaxes", "reference-results"]
)
def test_every_instance_is_the_one_that_pydicom_reads(test_data: Path, series: str) -> None:
    seen, fast = Seen(), 0  # of series after series, so that what is shared is put to the test
    contents = (file.read_bytes() for file in sorted((test_data / series).rglob("*")) if file.is_file())
    for content in islice((content for content in contents if content[128:132] == b"DICM"), 60):
        read = _read(content, seen)
        if read is not None:
            _same(read, content)
            fast += 1
    assert fast >= 1


def test_what_was_damaged_is_what_pydicom_reads_or_is_left_to_it(tmp_path: Path) -> None:
    write_series(thorax_phantom(size=(24, 24, 4), spacing_mm=(15, 15, 70)), tmp_path)
    originals = [file.read_bytes() for file in sorted(tmp_path.rglob("*.dcm"))]
    header = len(originals[0]) - 24 * 24 * 2
    chance, fast = random.Random(5), 0
    for _ in range(1500):
        seen = Seen()
        for content in originals[:3]:
            assert _read(content, seen)
        damaged = bytearray(originals[3])
        for _ in range(chance.choice((1, 1, 2, 5))):
            damaged[chance.randrange(128, header)] = chance.randrange(256)
        read = _read(bytes(damaged), seen)
        if read is not None:
            fast += 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _same_raw(read, bytes(damaged))
    assert fast > 300  # else nothing was shown


def _same_raw(read: Regular, content: bytes) -> None:
    """Before any value is converted, which damaged ones can not be."""
    expected = dcmread(BytesIO(content))
    assert [*read.elements] == [*expected.file_meta.keys(), *expected.keys()]
    for tag in expected.keys():  # noqa: SIM118
        one, other = read.elements[tag], expected.get_item(tag)
        value = read.instance[tag].value if one.value is None and one.length else one.value
        assert (one.VR, one.length, value) == (other.VR, other.length, other.value)


def test_a_change_to_one_instance_is_none_to_another(tmp_path: Path) -> None:
    write_series(thorax_phantom(size=(16, 16, 3), spacing_mm=(20, 20, 90)), tmp_path)
    first, second, _ = read_folder(tmp_path)
    first.PatientName = "Changed^One"
    first.PixelSpacing[0] = 7.0
    assert second.PatientName != "Changed^One"
    assert second.PixelSpacing[0] == 20


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 10)


def _touched(file: Path) -> None:
    os.utime(file, (1, 1))


def _replaced(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")


@pytest.mark.parametrize("change", [_cut, _touched, _replaced, Path.unlink])
def test_a_file_that_changes_before_its_pixels_are_read_is_refused(tmp_path: Path, change: object) -> None:
    write_series(thorax_phantom(size=(16, 16, 3), spacing_mm=(20, 20, 90)), tmp_path)
    instances = read_folder(tmp_path)
    assert callable(change)
    change(sorted(tmp_path.rglob("*.dcm"))[1])
    with pytest.raises(UnreadableInput, match=r"changed after|can not be read"):
        volume_of(instances)


def test_pixels_in_memory_are_not_copied_before_they_are_needed(tmp_path: Path) -> None:
    phantom = thorax_phantom(size=(16, 16, 3), spacing_mm=(20, 20, 90))
    write_series(phantom, tmp_path)
    received = [memoryview(file.read_bytes()) for file in sorted(tmp_path.rglob("*.dcm"))]
    seen = Seen()
    instances: list[Dataset] = []
    for content in received:
        instance = read_bytes(content, origin="a part", seen=seen)
        assert instance is not None
        stored = stored_pixels(instance)
        assert stored is not None
        assert isinstance(stored.where, memoryview)
        assert stored.where.obj is content.obj
        instances.append(instance)
    voxels = volume_of(instances).voxels
    np.testing.assert_array_equal(voxels, volume_of(read_folder(tmp_path)).voxels)
    assert instances[0].pixel_array.shape == (16, 16)  # pydicom finds them too
