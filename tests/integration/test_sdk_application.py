"""Our operators and the MONAI Deploy SDK's own in one graph, either way round."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from read_back import on_grid, read_seg

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Segment
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import InputError
from isocenter_operators.testing import ThoraxPhantom, thorax_phantom, write_series

pytestmark = [
    pytest.mark.integration,
    # The SDK's own ways.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

MODEL = "ct_lung_density"
ALGORITHM = Algorithm("lungs_in_an_sdk_graph", "1.0", {MODEL: "1"})
SEGMENTS = (
    Segment(1, "Right lung", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (92, 156, 219), codes.RIGHT),
    Segment(2, "Left lung", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (236, 167, 84), codes.LEFT),
)
RULES = (
    '{"selections": [{"name": "CT", "conditions": {"Modality": "(?i)CT", "PatientID": "(?i)isocenter-p"}}]}'
)
# Of a left-handed orientation too: there the slices' order is not the array's.
GRIDS = [
    ("LPS", {"size": (150, 120, 100), "spacing_mm": (2.3, 2.3, 3.0)}),
    ("RPS", {"size": (150, 120, 100), "spacing_mm": (2.3, 2.3, 3.0)}),
    ("LIP", {"size": (150, 100, 120), "spacing_mm": (2.6, 2.6, 2.3)}),
]


def theirs(folder: Path, out: Path, triton_url: str) -> Any:
    """The SDK's loader, selector and volume; our inference, SEG writer and sink."""
    from monai.deploy.conditions import CountCondition
    from monai.deploy.core import Application
    from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
    from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
    from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator

    from isocenter_operators.folder_sink import FolderSinkOperator
    from isocenter_operators.seg_writer import SegWriterOperator
    from isocenter_operators.triton_inference import TritonInferenceOperator

    class Mixed(Application):
        def compose(self) -> None:
            loader = DICOMDataLoaderOperator(
                self, CountCondition(self, 1), input_folder=folder, name="loader"
            )
            selector = DICOMSeriesSelectorOperator(self, rules=RULES, name="selector")
            volume = DICOMSeriesToVolumeOperator(self, name="volume")
            model = TritonInferenceOperator(self, model_name=MODEL, triton_url=triton_url, name="model")
            seg = SegWriterOperator(
                self, segments=SEGMENTS, algorithm=ALGORITHM, output_folder=out / "written", name="seg"
            )
            sink = FolderSinkOperator(self, output_folder=out, name="sink")
            selected = {("study_selected_series_list", "study_selected_series_list")}
            self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
            self.add_flow(selector, volume, selected)
            self.add_flow(selector, seg, selected)
            self.add_flow(volume, model, {("image", "image")})
            self.add_flow(model, seg, {("pred", "seg_image")})
            self.add_flow(seg, sink, {("dicom_instances", "dicom_instances")})

    return Mixed(argv=[])


def ours(folder: Path, out: Path, triton_url: str) -> Any:
    """Our source, selector, volume and inference; the SDK's SEG writer."""
    from monai.deploy.conditions import CountCondition
    from monai.deploy.core import Application
    from monai.deploy.operators.dicom_seg_writer_operator import (
        DICOMSegmentationWriterOperator,
        SegmentDescription,
    )
    from pydicom.sr.coding import Code

    from isocenter_operators.folder_source import FolderSourceOperator
    from isocenter_operators.series_selector import SeriesSelectorOperator
    from isocenter_operators.triton_inference import TritonInferenceOperator
    from isocenter_operators.volume import VolumeOperator

    descriptions = [
        SegmentDescription(
            segment_label=segment.label,
            segmented_property_category=Code(*segment.category),
            segmented_property_type=Code(*segment.type),
            algorithm_name=ALGORITHM.name,
            algorithm_family=Code(*codes.MORPHOLOGICAL_OPERATIONS),
            algorithm_version=ALGORITHM.version,
        )
        for segment in SEGMENTS
    ]

    class Mixed(Application):
        def compose(self) -> None:
            source = FolderSourceOperator(self, CountCondition(self, 1), input_folder=folder, name="source")
            selector = SeriesSelectorOperator(self, rules=RULES, name="selector")
            volume = VolumeOperator(self, name="volume")
            model = TritonInferenceOperator(self, model_name=MODEL, triton_url=triton_url, name="model")
            seg = DICOMSegmentationWriterOperator(
                self, segment_descriptions=descriptions, output_folder=out, name="seg"
            )
            selected = {("study_selected_series_list", "study_selected_series_list")}
            self.add_flow(source, selector, {("dicom_study_list", "dicom_study_list")})
            self.add_flow(selector, volume, selected)
            self.add_flow(selector, seg, selected)
            self.add_flow(volume, model, {("image", "image")})
            self.add_flow(model, seg, {("pred", "seg_image")})

    return Mixed(argv=[])


