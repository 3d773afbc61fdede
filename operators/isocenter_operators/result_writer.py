"""What the operators that write results have in common."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from monai.deploy.core import Fragment, Operator
from monai.deploy.core.domain.dicom_series_selection import StudySelectedSeries
from pydicom.dataset import Dataset

from isocenter_operators.dicom.findings import Segment
from isocenter_operators.dicom.geometry import slices_of
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.run import Record
from isocenter_operators.study import identity_of, selected_instances

__all__ = ["ResultWriter"]


class ResultWriter(Operator):
    """The base of the writers of SEG, SR and pictures: what is written about, by whom, when.

    Parameters
    ----------
    segments
        What each value of the label map stands for, in order from 1.
    algorithm
        Who made it; with the series' instances it gives the results' UIDs.
    created
        The date of the results; by default, when they are written.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        segments: Sequence[Segment],
        algorithm: Algorithm,
        created: datetime | None = None,
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._segments = tuple(segments)
        self._algorithm = algorithm
        self._created = created
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

    def _sources(self, selection: Sequence[StudySelectedSeries]) -> tuple[Dataset, ...]:
        """The images that the results are about, in the order of Z."""
        return tuple(slices_of(selected_instances(selection)))

    def _identity(self, sources: Sequence[Dataset]) -> JobIdentity:
        return identity_of(sources, self._algorithm, self._created)
