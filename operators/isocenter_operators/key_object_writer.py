"""The operator that names the key images and the whole set of results."""

from __future__ import annotations

from typing import Any

from monai.deploy.core import ConditionType, Fragment, IOSpec, OperatorSpec

from isocenter_operators.dicom.results.key_frames import key_frames
from isocenter_operators.dicom.results.key_objects import key_images, result_set
from isocenter_operators.result_writer import ResultWriter, array_of

__all__ = ["KeyObjectWriterOperator"]


class KeyObjectWriterOperator(ResultWriter):
    """Writes one Key Object Selection of the images to look at first, and one of all results of the job.

    Named inputs: `seg_image`: the label map as the SEG writer gets it; `findings`: Findings; `dicom_instances`, from
    any number of writers: the results; `study_selected_series_list`.
    Named output: `dicom_instances`: a list of one or two Key Object Selection Documents (PS3.16, TID 2010). The first
    is left out where nothing was found, and so there is no key image.

    Parameters
    ----------
    segments, algorithm, created, form
        See `ResultWriter`. The form is to be that of the sink: what that does not store is not selected.
    takes_labels
        False: there is no input `seg_image`, because the findings have regions instead.

    Raises InputError, GeometryError or InvalidResult.
    """

    _takes_labels = True

    def __init__(self, fragment: Fragment, *args: Any, takes_labels: bool = True, **kwargs: Any) -> None:
        self._takes_labels = takes_labels
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        if self._takes_labels:
            spec.input("seg_image")
        spec.input("findings")
        spec.input("dicom_instances", size=IOSpec.ANY_SIZE)
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        labels = array_of(op_input.receive("seg_image")) if self._takes_labels else None
        findings = op_input.receive("findings")
        batches = op_input.receive("dicom_instances")
        selection = op_input.receive("study_selected_series_list")
        with self._record.step("key objects"):
            frames = self._frames(selection)
            made_by: dict[str, Any] = {
                "algorithm": self._algorithm,
                "identity": self._identity(frames),
                "disclaimer": self._form.disclaimer,
            }
            selected = key_frames(
                frames=frames,
                findings=findings,
                labels=None if labels is None else self._found_on_frames(selection, labels),
                segments=self._segments,
            )
            documents = [key_images(selected=selected, **made_by)] if selected else []
            results = self._form.given(instance for batch in (*batches, documents) for instance in batch)
            documents.append(result_set(results=results, source=frames[0].instance, **made_by))
        op_output.emit(self._form.given(documents), "dicom_instances")
