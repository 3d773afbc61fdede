"""Instances are read whole, or refused with the file's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isocenter_operators.dicom.geometry import volume_of
from isocenter_operators.dicom.read import read_bytes, read_file, read_folder
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
