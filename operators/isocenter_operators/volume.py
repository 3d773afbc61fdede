"""The operator that makes one volume of the selected series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series import DICOMSeries
from monai.deploy.core.domain.image import Image
from pydicom.dataset import Dataset

from isocenter_operators.dicom.series.frame import frames_of
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.dicom.series.part10 import release_pixels
from isocenter_operators.dicom.series.separation import STRICT, StackPolicy
from isocenter_operators.dicom.value import term
from isocenter_operators.errors import InputError, NotApplicable
from isocenter_operators.run import Record
from isocenter_operators.study import selected_instances

__all__ = ["VolumeOperator", "image_of", "lps_affine"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class VolumeOperator(Operator):
    """Makes one volume of the first selected series. Stands in for the SDK's `DICOMSeriesToVolumeOperator`.

    Named input: `study_selected_series_list`. Named output: `image`: an SDK Image, int16 (Z, Y, X), whose metadata
    holds `affine` (index (x, y, z) to millimetres) and `space` ("RAS" as the SDK's default, or "LPS"). As with the SDK,
    the series' instances are in the order of Z afterwards, without those that the
    policy left out.

    Parameters
    ----------
    affine_lps_to_ras
        As in the SDK: the affine in RAS (the default) or in DICOM's own LPS.
    rescale_type
        What the values have to be (Rescale Type, PS3.3, C.11.1.1.2): "HU" for what measures Hounsfield units, which
        the material maps of a dual-energy CT are not. None: anything.
    policy
        What may be done about a series that is not one regular stack; see `StackPolicy`. Each thing that is done is
        noted in the record.
    dtype
        int16, or float32 for values that are no whole numbers.
    release_pixels
        Drop the pixel data of the source instances once the volume is made. Halves the memory; for graphs in which
        nothing downstream reads the slices' pixels again.

    Raises GeometryError, UnreadableInput, InputError, or NotApplicable for another Rescale Type.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        affine_lps_to_ras: bool = True,
        rescale_type: str | None = None,
        policy: StackPolicy = STRICT,
        dtype: type[np.int16] | type[np.float32] = np.int16,
        release_pixels: bool = False,
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._ras = affine_lps_to_ras
        self._rescale_type = rescale_type
        self._policy = policy
        self._dtype = dtype
        self._release_pixels = release_pixels
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("study_selected_series_list")
        spec.output("image").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        selection = op_input.receive("study_selected_series_list")
        with self._record.step("volume"):
            instances = selected_instances(selection)
            if self._rescale_type is not None:
                _refuse_other_values(instances, self._rescale_type)
            volume = volume_of(instances, policy=self._policy, dtype=self._dtype)
            self._record.notes.extend(volume.notes)
            if self._release_pixels:
                for instance in volume.sources:
                    release_pixels(instance)
            image = image_of(volume, ras=self._ras)
            selected = selection[0].selected_series[0]
            _put_in_order(selected.series, volume.sources)
            selected.image = image
        op_output.emit(image, "image")


def _refuse_other_values(instances: Sequence[Dataset], wanted: str) -> None:
    for frame in frames_of(instances):
        # Of CT it only has to be said where it is not HU (PS3.3, C.8.2.1).
        usual = "HU" if frame.get("Modality") == "CT" else "US"
        found = str(frame.get("RescaleType") or usual)
        if found != wanted:
            raise NotApplicable(
                f"the values of series {frame.series_uid} are not in {wanted}: their Rescale Type is {term(found)}",
                series_uid=frame.series_uid,
            )


def _put_in_order(series: DICOMSeries, sources: Sequence[Dataset]) -> None:
    """The SDK's writers pair the planes of a label map with the series' instances as they come."""
    places = {id(source): place for place, source in enumerate(sources)}
    instances = series.get_sop_instances()
    instances[:] = [each for each in instances if id(each.get_native_sop_instance()) in places]
    instances.sort(key=lambda instance: places[id(instance.get_native_sop_instance())])


def image_of(volume: Volume, *, ras: bool = True) -> Image:
    """The SDK's Image of a volume. Its metadata keeps the volume's `frames`, `places` and `sources`."""
    first = volume.frames[0].instance
    metadata: dict[str, Any] = {
        "affine": _LPS_TO_RAS @ volume.affine if ras else volume.affine,
        "space": "RAS" if ras else "LPS",
        "Modality": first.get("Modality"),
        "SeriesInstanceUID": str(first.SeriesInstanceUID),
        "StudyInstanceUID": str(first.StudyInstanceUID),
        "sources": volume.sources,
        "frames": volume.frames,
        "places": volume.places,
        "notes": volume.notes,
        "missing_slices": volume.missing_slices,
    }
    return Image(volume.voxels, metadata)


def lps_affine(image: Image) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The image's affine, float64 (4, 4), index (x, y, z, 1) to LPS mm, whichever operator made the image.

    Raises InputError where the image carries none.
    """
    metadata = image.metadata() or {}
    affine = metadata.get("affine")
    if affine is None:
        raise InputError("the image has no affine in its metadata: without it left and right are unknown")
    lps = np.asarray(affine, np.float64)
    return _LPS_TO_RAS @ lps if str(metadata.get("space", "RAS")).upper().endswith("RAS") else lps
