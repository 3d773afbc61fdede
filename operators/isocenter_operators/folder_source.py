"""The source that reads a folder of DICOM files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec

from isocenter_operators.dicom.deidentify import Pseudonyms, without_identity
from isocenter_operators.dicom.series.read import read_folder
from isocenter_operators.run import Record
from isocenter_operators.study import studies_of

__all__ = ["FolderSourceOperator"]


class FolderSourceOperator(Operator):
    """Reads every DICOM instance below a folder. Stands in for the SDK's `DICOMDataLoaderOperator`.

    Named input: `input_folder`, optional: a path that replaces the one given here.
    Named output: `dicom_study_list`: list of DICOMStudy.

    Unlike the SDK's it keeps every instance (the volume operator names duplicates, nothing is dropped silently) and
    refuses truncated files. Raises UnreadableInput.

    Example: `FolderSourceOperator(self, CountCondition(self, 1), input_folder=Path("ct-chest"))`
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        input_folder: Path = Path("input"),
        pseudonyms: Pseudonyms | None = None,
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._input_folder = input_folder
        self._pseudonyms = pseudonyms
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("input_folder").condition(ConditionType.NONE)
        spec.output("dicom_study_list")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        given = op_input.receive("input_folder")
        with self._record.step("fetch"):
            passed_over: list[Path] = []
            instances = read_folder(Path(given) if given else self._input_folder, passed_over)
            studies = studies_of(without_identity(instances, self._pseudonyms))
        if passed_over:
            # One of them may be an image whose first bytes are damaged.
            self._record.notes.append(f"files that are no DICOM images were passed over: {len(passed_over)}")
        op_output.emit(studies, "dicom_study_list")
