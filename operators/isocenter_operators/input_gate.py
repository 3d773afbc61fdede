"""The operator that lets through what an application accepts, and says why where it does not."""

from __future__ import annotations

from typing import Any

from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.image import Image

from isocenter_operators.dicom.gate.acceptance import Acceptance
from isocenter_operators.dicom.gate.examination import examined
from isocenter_operators.dicom.series.frame import frames_of
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.errors import InputError, NotApplicable
from isocenter_operators.run import Record
from isocenter_operators.volume import lps_affine

__all__ = ["InputGateOperator"]


class InputGateOperator(Operator):
    """Stands between the volume and the inference, and stops the graph where the volume is not what is accepted.

    Named input: `image`: an SDK Image (Z, Y, X) as the `VolumeOperator` makes it, with the frames that it was made of
    in its metadata. Named output: `image`: the same.

    Raises NotApplicable with every reason, InputError for an image that does not tell its frames. What a person should
    know although it is no reason, such as a wrong Body Part Examined, goes into the record's notes.

    Example: `InputGateOperator(self, accepts=read_manifest(folder).accepts, record=self.record, name="gate")`
    """

    def __init__(
        self, fragment: Fragment, *args: Any, accepts: Acceptance, record: Record | None = None, **kwargs: Any
    ) -> None:
        self._accepts = accepts
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        spec.output("image").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        image: Image = op_input.receive("image")
        with self._record.step("gate"):
            volume = _volume_of(image)
            examination = examined(volume, self._accepts)
        self._record.notes.extend(examination.notes)
        if examination.refusals:
            raise NotApplicable("; ".join(examination.refusals), series_uid=volume.frames[0].series_uid)
        op_output.emit(image, "image")


def _volume_of(image: Image) -> Volume:
    metadata = image.metadata() or {}
    frames = metadata.get("frames") or frames_of(metadata.get("sources") or ())
    if not frames:
        raise InputError(
            "the image's metadata does not tell the frames that it was made of, so what it is can not be checked: "
            "let isocenter_operators.volume.VolumeOperator make it"
        )
    return Volume(
        image.asnumpy(),
        lps_affine(image),
        tuple(frames),
        tuple(metadata.get("places") or ()),
        missing_slices=int(metadata.get("missing_slices") or 0),
    )
