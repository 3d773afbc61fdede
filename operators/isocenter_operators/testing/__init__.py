"""What users need to test their own applications: phantoms, their exact truth, and their DICOM series."""

from __future__ import annotations

from isocenter_operators.testing.enhanced import as_enhanced
from isocenter_operators.testing.phantom import (
    Phantom,
    ThoraxPhantom,
    abdomen_phantom,
    head_phantom,
    thorax_phantom,
)
from isocenter_operators.testing.series import as_datasets, write_series
from isocenter_operators.testing.thorax import Organ
from isocenter_operators.testing.truth import LungTruth, ThoraxTruth

__all__ = [
    "LungTruth",
    "Organ",
    "Phantom",
    "ThoraxPhantom",
    "ThoraxTruth",
    "abdomen_phantom",
    "as_datasets",
    "as_enhanced",
    "head_phantom",
    "thorax_phantom",
    "write_series",
]
