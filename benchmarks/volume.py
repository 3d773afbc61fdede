"""Files to one volume: ours against the MONAI Deploy SDK's loader and volume operators."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from comparison import Comparison, side_by_side

from isocenter_operators.dicom.series.geometry import volume_of
from isocenter_operators.dicom.series.read import read_folder


def compare(chest: Path) -> Iterator[Comparison]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.deploy.core import Fragment
        from monai.deploy.core.domain.dicom_series_selection import SelectedSeries, StudySelectedSeries
        from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
        from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
    logging.disable(logging.WARNING)
    fragment = Fragment()
    loader = DICOMDataLoaderOperator(fragment, input_folder=chest, name="loader")
    converter = DICOMSeriesToVolumeOperator(fragment, name="converter")

    def sdk() -> np.ndarray[tuple[int, int, int], np.dtype[np.int16]]:
        (study,) = loader.load_data_to_studies(chest)
        selected = StudySelectedSeries(study)
        selected.add_selected_series(SelectedSeries("", study.get_all_series()[0]))
        voxels: np.ndarray[tuple[int, int, int], np.dtype[np.int16]] = converter.convert_to_image(
            [selected]
        ).asnumpy()
        return voxels

    def ours() -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
        return volume_of(read_folder(chest)).voxels

    if not np.array_equal(ours(), sdk()):
        raise SystemExit("our volume and the SDK's differ: the benchmark means nothing")
    yield side_by_side(
        "files to volume", ours, sdk, against="the SDK's loader and volume operators", rounds=3
    )
