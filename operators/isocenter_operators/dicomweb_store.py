"""The sink that stores results in a DICOMweb archive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, IOSpec, Operator, OperatorSpec

from isocenter_operators.archive import store
from isocenter_operators.dicom.deidentify import Pseudonyms, sources_with_identity, with_identity
from isocenter_operators.form import ResultForm
from isocenter_operators.result_gate import checked
from isocenter_operators.run import Archive, Record, StoredInstance

__all__ = ["DICOMwebStoreOperator"]


class DICOMwebStoreOperator(Operator):
    """Stores checked results by STOW-RS, all in one request. Storing them again changes nothing.

    Named input: `dicom_instances`, from any number of writers: each a list of pydicom Datasets.

    Raises InvalidResult, Cancelled, ArchiveUnavailable, DeadlineExceeded or StorageFull.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        archive: Archive,
        rejected: Path | None = None,
        form: ResultForm | None = None,
        before_store: Callable[[Sequence[StoredInstance]], None] | None = None,
        after_store: Callable[[Sequence[StoredInstance]], None] | None = None,
        pseudonyms: Pseudonyms | None = None,
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._archive = archive
        self._rejected = rejected
        self._form = form
        self._before_store = before_store
        self._after_store = after_store
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
        store(
            instances,
            self._archive,
            self._record,
            before_store=self._before_store,
            after_store=self._after_store,
        )
