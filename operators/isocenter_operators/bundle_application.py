"""The application of an imported MONAI bundle: of three graphs, for those that segment, that detect, and all others.

source -> select -> volume -> input gate -> the bundle on Triton -> volumes -> SEG, SR, pictures -> sink
source -> select -> volume -> input gate -> the bundle on Triton -> boxes -> SR, presentation states, pictures -> sink
source -> select -> volume -> input gate -> the bundle on Triton -> findings -> SR -> sink

A bundle that looks at several MR sequences has one series selected for each, all brought to the grid of the first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from monai.deploy.core import Operator
from pydantic import BaseModel, ConfigDict, ValidationError

from isocenter_operators.aligned_volumes import AlignedVolumesOperator
from isocenter_operators.application import Application
from isocenter_operators.box_findings import BoxFindingsOperator
from isocenter_operators.box_picture_writer import BoxPictureWriterOperator
from isocenter_operators.dicom.catalogue import segments_of
from isocenter_operators.dicom.findings import Segment
from isocenter_operators.dicom.gate.sequence import SequenceRule
from isocenter_operators.errors import ConfigurationError
from isocenter_operators.input_gate import InputGateOperator
from isocenter_operators.manifest import manifest_file, read_manifest
from isocenter_operators.picture_writer import PictureWriterOperator
from isocenter_operators.presentation_state_writer import PresentationStateWriterOperator
from isocenter_operators.run import Run
from isocenter_operators.seg_writer import SegWriterOperator
from isocenter_operators.segment_volumes import SegmentVolumesOperator
from isocenter_operators.sequence_selector import SequenceSelectorOperator
from isocenter_operators.series_selector import SeriesSelectorOperator
from isocenter_operators.sr_writer import SRWriterOperator
from isocenter_operators.triton_inference import TritonInferenceOperator
from isocenter_operators.volume import VolumeOperator
from isocenter_operators.whole_findings import WholeFindingsOperator

__all__ = ["BundleApplication"]

# CT and MR Image Storage, also Enhanced: not what only calls itself CT or MR (PS3.4, B.5).
_IMAGES = {
    "CT": r"^1\.2\.840\.10008\.5\.1\.4\.1\.1\.2(\.1)?$",
    "MR": r"^1\.2\.840\.10008\.5\.1\.4\.1\.1\.4(\.1)?$",
}

_SELECTED = {("study_selected_series_list", "study_selected_series_list")}


class _Bundle(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    output: Literal["labels", "masks", "boxes", "classes", "values"]
    activation: Literal["", "softmax", "sigmoid"] = ""
    labels: dict[int, str]
    sequences: tuple[SequenceRule, ...] = ()
    intended_use: str = ""


class BundleApplication(Application):
    """What `app.yaml` says under `bundle`: the model, what it gives, and what each of its labels is called.

    A run may name another version of the model: then that version's own file says it, with the same labels. Which
    series is which sequence says `app.yaml` alone, as a site may have changed it.

    Raises ConfigurationError where that can not be used.
    """

    def __init__(self, folder: Path, task: Run | None = None) -> None:
        self._manifest = read_manifest(folder)
        models = {} if task is None or task.algorithm is None else task.algorithm.models
        said = _bundle(manifest_file(folder, models.get(self._manifest.name, "")))
        self._bundle = said.model_copy(update={"sequences": _bundle(folder / "app.yaml").sequences})
        super().__init__(task or Run.from_environment(deadline_s=self._manifest.deadline_s))

    def compose(self) -> None:
        select, volume = self._images()
        gate = InputGateOperator(self, accepts=self._manifest.accepts, record=self.record, name="gate")
        self.add_flow(self.source(), select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, volume, _SELECTED)
        self.add_flow(volume, gate, {("image", "image")})
        model = self._model()
        self.add_flow(gate, model, {("image", "image")})
        if self._bundle.sequences:
            self.add_flow(volume, model, {("channels", "channels")})
        if self._bundle.output in ("labels", "masks"):
            self._segment(select, volume, model)
        elif self._bundle.output == "boxes":
            self._detect(select, volume, model)
        else:
            self._report(select, model)

    def _segment(self, select: Operator, volume: Operator, model: Operator) -> None:
        segments, notes = segments_of(self._bundle.labels)
        made_by = self._made_by(segments)
        notes = (*notes, *self._intended_use())
        volumes = SegmentVolumesOperator(
            self, segments=segments, notes=notes, record=self.record, name="volumes"
        )
        seg = SegWriterOperator(self, empty="no result", name="seg", **made_by)
        sr = SRWriterOperator(self, name="sr", **made_by)
        picture = PictureWriterOperator(self, empty="no result", name="picture", **made_by)
        for taker in (volumes, picture):
            self.add_flow(volume, taker, {("image", "image")})
        for taker in (volumes, seg, picture):
            self.add_flow(model, taker, {("pred", "seg_image")})
        self.add_flow(model, volumes, {("tensors", "tensors")})
        for taker in (sr, picture):
            self.add_flow(volumes, taker, {("findings", "findings")})
        self.add_flow(seg, sr, {("dicom_instances", "dicom_seg")})
        self._store(select, seg, sr, picture)

    def _detect(self, select: Operator, volume: Operator, model: Operator) -> None:
        classes, notes = segments_of(self._bundle.labels)
        made_by = self._made_by(())
        found = BoxFindingsOperator(
            self,
            segments=classes,
            notes=(*notes, *self._intended_use()),
            record=self.record,
            name="findings",
        )
        sr = SRWriterOperator(self, takes_seg=False, name="sr", **made_by)
        states = PresentationStateWriterOperator(self, name="presentation_states", **made_by)
        picture = BoxPictureWriterOperator(self, name="picture", **made_by)
        self.add_flow(model, found, {("tensors", "tensors")})
        for taker in (found, picture):
            self.add_flow(volume, taker, {("image", "image")})
        for writer in (sr, states, picture):
            self.add_flow(found, writer, {("findings", "findings")})
        self._store(select, sr, states, picture)

    def _report(self, select: Operator, model: Operator) -> None:
        findings = WholeFindingsOperator(
            self,
            output="classes" if self._bundle.output == "classes" else "values",
            names=[name for _, name in sorted(self._bundle.labels.items())],
            activation=self._bundle.activation,
            notes=self._intended_use(),
            record=self.record,
            name="findings",
        )
        sr = SRWriterOperator(self, takes_seg=False, name="sr", **self._made_by(()))
        self.add_flow(model, findings, {("tensors", "tensors")})
        self.add_flow(findings, sr, {("findings", "findings")})
        self._store(select, sr)

    def _store(self, select: Operator, *writers: Operator) -> None:
        sink = self.sink()
        for writer in writers:
            self.add_flow(select, writer, _SELECTED)
            self.add_flow(writer, sink, {("dicom_instances", "dicom_instances")})

    def _made_by(self, segments: Sequence[Segment]) -> dict[str, Any]:
        return {
            "segments": segments,
            "algorithm": self._manifest.algorithm,
            "created": self.task.created,
            "form": self.task.form,
            "record": self.record,
        }

    def _intended_use(self) -> tuple[str, ...]:
        said = self._bundle.intended_use
        return (f"Intended use, by the model's makers: {said}",) if said else ()

    def _model(self) -> TritonInferenceOperator:
        task, bundle = self.task, self._bundle
        segments = bundle.output in ("labels", "masks")
        others = ("boxes", "scores", "classes") if bundle.output == "boxes" else (bundle.output,)
        return TritonInferenceOperator(
            self,
            model_name=bundle.model,
            label_output=bundle.output if segments else None,
            masks=len(bundle.labels) if bundle.output == "masks" else 0,
            takes_channels=bool(bundle.sequences),
            further_outputs=("findings",) if segments else (*others, "findings"),
            client=task.inference,
            triton_url=task.triton_url,
            deadline_s=task.deadline_s,
            priority=task.priority,
            record=self.record,
            name="inference",
        )

    def _images(self) -> tuple[Operator, Operator]:
        """What selects the series, and what makes the volume of them."""
        record, accepts, sequences = self.record, self._manifest.accepts, self._bundle.sequences
        if sequences:
            return (
                SequenceSelectorOperator(self, rules=sequences, record=record, name="select"),
                AlignedVolumesOperator(self, accepts=accepts, record=record, name="volume"),
            )
        (modality,) = accepts.modalities
        select = SeriesSelectorOperator(self, rules=_selection(modality), record=record, name="select")
        volume = VolumeOperator(
            self,
            rescale_type="HU" if modality == "CT" else None,
            release_pixels=True,
            record=record,
            name="volume",
        )
        return select, volume


def _bundle(file: Path) -> _Bundle:
    try:
        return _Bundle.model_validate(yaml.safe_load(file.read_text())["bundle"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValidationError) as error:
        raise ConfigurationError(f"{file}: bundle: can not be used: {error}", path=str(file)) from error


def _selection(modality: str) -> str:
    conditions = {"Modality": f"^{modality}$", "SOPClassUID": _IMAGES[modality], "ImageType": "!LOCALIZER"}
    return json.dumps({"selections": [{"name": modality, "conditions": conditions}]})
