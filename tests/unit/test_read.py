"""Instances are read whole, or refused with the file's name."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmwrite
from pydicom.dataset import Dataset

from isocenter_operators.dicom.series.geometry import volume_of
from isocenter_operators.dicom.series.read import read_bytes, read_file, read_folder
from isocenter_operators.errors import UnreadableInput

SYNTAXES = [f"{n}.dcm" for n in range(1, 10)]


@pytest.mark.parametrize("name", SYNTAXES)
def test_every_transfer_syntax_decodes_to_the_same_image(test_data: Path, name: str) -> None:
    folder = test_data / "transfer-syntaxes" / "In"
    reference, other = read_file(next(folder.rglob("1.dcm"))), read_file(next(folder.rglob(name)))
    assert reference is not None
    assert other is not None
    # Two slices at two places make a volume; both planes must show the same picture.
    other.SeriesInstanceUID = reference.SeriesInstanceUID
    other.FrameOfReferenceUID = reference.FrameOfReferenceUID
    cosines = np.array(reference.ImageOrientationPatient, float)
    other.ImagePositionPatient = list(
        np.array(reference.ImagePositionPatient, float) + 5 * np.cross(cosines[:3], cosines[3:])
    )
    planes = volume_of([reference, other]).voxels
    assert planes[0].max() > 0
    np.testing.assert_array_equal(planes[0], planes[1])


@pytest.mark.filterwarnings("ignore:End of file reached:UserWarning")
@pytest.mark.parametrize("name", SYNTAXES)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused_by_name(test_data: Path, tmp_path: Path, name: str, kept: float) -> None:
    content = next((test_data / "transfer-syntaxes" / "In").rglob(name)).read_bytes()
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UnreadableInput, match=r"cut\.dcm"):
        read_folder(tmp_path)


def test_an_empty_folder_and_one_without_dicom_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="folder is empty"):
        read_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("no images here")
    with pytest.raises(UnreadableInput, match="1 files were looked at"):
        read_folder(tmp_path)
    with pytest.raises(UnreadableInput, match="does not exist"):
        read_folder(tmp_path / "nowhere")


def test_a_dicomdir_and_other_files_are_passed_over(test_data: Path) -> None:
    instances = read_folder(test_data / "ct-head-phantom")
    assert {str(instance.Modality) for instance in instances} <= {"CT", "OT", "SC"}
    assert len({instance.SOPInstanceUID for instance in instances}) == len(instances) == 118


def test_bytes_that_are_no_dicom_name_their_origin() -> None:
    with pytest.raises(UnreadableInput, match="part 3 of the answer"):
        read_bytes(b"<html>502 Bad Gateway</html>" * 10, origin="part 3 of the answer")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda image: image.pop("Rows"), "it has pixels, but no Rows"),
        (lambda image: image.file_meta.pop("TransferSyntaxUID"), "transfer syntax none"),
        (
            lambda image: setattr(image.file_meta, "TransferSyntaxUID", "1.2.840.113619.5.2"),
            "not one of DICOM",
        ),
    ],
)
def test_what_does_not_say_how_to_read_its_pixels_is_refused(
    test_data: Path, tmp_path: Path, damage: Callable[[Dataset], object], said: str
) -> None:
    image = read_file(min((test_data / "ct-abdomen-41" / "image").iterdir()))
    assert image is not None
    damage(image)
    content = BytesIO()
    dcmwrite(content, image, implicit_vr=False, little_endian=True, enforce_file_format=False)
    (tmp_path / "odd.dcm").write_bytes(content.getvalue())
    with pytest.raises(UnreadableInput, match=rf"odd\.dcm.*{said}"):
        read_folder(tmp_path)