def labels_of(out: Path, phantom: ThoraxPhantom) -> NDArray[np.int16]:
    """The one SEG's label map, each voxel where it lies in the patient."""
    (path,) = out.glob("*.dcm")
    return on_grid(read_seg(path, out), phantom.labels.shape, phantom.affine)


@pytest.mark.parametrize(("orientation", "grid"), GRIDS)
def test_either_way_the_same_voxels_are_lung(
    orientation: str, grid: dict[str, Any], triton_url: str, tmp_path: Path
) -> None:
    phantom = thorax_phantom(orientation=orientation, **grid)
    write_series(phantom, tmp_path / "in")
    for graph in (theirs, ours):
        (tmp_path / graph.__name__).mkdir()
        graph(tmp_path / "in", tmp_path / graph.__name__, triton_url).run()
    first, second = labels_of(tmp_path / "theirs", phantom), labels_of(tmp_path / "ours", phantom)
    np.testing.assert_array_equal(first, second)
    for number in (1, 2):
        mine, true = first == number, phantom.labels == number
        assert 2 * np.count_nonzero(mine & true) / (mine.sum() + true.sum()) >= 0.98
    (written,) = (tmp_path / "theirs" / "written").glob("*.dcm")
    assert highdicom.seg.segread(written).number_of_segments == 2
    assert dcmread(written).SOPInstanceUID == written.stem


def test_our_selector_keeps_the_patient_out_of_the_log(
    triton_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK's writes down the value of each attribute that a rule looks at."""
    phantom = thorax_phantom(size=(150, 120, 100), spacing_mm=(2.3, 2.3, 3.0))
    write_series(phantom, tmp_path / "in")
    said = {}
    for graph in (theirs, ours):
        (tmp_path / graph.__name__).mkdir()
        caplog.clear()
        with caplog.at_level(logging.DEBUG):
            graph(tmp_path / "in", tmp_path / graph.__name__, triton_url).run()
        said[graph.__name__] = caplog.text
    assert "ISOCENTER-PHANTOM" in said["theirs"], "there was something to keep out"
    assert "ISOCENTER-PHANTOM" not in said["ours"]


def test_voxels_of_another_type_are_rounded_or_refused_never_wrapped() -> None:
    """The SDK's volume is of whatever type its values fit."""
    from isocenter_operators.triton_inference import _int16

    for values in ([[[-1000.6, 39.5001]]], [[[-1001, 40]]]):
        voxels = _int16(np.array(values), MODEL)
        assert (voxels.dtype, voxels.tolist()) == (np.int16, [[[-1001, 40]]])
    assert _int16(np.full((2, 2, 2), 3071, np.uint16), MODEL).max() == 3071
    for wrong in (
        np.full((2, 2, 2), 40000, np.uint16),
        np.full((2, 2, 2), np.nan),
        np.zeros((2, 2), np.int16),
    ):
        with pytest.raises(InputError, match=r"do not fit 16 bits|no volume"):
            _int16(wrong, MODEL)
