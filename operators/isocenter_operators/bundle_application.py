"""The application of an imported MONAI bundle that segments: its graph is the same for all of them.

source -> select -> volume -> input gate -> the bundle on Triton -> volumes -> SEG, SR, pictures -> sink
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from isocenter_operators.application import Application
from isocenter_operators.dicom.catalogue import segments_of
from isocenter_operators.errors import ConfigurationError
from isocenter_operators.input_gate import InputGateOperator
from isocenter_operators.manifest import read_manifest
from isocenter_operators.picture_writer import PictureWriterOperator
from isocenter_operators.run import Run
from isocenter_operators.seg_writer import SegWriterOperator
from isocenter_operators.segment_volumes import SegmentVolumesOperator
from isocenter_operators.series_selector import SeriesSelectorOperator
from isocenter_operators.sr_writer import SRWriterOperator
from isocenter_operators.triton_inference import TritonInferenceOperator
from isocenter_operators.volume import VolumeOperator

__all__ = ["BundleApplication"]

# CT and MR Image Storage, also Enhanced: not what only calls itself CT or MR (PS3.4, B.5).
_IMAGES = {
    "CT": r"^1\.2\.840\.10008\.5\.1\.4\.1\.1\.2(\.1)?$",
    "MR": r"^1\.2\.840\.10008\.5\.1\.4\.1\.1\.4(\.1)?$",
}


class _Bundle(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    output: Literal["labels", "masks"]
    labels: dict[int, str]
    intended_use: str = ""


class BundleApplication(Application):
    """What `app.yaml` says under `bundle`: the model, what it gives, and what each of its labels is called.

    Raises ConfigurationError where that can not be used.
    """

    def __init__(self, folder: Path, task: Run | None = None) -> None:
        self._manifest = read_manifest(folder)
        self._bundle = _bundle(folder / "app.yaml")
        super().__init__(task or Run.from_environment(deadline_s=self._manifest.deadline_s))

    def compose(self) -> None:
        task, record, bundle = self.task, self.record, self._bundle
        segments, notes = segments_of(bundle.labels)
        if bundle.intended_use:
            notes = (*notes, f"Intended use, by the model's makers: {bundle.intended_use}")
        made_by: dict[str, Any] = {
            "segments": segments,
            "algorithm": self._manifest.algorithm,
            "created": task.created,
            "form": task.form,
            "record": record,
        }
        (modality,) = self._manifest.accepts.modalities
        source, sink = self.source(), self.sink()
        select = SeriesSelectorOperator(self, rules=_selection(modality), record=record, name="select")
        volume = VolumeOperator(
            self,
            rescale_type="HU" if modality == "CT" else None,
            release_pixels=True,
            record=record,
            name="volume",
        )
        gate = InputGateOperator(self, accepts=self._manifest.accepts, record=record, name="gate")
        model = TritonInferenceOperator(
            self,
            model_name=bundle.model,
            label_output=bundle.output,
            masks=len(segments) if bundle.output == "masks" else 0,
            further_outputs=("findings",),
            client=task.inference,
            triton_url=task.triton_url,
            deadline_s=task.deadline_s,
            priority=task.priority,
            record=record,
            name="inference",
        )
        volumes = SegmentVolumesOperator(self, segments=segments, notes=notes, record=record, name="volumes")
        seg = SegWriterOperator(self, empty="no result", name="seg", **made_by)
        sr = SRWriterOperator(self, name="sr", **made_by)
        picture = PictureWriterOperator(self, empty="no result", name="picture", **made_by)

        selected = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(source, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, volume, selected)
        self.add_flow(volume, gate, {("image", "image")})
        self.add_flow(gate, model, {("image", "image")})
        for taker in (volumes, picture):
            self.add_flow(volume, taker, {("image", "image")})
        for taker in (volumes, seg, picture):
            self.add_flow(model, taker, {("pred", "seg_image")})
        self.add_flow(model, volumes, {("tensors", "tensors")})
        for taker in (sr, picture):
            self.add_flow(volumes, taker, {("findings", "findings")})
        self.add_flow(seg, sr, {("dicom_instances", "dicom_seg")})
        for writer in (seg, sr, picture):
            self.add_flow(select, writer, selected)
            self.add_flow(writer, sink, {("dicom_instances", "dicom_instances")})


def _bundle(file: Path) -> _Bundle:
    try:
        return _Bundle.model_validate(yaml.safe_load(file.read_text())["bundle"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValidationError) as error:
        raise ConfigurationError(f"{file}: bundle: can not be used: {error}", path=str(file)) from error


def _selection(modality: str) -> str:
    conditions = {"Modality": f"^{modality}$", "SOPClassUID": _IMAGES[modality], "ImageType": "!LOCALIZER"}
    return json.dumps({"selections": [{"name": modality, "conditions": conditions}]})
