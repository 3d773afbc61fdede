"""A graph that writes a parametric map and a derived series of a series that lacks a slice: each on its frames."""

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
from isocenter_operators.derived_series_writer import DerivedSeriesWriterOperator
from isocenter_operators.dicom.results.parametric_map import SALIENCY
from isocenter_operators.dicom.series.separation import StackPolicy
from isocenter_operators.manifest import read_manifest
from isocenter_operators.parametric_map_writer import ParametricMapWriterOperator
from isocenter_operators.series_selector import SeriesSelectorOperator
from isocenter_operators.volume import VolumeOperator

MANIFEST = read_manifest(Path(__file__).parent)
RULES = '{"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}'


class Work(Operator):
    def setup(self, spec: OperatorSpec):
        spec.input("image")
        spec.output("values")
        spec.output("quiet")

    def compute(self, op_input, op_output, context):
        voxels = op_input.receive("image").asnumpy()
        op_output.emit((voxels / 4096).astype(np.float32), "values")
        op_output.emit(voxels // 2, "quiet")


class Working(Application):
    def compose(self):
        source, select, sink = self.source(), SeriesSelectorOperator(self, rules=RULES, name="select"), self.sink()
        made_by = {"algorithm": MANIFEST.algorithm, "created": self.task.created, "record": self.record}
        volume = VolumeOperator(self, policy=StackPolicy(gaps="resample"), record=self.record, name="volume")
        work = Work(self, name="work")
        maps = ParametricMapWriterOperator(self, quantity=SALIENCY, name="map", **made_by)
        series = DerivedSeriesWriterOperator(self, what="Denoised", name="series", **made_by)
        selected = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(source, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, volume, selected)
        self.add_flow(volume, work, {("image", "image")})
        for writer, output, port in ((maps, "values", "values"), (series, "quiet", "image")):
            self.add_flow(select, writer, selected)
            self.add_flow(work, writer, {(output, port)})
            self.add_flow(writer, sink, {("dicom_instances", "dicom_instances")})


def application(task=None):
    return Working(task)
"""


def test_a_map_and_a_series_lie_on_the_slices_that_there_are(tmp_path: Path) -> None:
    from isocenter.worker import runner

    app, scan, out = tmp_path / "working", tmp_path / "scan", tmp_path / "out"
    app.mkdir()
    out.mkdir()
    (app / "app.py").write_text(APPLICATION)
    (app / "app.yaml").write_text(
        "application: {title: Working, version: '1'}\nisocenter: {models: {net: 3}}"
    )
    phantom = head_phantom(size=(24, 20, 8), spacing_mm=(10.0, 10.0, 24.0))
    write_series(phantom, scan)[5].unlink()
    there = [0, 1, 2, 3, 4, 6, 7]

    outcome = runner.run(read_manifest(app), Run(source=Folder(scan), sink=Folder(out)))

    results = [dcmread(stored.path) for stored in outcome.results if stored.path is not None]
    (made,) = [result for result in results if result.SOPClassUID.name == "Parametric Map Storage"]
    values = np.frombuffer(made.FloatPixelData, "<f4").reshape(-1, *phantom.hu.shape[1:])
    np.testing.assert_array_equal(values, (phantom.hu[there] / 4096).astype(np.float32))
    images = {int(r.InstanceNumber): r for r in results if r is not made}
    assert sorted(images) == [1, 2, 3, 4, 5, 6, 7]
    for place, z in enumerate(there, 1):
        np.testing.assert_array_equal(images[place].pixel_array, phantom.hu[z] // 2)
        position = phantom.affine @ [0, 0, z, 1]
        np.testing.assert_allclose(
            np.array(images[place].ImagePositionPatient, float), position[:3], atol=1e-6
        )
