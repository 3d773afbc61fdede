"""A graph whose report is about no segments: it names its weights, the priors it was given and what it replaces."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.manifest import read_manifest
from isocenter_operators.run import Folder, Run, StoredInstance
from isocenter_operators.testing import head_phantom, write_series

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::ResourceWarning")]

APPLICATION = """
from pathlib import Path

from monai.deploy.core import Operator, OperatorSpec

from isocenter_operators.application import Application
from isocenter_operators.dicom.findings import Findings
from isocenter_operators.manifest import read_manifest
from isocenter_operators.series_selector import SeriesSelectorOperator
from isocenter_operators.sr_writer import SRWriterOperator

MANIFEST = read_manifest(Path(__file__).parent)
RULES = '{"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}'


class Look(Operator):
    def setup(self, spec: OperatorSpec):
        spec.input("study_selected_series_list")
        spec.input("prior_study_list")
        spec.output("findings")

    def compute(self, op_input, op_output, context):
        op_input.receive("study_selected_series_list")
        op_input.receive("prior_study_list")
        op_output.emit(Findings((), ("No bleeding was found.",)), "findings")


class Looking(Application):
    def compose(self):
        source, select, sink = self.source(), SeriesSelectorOperator(self, rules=RULES, name="select"), self.sink()
        look = Look(self, name="look")
        made_by = {"algorithm": MANIFEST.algorithm, "created": self.task.created, "record": self.record}
        report = SRWriterOperator(self, takes_seg=False, name="sr", **made_by)
        selected = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(source, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, look, selected)
        self.add_flow(self.prior_source(), look, {("prior_study_list", "prior_study_list")})
        self.add_flow(select, report, selected)
        self.add_flow(look, report, {("findings", "findings")})
        self.add_flow(report, sink, {("dicom_instances", "dicom_instances")})


def application(task=None):
    return Looking(task)
"""


def test_a_report_names_what_its_run_was_given(tmp_path: Path) -> None:
    from isocenter.worker import runner

    app, now, before = tmp_path / "looking", tmp_path / "now", tmp_path / "before"
    app.mkdir()
    (app / "app.py").write_text(APPLICATION)
    (app / "app.yaml").write_text(
        "application: {title: Looking, version: '1'}\nisocenter: {models: {net: 3, other: 1}}"
    )
    small = head_phantom(size=(24, 20, 6), spacing_mm=(10.0, 10.0, 32.0))
    write_series(small, now, uid_seed="now")
    write_series(small, before, uid_seed="before")
    replaced = StoredInstance("1.2.840.10008.5.1.4.1.1.88.34", "2.25.31", "2.25.32", "2.25.33", "SR")

    def reported(name: str, digit: str) -> tuple[Path, str]:
        out = tmp_path / name
        out.mkdir()
        outcome = runner.run(
            read_manifest(app),
            Run(
                source=Folder(now),
                sink=Folder(out),
                priors=(Folder(before),),
                algorithm=Algorithm(
                    "of the run",
                    "1",
                    {"net": "3"},
                    weights={"net": digit * 64, "of another application": "c" * 64},
                ),
                predecessors=(replaced,),
            ),
        )
        (stored,) = outcome.results
        assert stored.path is not None
        return stored.path, stored.sop_instance_uid

    path, uid = reported("one", "a")
    report = dcmread(path)
    (earlier,) = report.PertinentOtherEvidenceSequence
    (series,) = earlier.ReferencedSeriesSequence
    priors = {str(dcmread(file).SOPInstanceUID) for file in before.iterdir()}
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence} == priors
    (predecessor,) = report.PredecessorDocumentsSequence
    assert (
        predecessor.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.31"
    )
    told = [item.get("ContributionDescription") for item in report.ContributingEquipmentSequence]
    assert told[-2:] == [f"Weights with SHA-256 {'a' * 64}", None]
    assert reported("same", "a")[1] == uid
    assert reported("other", "b")[1] != uid
