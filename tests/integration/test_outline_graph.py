"""A graph that writes outlines and draws detections on a series that lacks a slice: each on its frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

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
from isocenter_operators.dicom.findings import Findings, MeasurementGroup, Points, Segment
from isocenter_operators.dicom.series.separation import StackPolicy
from isocenter_operators.manifest import read_manifest
from isocenter_operators.presentation_state_writer import PresentationStateWriterOperator
from isocenter_operators.rtstruct_writer import RTStructWriterOperator
from isocenter_operators.series_selector import SeriesSelectorOperator
from isocenter_operators.volume import VolumeOperator, lps_affine

MANIFEST = read_manifest(Path(__file__).parent)
RULES = '{"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}'
BONE = Segment(1, "Bone", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (240, 230, 200))


class Look(Operator):
    def setup(self, spec: OperatorSpec):
        spec.input("image")
        spec.output("seg_image")
        spec.output("findings")

    def compute(self, op_input, op_output, context):
        image = op_input.receive("image")
        op_output.emit((image.asnumpy() > 300).astype(np.uint8), "seg_image")
        place = tuple(float(part) for part in (lps_affine(image) @ (8, 9, 6, 1))[:3])
        found = MeasurementGroup("Spot", codes.LUNG, region=Points((place,)))
        op_output.emit(Findings((found,)), "findings")


class Looking(Application):
    def compose(self):
        source, select, sink = self.source(), SeriesSelectorOperator(self, rules=RULES, name="select"), self.sink()
        made_by = {"algorithm": MANIFEST.algorithm, "created": self.task.created, "record": self.record}
        volume = VolumeOperator(self, policy=StackPolicy(gaps="resample"), record=self.record, name="volume")
        look = Look(self, name="look")
        outlines = RTStructWriterOperator(self, segments=(BONE,), name="outlines", **made_by)
        drawing = PresentationStateWriterOperator(self, name="drawing", **made_by)
        selected = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(source, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, volume, selected)
        self.add_flow(volume, look, {("image", "image")})
        for writer, port in ((outlines, "seg_image"), (drawing, "findings")):
            self.add_flow(select, writer, selected)
            self.add_flow(look, writer, {(port, port)})
            self.add_flow(writer, sink, {("dicom_instances", "dicom_instances")})


def application(task=None):
    return Looking(task)
"""


def test_outlines_and_detections_lie_on_the_slices_that_there_are(tmp_path: Path) -> None:
    from isocenter.worker import runner

    app, scan, out = tmp_path / "looking", tmp_path / "scan", tmp_path / "out"
    app.mkdir()
    out.mkdir()
    (app / "app.py").write_text(APPLICATION)
    (app / "app.yaml").write_text(
        "application: {title: Looking, version: '1'}\nisocenter: {models: {net: 3}}"
    )
    phantom = head_phantom(size=(24, 20, 8), spacing_mm=(10.0, 10.0, 24.0))
    paths = write_series(phantom, scan)
    uids = [dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in paths]
    paths[5].unlink()

    outcome = runner.run(read_manifest(app), Run(source=Folder(scan), sink=Folder(out)))

    results = [dcmread(stored.path) for stored in outcome.results if stored.path is not None]
    structures, state = sorted(results, key=lambda result: str(result.SeriesNumber))
    assert (structures.Modality, state.Modality) == ("RTSTRUCT", "PR")
    outlined = {
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        for contour in structures.ROIContourSequence[0].ContourSequence
    }
    assert outlined == {uid for z, uid in enumerate(uids) if z != 5 and (phantom.hu[z] > 300).any()}
    (annotation,) = state.GraphicAnnotationSequence
    assert annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID == uids[6]
    np.testing.assert_allclose(annotation.GraphicObjectSequence[0].GraphicData, [8.5, 9.5], atol=1e-3)
