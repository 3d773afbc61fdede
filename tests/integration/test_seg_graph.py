"""A graph that writes a label map, overlapping masks and fractions of a series that lacks a slice, for two archives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from isocenter_operators.dicom.results.profile import ANY, MODERN, DestinationProfile
from isocenter_operators.errors import GeometryError
from isocenter_operators.form import ResultForm
from isocenter_operators.manifest import read_manifest
from isocenter_operators.run import Folder, Run
from isocenter_operators.testing import head_phantom, write_series

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::ResourceWarning")]

APPLICATION = """
from pathlib import Path

import numpy as np
from monai.deploy.core import Operator, OperatorSpec

from isocenter_operators.application import Application
from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Segment
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicom.series.separation import StackPolicy
from isocenter_operators.fractional_seg_writer import FractionalSegWriterOperator
from isocenter_operators.manifest import read_manifest
from isocenter_operators.seg_writer import SegWriterOperator
from isocenter_operators.series_selector import SeriesSelectorOperator
from isocenter_operators.volume import VolumeOperator

MANIFEST = read_manifest(Path(__file__).parent)
RULES = '{"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}'
SEGMENTS = [Segment(n, f"Part {n}", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (200, 90, 90)) for n in (1, 2)]


class Work(Operator):
    def setup(self, spec: OperatorSpec):
        spec.input("image")
        for output in ("labels", "masks", "fractions"):
            spec.output(output)

    def compute(self, op_input, op_output, context):
        voxels = op_input.receive("image").asnumpy()
        masks = np.stack([voxels > 0, (voxels > 500) & (voxels < 900)])
        op_output.emit(masks.sum(axis=0).astype(np.uint8), "labels")
        op_output.emit(masks, "masks")
        op_output.emit(masks.astype(np.float32) / 2, "fractions")


class Working(Application):
    def compose(self):
        source, select, sink = self.source(), SeriesSelectorOperator(self, rules=RULES, name="select"), self.sink()
        volume = VolumeOperator(self, policy=StackPolicy(gaps="resample"), record=self.record, name="volume")
        work = Work(self, name="work")
        selected = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(source, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, volume, selected)
        self.add_flow(volume, work, {("image", "image")})
        kinds = {"labels": SegWriterOperator, "masks": SegWriterOperator, "fractions": FractionalSegWriterOperator}
        for what, kind in kinds.items():
            writer = kind(
                self, segments=SEGMENTS, algorithm=Algorithm(what, "1"), created=self.task.created,
                form=self.task.form, record=self.record, name=what,
            )
            self.add_flow(select, writer, selected)
            self.add_flow(work, writer, {(what, what if what == "fractions" else "seg_image")})
            self.add_flow(writer, sink, {("dicom_instances", "dicom_instances")})


def application(task=None):
    return Working(task)
"""


@pytest.mark.parametrize(("profile", "kind"), [(ANY, "BINARY"), (MODERN, "LABELMAP")])
def test_segmentations_lie_on_the_slices_that_there_are(
    profile: DestinationProfile, kind: str, tmp_path: Path
) -> None:
    scan = tmp_path / "scan"
    phantom = head_phantom(size=(24, 20, 8), spacing_mm=(10.0, 10.0, 24.0))
    paths = write_series(phantom, scan)
    paths.pop(5).unlink()
    hu = np.delete(phantom.hu, 5, axis=0)

    results = run_graph(scan, tmp_path, ResultForm(profile=profile))

    made: dict[str, Dataset] = {result.ManufacturerModelName: result for result in results}
    assert {name: result.SegmentationType for name, result in made.items()} == {
        "labels": kind,
        "masks": "BINARY",  # these may overlap
        "fractions": "FRACTIONAL",
    }
    compressed = RLELossless if kind == "LABELMAP" else ExplicitVRLittleEndian
    assert made["labels"].file_meta.TransferSyntaxUID == compressed
    assert made["fractions"].file_meta.TransferSyntaxUID == compressed
    masks = np.stack([hu > 0, (hu > 500) & (hu < 900)], axis=-1)
    assert masks.any(axis=(0, 1, 2)).all()
    images = [dcmread(path).SOPInstanceUID for path in paths]
    np.testing.assert_array_equal(voxels(made["masks"], images), masks)
    np.testing.assert_allclose(voxels(made["fractions"], images), masks / 2, atol=0.002)
    labels = voxels(made["labels"], images, combine_segments=True)
    np.testing.assert_array_equal(labels, masks.sum(axis=-1))


def test_what_was_found_only_between_the_slices_that_there_are_is_no_result(tmp_path: Path) -> None:
    phantom = head_phantom(size=(24, 20, 8), spacing_mm=(10.0, 10.0, 24.0))
    np.minimum(phantom.hu, 400, out=phantom.hu)  # nothing of the second part, but halfway to the bright voxel
    phantom.hu[6, 10, 12] = 1000
    scan = tmp_path / "scan"
    write_series(phantom, scan).pop(5).unlink()

    with pytest.raises(GeometryError, match="Part 2: found only on slices that were interpolated"):
        run_graph(scan, tmp_path, ResultForm())


def run_graph(scan: Path, folder: Path, form: ResultForm) -> list[Dataset]:
    """The results of the application, run as a worker runs it."""
    from isocenter.worker import runner

    app, out = folder / "working", folder / "out"
    app.mkdir()
    out.mkdir()
    (app / "app.py").write_text(APPLICATION)
    (app / "app.yaml").write_text(
        "application: {title: Working, version: '1'}\nisocenter: {models: {net: 3}}"
    )
    outcome = runner.run(read_manifest(app), Run(source=Folder(scan), sink=Folder(out), form=form))
    return [dcmread(stored.path) for stored in outcome.results if stored.path is not None]


def voxels(result: Dataset, images: list[str], **how: Any) -> NDArray[Any]:
    """(Z, Y, X, segments), or (Z, Y, X) where they are combined, as highdicom reads them."""
    read: NDArray[Any] = highdicom.seg.Segmentation.from_dataset(result).get_pixels_by_source_instance(
        images, assert_missing_frames_are_empty=True, **how
    )
    return read
