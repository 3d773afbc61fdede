"""The source that reads earlier studies of the same patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_study import DICOMStudy

from isocenter_operators.archive import retrieve
from isocenter_operators.dicom.deidentify import Pseudonyms, without_identity
from isocenter_operators.dicom.series.read import read_folder
from isocenter_operators.errors import InputError
from isocenter_operators.run import Archive, Folder, Record
from isocenter_operators.study import studies_of

__all__ = ["PriorSourceOperator"]

_FUNCTIONAL_GROUPS = 0x52009229  # from here on an image tells of its frames and their pixels, at length


class PriorSourceOperator(Operator):
    """Reads every prior of the run, from folders and archives alike.

    Named output: `prior_study_list`: list of DICOMStudy, newest first; empty where the run has no priors, so that an
    application must do without.

    The record keeps the headers, for a report that names what was compared with. A prior that can not be read is left
    out, and the record says so. Raises ArchiveUnavailable or DeadlineExceeded:
    an archive that is away may be there at the next try.

    Example: `self.prior_source()` in an `Application`, whose flow ends in a receiver's `prior_study_list`.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        priors: Sequence[Folder | Archive] = (),
        pseudonyms: Pseudonyms | None = None,
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._priors = tuple(priors)
        self._pseudonyms = pseudonyms
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("prior_study_list")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        with self._record.step("priors"):
            studies = [study for number in range(len(self._priors)) for study in self._read(number)]
        op_output.emit(studies, "prior_study_list")

    def _read(self, number: int) -> list[DICOMStudy]:
        prior = self._priors[number]
        try:
            read = retrieve(prior) if isinstance(prior, Archive) else read_folder(prior.path)
            instances = without_identity(read, self._pseudonyms)
        except InputError as error:
            why = f": {error}" if self._pseudonyms is None else ""  # which names the study
            self._record.notes.append(f"prior {number + 1} of {len(self._priors)} was left out{why}")
            return []
        self._record.priors += [instance[:_FUNCTIONAL_GROUPS] for instance in instances]
        return studies_of(instances)
