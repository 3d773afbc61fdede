"""The operator that makes one volume of the selected series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series import DICOMSeries
from monai.deploy.core.domain.image import Image
from pydicom.dataset import Dataset

from isocenter_operators.dicom.geometry import Volume, volume_of
from isocenter_operators.dicom.value import converted, named, term
from isocenter_operators.errors import InputError, NotApplicable
from isocenter_operators.run import Record
from isocenter_operators.study import selected_instances

__all__ = ["VolumeOperator", "image_of", "lps_affine"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class VolumeOperator(Operator):
    """Makes one volume of the first selected series. Stands in for the SDK's `DICOMSeriesToVolumeOperator`.

    Named input: `study_selected_series_list`. Named output: `image`: an SDK Image, int16 (Z, Y, X), whose metadata
    holds `affine` (index (x, y, z) to millimetres) and `space` ("RAS" as the SDK's default, or "LPS"). As with the SDK,
    the series' instances are in the order of Z afterwards.

    Parameters
    ----------
    affine_lps_to_ras
        As in the SDK: the affine in RAS (the default) or in DICOM's own LPS.
    rescale_type
        What the values have to be (Rescale Type, PS3.3, C.11.1.1.2): "HU" for what measures Hounsfield units, which
        the material maps of a dual-energy CT are not. None: anything.
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
        release_pixels: bool = False,
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._ras = affine_lps_to_ras
        self._rescale_type = rescale_type
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
            volume = volume_of(instances)
            if self._release_pixels:
                for instance in volume.sources:
                    del instance.PixelData
            image = image_of(volume, ras=self._ras)
            selected = selection[0].selected_series[0]
            _put_in_order(selected.series, volume.sources)
            selected.image = image
        op_output.emit(image, "image")


def _refuse_other_values(instances: Sequence[Dataset], wanted: str) -> None:
    for instance in instances:
        # Of CT it only has to be said where it is not HU (PS3.3, C.8.2.1).
        usual = "HU" if instance.get("Modality") == "CT" else "US"
        found = str(converted(instance, "RescaleType", named(instance)) or usual)
        if found != wanted:
            raise NotApplicable(
                f"the values of series {instance.SeriesInstanceUID} are not in {wanted}: their Rescale Type is "
                f"{term(found)}",
                series_uid=str(instance.SeriesInstanceUID),
            )


def _put_in_order(series: DICOMSeries, sources: Sequence[Dataset]) -> None:
    """The SDK's writers pair the planes of a label map with the series' instances as they come."""
    places = {id(source): place for place, source in enumerate(sources)}
    series.get_sop_instances().sort(key=lambda instance: places[id(instance.get_native_sop_instance())])


def image_of(volume: Volume, *, ras: bool = True) -> Image:
    """The SDK's Image of a volume. `sources` in its metadata keeps the instances in the order of Z."""
    first = volume.sources[0]
    metadata: dict[str, Any] = {
        "affine": _LPS_TO_RAS @ volume.affine if ras else volume.affine,
        "space": "RAS" if ras else "LPS",
        "Modality": first.get("Modality"),
        "SeriesInstanceUID": str(first.SeriesInstanceUID),
        "StudyInstanceUID": str(first.StudyInstanceUID),
        "sources": volume.sources,
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
