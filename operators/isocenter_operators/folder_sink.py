"""The sink that writes results to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, IOSpec, Operator, OperatorSpec

from isocenter_operators.dicom.deidentify import Pseudonyms, sources_with_identity, with_identity
from isocenter_operators.form import ResultForm
from isocenter_operators.result_gate import checked, stored_instance, write_instances
from isocenter_operators.run import Record

__all__ = ["FolderSinkOperator"]


class FolderSinkOperator(Operator):
    """Writes checked results as `<SOP Instance UID>.dcm`: all of them, or none.

    Named input: `dicom_instances`, from any number of writers: each a list of pydicom Datasets.

    Raises InvalidResult, StorageFull or ConfigurationError; then the folder is as it was.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        output_folder: Path = Path("output"),
        rejected: Path | None = None,
        form: ResultForm | None = None,
        pseudonyms: Pseudonyms | None = None,
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._output_folder = output_folder
        self._rejected = rejected
        self._form = form
        self._pseudonyms = pseudonyms
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("dicom_instances", size=IOSpec.ANY_SIZE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        batches = op_input.receive("dicom_instances")
        with self._record.step("check"):
            instances = checked(
                with_identity(batches, self._pseudonyms),
                self._rejected,
                self._form,
                sources_with_identity(self._record.sources, self._pseudonyms),
            )
        with self._record.step("store"):
            written = write_instances(instances, self._output_folder)
        self._record.results += [
            stored_instance(instance, path) for instance, path in zip(instances, written, strict=True)
        ]
