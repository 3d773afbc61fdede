"""The operator that names the key images and the whole set of results."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.deploy.core import ConditionType, IOSpec, OperatorSpec
from monai.deploy.core.domain.image import Image

from isocenter_operators.dicom.key_frames import key_frames
from isocenter_operators.dicom.key_objects import key_images, result_set
from isocenter_operators.result_writer import ResultWriter

__all__ = ["KeyObjectWriterOperator"]


class KeyObjectWriterOperator(ResultWriter):
    """Writes one Key Object Selection of the images to look at first, and one of all results of the job.

    Named inputs: `seg_image` (optional): the label map, from the operator that also emits the findings; `findings`;
    `dicom_instances`, from any number of writers: the results; `study_selected_series_list`.
    Named output: `dicom_instances`: a list of one or two Key Object Selection Documents (PS3.16, TID 2010). The first
    is left out where nothing was found, and so there is no key image.

    Raises InputError, GeometryError or InvalidResult.
    """

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("seg_image").condition(
            ConditionType.NONE
        )  # there before any writer has made its result of it
        spec.input("findings")
        spec.input("dicom_instances", size=IOSpec.ANY_SIZE)
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        seg_image = op_input.receive("seg_image")
        findings = op_input.receive("findings")
        results = [instance for batch in op_input.receive("dicom_instances") for instance in batch]
        selection = op_input.receive("study_selected_series_list")
        with self._record.step("key objects"):
            frames = self._frames(selection)
            made_by: dict[str, Any] = {"algorithm": self._algorithm, "identity": self._identity(frames)}
            selected = key_frames(
                frames=frames,
                findings=findings,
                labels=None if seg_image is None else self._on_frames(selection, _array(seg_image)),
                segments=self._segments,
            )
            documents = [key_images(selected=selected, **made_by)] if selected else []
            documents.append(result_set(results=[*results, *documents], source=frames[0].instance, **made_by))
        op_output.emit(documents, "dicom_instances")


def _array(seg_image: Any) -> Any:
    """(Z, Y, X), of an SDK Image or an array."""
    return seg_image.asnumpy() if isinstance(seg_image, Image) else np.asarray(seg_image)
