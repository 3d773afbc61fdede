"""Results by other people's hands, read by our readers: the voxels that dcmqi and highdicom say there are."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import ZipFile

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from read_back import dcmqi, on_grid, read_nrrd, read_seg

from isocenter_operators.dicom.results.map_reader import read_parametric_map
from isocenter_operators.dicom.results.seg_reader import read_segmentation
from isocenter_operators.errors import InputError

DCMQI = [
    "dcmqi/segmentations/23x38x3/seg/label.seg",
    "dcmqi/segmentations/24x38x3/seg/label.seg",
    "dcmqi/segmentations/liver.dcm",
    "dcmqi/sr-example/seg.dcm",
    "highdicom/seg_image_ct_binary.dcm",
    "highdicom/seg_image_ct_binary_single_frame.dcm",
]
LABELMAPS = ["dcmqi/segmentations/sparse-labelmap-noppv.dcm", "dcmqi/segmentations/sparse-labelmap-ppv5.dcm"]
HIGHDICOM = [
    "highdicom/seg_image_ct_binary.dcm",
    "highdicom/seg_image_ct_binary_overlap.dcm",
    "highdicom/seg_image_ct_binary_fractional.dcm",
    "highdicom/seg_image_ct_true_fractional.dcm",
    "highdicom/seg_image_ct_binary_single_frame.dcm",
    "dcmqi/segmentations/liver.dcm",
    "dcmqi/segmentations/partial_overlaps.dcm",
    *LABELMAPS,
]


@pytest.fixture
def references(test_data: Path) -> Path:
    return test_data / "reference-results"


@pytest.mark.parametrize("name", DCMQI)
def test_a_segmentation_has_the_voxels_that_dcmqi_gives(name: str, references: Path, tmp_path: Path) -> None:
    ours = read_segmentation(dcmread(references / name))
    theirs = on_grid(read_seg(references / name, tmp_path), ours.grid.shape, ours.grid.affine)
    assert theirs.any()
    np.testing.assert_array_equal(ours.label_map(), theirs)


@pytest.mark.parametrize("name", HIGHDICOM)
def test_a_segmentation_has_the_voxels_that_highdicom_gives(name: str, references: Path) -> None:
    dataset = dcmread(references / name)
    ours = read_segmentation(dataset)
    theirs = hd.seg.segread(references / name)
    for segment in ours.segments:
        if segment.number == 0:
            continue  # the background of a label map
        volume = theirs.get_volume(
            segment_numbers=[segment.number], rescale_fractional=True, allow_missing_positions=True
        )
        mask = ours.mask(segment.number)
        assert mask.any()
        expected: NDArray[np.float64] = volume.array[..., 0]
        # highdicom's slices run as they were written, ours along the normal of the image plane.
        flipped = (volume.affine[:3, 0] @ ours.grid.affine[:3, 2]) < 0
        np.testing.assert_array_equal(mask, expected[::-1] if flipped else expected)
    labels = {int(item.SegmentNumber): item.SegmentLabel for item in dataset.SegmentSequence}
    assert {segment.number: segment.label for segment in ours.segments} == labels


def test_overlapping_segments_make_no_label_map(references: Path) -> None:
    with pytest.raises(InputError, match="overlap"):
        read_segmentation(dcmread(references / "highdicom/seg_image_ct_binary_overlap.dcm")).label_map()


def test_padding_of_a_label_map_is_no_segment(references: Path) -> None:
    padded, plain = (read_segmentation(dcmread(references / name)) for name in LABELMAPS[::-1])
    assert int(padded.dataset.PixelPaddingValue) == 5
    np.testing.assert_array_equal(padded.label_map(), plain.label_map())


ADC = {
    "@schema": "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/schemas/pm-schema.json#",
    "SeriesDescription": "Apparent Diffusion Coefficient",
    "SeriesNumber": "701",
    "InstanceNumber": "1",
    "BodyPartExamined": "PROSTATE",
    "QuantityValueCode": {
        "CodeValue": "113041",
        "CodingSchemeDesignator": "DCM",
        "CodeMeaning": "Apparent Diffusion Coefficient",
    },
    "MeasurementUnitsCode": {"CodeValue": "um2/s", "CodingSchemeDesignator": "UCUM", "CodeMeaning": "um2/s"},
    "RealWorldValueSlope": 1,
    "DerivationCode": {
        "CodeValue": "113041",
        "CodingSchemeDesignator": "DCM",
        "CodeMeaning": "Apparent Diffusion Coefficient",
    },
    "AnatomicRegionSequence": {
        "CodeValue": "181422007",
        "CodingSchemeDesignator": "SCT",
        "CodeMeaning": "Prostate",
    },
    "FrameLaterality": "U",
}


def test_a_parametric_map_has_the_values_that_dcmqi_wrote(references: Path, tmp_path: Path) -> None:
    image = references / "dcmqi/paramaps/pm-example-float.nrrd"
    with ZipFile(references / "dcmqi/paramaps/pm-example-dcm.zip") as packed:
        packed.extractall(tmp_path / "source")
    (folder,) = (tmp_path / "source").iterdir()
    metadata, out = tmp_path / "metadata.json", tmp_path / "map.dcm"
    metadata.write_text(json.dumps(ADC))
    dcmqi(
        "itkimage2paramap", "--inputImage", str(image), "--inputMetadata", str(metadata),
        "--inputDICOMDirectory", str(folder), "--outputDICOM", str(out),
    )  # fmt: skip
    values, grid = read_parametric_map(dcmread(out))
    theirs, affine = read_nrrd(image)
    assert theirs.any()
    np.testing.assert_allclose(grid.affine, affine, atol=1e-4)
    np.testing.assert_array_equal(values, theirs)
