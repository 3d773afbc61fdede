"""A graph whose results are for readers: sentences, a page, and key objects that name them all."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from isocenter_operators.manifest import read_manifest
from isocenter_operators.run import Folder, Run
from isocenter_operators.testing import thorax_phantom, write_series

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::ResourceWarning")]

APPLICATION = """
from pathlib import Path

import numpy as np
from monai.deploy.core import Operator, OperatorSpec

from isocenter_operators.application import Application
from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Findings, Measurement, MeasurementGroup, Segment
from isocenter_operators.key_object_writer import KeyObjectWriterOperator
from isocenter_operators.manifest import read_manifest
from isocenter_operators.pdf_writer import PDFWriterOperator
from isocenter_operators.seg_writer import SegWriterOperator
from isocenter_operators.series_selector import SeriesSelectorOperator
from isocenter_operators.text_report_writer import TextReportWriterOperator
from isocenter_operators.volume import VolumeOperator

MANIFEST = read_manifest(Path(__file__).parent)
RULES = '{"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}'
AIR = Segment(1, "Air", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (90, 160, 220))


class Look(Operator):
    def setup(self, spec: OperatorSpec):
        spec.input("image")
        spec.output("seg_image")
        spec.output("findings")

    def compute(self, op_input, op_output, context):
        voxels = op_input.receive("image").asnumpy()
        labels = ((voxels > -950) & (voxels < -500)).astype(np.uint8)
        volume = Measurement("voxels", codes.VOLUME, float(labels.sum()), codes.MILLILITER, decimals=0)
        op_output.emit(labels, "seg_image")
        op_output.emit(Findings((MeasurementGroup("Air", codes.LUNG, (1,), (volume,)),)), "findings")


class Looking(Application):
    def compose(self):
        source, select, sink = self.source(), SeriesSelectorOperator(self, rules=RULES, name="select"), self.sink()
        volume, look = VolumeOperator(self, rescale_type="HU", name="volume"), Look(self, name="look")
        made_by = {
            "segments": (AIR,), "algorithm": MANIFEST.algorithm, "created": self.task.created, "record": self.record
        }
        seg = SegWriterOperator(self, name="seg", **made_by)
        text = TextReportWriterOperator(self, name="text", **made_by)
        page = PDFWriterOperator(self, name="page", **made_by)
        keys = KeyObjectWriterOperator(self, name="keys", **made_by)
        selected = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(source, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, volume, selected)
        self.add_flow(volume, look, {("image", "image")})
        self.add_flow(volume, page, {("image", "image")})
        for writer in (seg, page, keys):
            self.add_flow(look, writer, {("seg_image", "seg_image")})
        for writer in (text, page, keys):
            self.add_flow(look, writer, {("findings", "findings")})
        for writer in (seg, text, page):
            self.add_flow(writer, keys, {("dicom_instances", "dicom_instances")})
        for writer in (seg, text, page, keys):
            self.add_flow(select, writer, selected)
            self.add_flow(writer, sink, {("dicom_instances", "dicom_instances")})


def application(task=None):
    return Looking(task)
"""


def test_the_readers_results_of_one_run_are_stored_together_and_named_by_one_of_them(tmp_path: Path) -> None:
    from isocenter.worker import runner

    app, images, out = tmp_path / "looking", tmp_path / "images", tmp_path / "out"
    app.mkdir()
    out.mkdir()
    (app / "app.py").write_text(APPLICATION)
    (app / "app.yaml").write_text(
        "application: {title: Looking, version: '1'}\nisocenter: {models: {net: 3}}"
    )
    write_series(thorax_phantom(size=(48, 40, 8), spacing_mm=(7.6, 7.6, 36.0)), images)
    outcome = runner.run(read_manifest(app), Run(source=Folder(images), sink=Folder(out)))

    results = [dcmread(stored.path) for stored in outcome.results if stored.path is not None]
    assert sorted((each.Modality, each.SeriesNumber) for each in results) == [
        ("DOC", 9005),
        ("KO", 9009),
        ("KO", 9009),
        ("SEG", 9001),
        ("SR", 9004),
    ]
    key_images, result_set = sorted(
        (r for r in results if r.Modality == "KO"), key=lambda r: r.InstanceNumber
    )
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in result_set.ContentSequence
        if "ReferencedSOPSequence" in item
    }
    assert named == {each.SOPInstanceUID for each in results} - {result_set.SOPInstanceUID}
    (image,) = [item for item in key_images.ContentSequence if item.ValueType == "IMAGE"]
    sources = {dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in images.iterdir()}
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID in sources
