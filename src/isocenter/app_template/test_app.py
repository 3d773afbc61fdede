"""The application on a phantom whose dense voxels can be counted: the numbers, and the results as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from app import AT_LEAST_HU, application, measured
from pydicom import dcmread

from isocenter_operators.errors import NotApplicable
from isocenter_operators.run import Folder, Run
from isocenter_operators.testing import thorax_phantom, write_series


def test_the_dense_voxels_of_a_phantom_are_measured_and_drawn(tmp_path: Path) -> None:
    phantom = thorax_phantom(size=(80, 70, 40), spacing_mm=(4.0, 4.0, 6.0))
    phantom.hu[10:14, 20:30, 20:30] = 700
    write_series(phantom, tmp_path / "in")
    outcome = application(Run(source=Folder(tmp_path / "in"), sink=Folder(tmp_path / "out"))).execute()

    dense = phantom.hu >= AT_LEAST_HU
    assert outcome.status == "done"
    assert outcome.groups[0]["volume_mL"] == pytest.approx(np.count_nonzero(dense) * 4 * 4 * 6 / 1000)
    assert outcome.groups[0]["mean_density_HU"] == pytest.approx(phantom.hu[dense].mean())
    written = {result.modality: dcmread(result.path) for result in outcome.results}
    assert set(written) == {"SEG", "SR"}
    assert written["SEG"].pixel_array.astype(bool).sum() == np.count_nonzero(dense)


def test_nothing_dense_is_said_and_not_reported() -> None:
    with pytest.raises(NotApplicable, match="no voxel"):
        measured(np.full((3, 4, 5), 40, np.int16), 1.0)
