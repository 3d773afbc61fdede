"""The operator that writes the findings as a page to read or print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from monai.deploy.core import ConditionType, Fragment, OperatorSpec
from monai.deploy.core.domain.image import Image

from isocenter_operators.dicom.geometry import Volume
from isocenter_operators.dicom.pdf_report import pdf_report, section_pictures
from isocenter_operators.result_writer import ResultWriter
from isocenter_operators.volume import lps_affine

__all__ = ["PDFWriterOperator"]


class PDFWriterOperator(ResultWriter):
    """Writes pictures, a table of all measurements, notes and what made them as an Encapsulated PDF.

    Named inputs: `findings`: Findings; `image` and `seg_image` (optional, for the pictures): the volume, and its label
    map from the operator that also emits the findings; `study_selected_series_list`.
    Named output: `dicom_instances`: a list with one Encapsulated PDF.

    Parameters
    ----------
    segments, algorithm, created
        See `ResultWriter`.
    title
        What stands above the page; by default the application's name.
    identity_on_page
        Whether the page itself shows whom it is about, as a printed one has to.
    paper
        "A4" or "Letter".
    fonts
        TrueType or OpenType files for scripts that FiraGO lacks, as Japanese, Korean and Chinese.

    Raises InputError or InvalidResult.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        title: str | None = None,
        identity_on_page: bool = True,
        paper: Literal["A4", "Letter"] = "A4",
        fonts: Sequence[Path] = (),
        **kwargs: Any,
    ) -> None:
        self._title = title
        self._identity_on_page = identity_on_page
        self._paper = paper
        self._fonts = tuple(fonts)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("findings")
        spec.input("image").condition(ConditionType.NONE)
        spec.input("seg_image").condition(ConditionType.NONE)
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        findings = op_input.receive("findings")
        image, seg_image = op_input.receive("image"), op_input.receive("seg_image")
        selection = op_input.receive("study_selected_series_list")
        with self._record.step("PDF"):
            frames = self._frames(selection)
            pictures = []
            if image is not None and seg_image is not None:
                pictures = section_pictures(
                    volume=Volume(image.asnumpy(), lps_affine(image), frames),
                    labels=seg_image.asnumpy() if isinstance(seg_image, Image) else np.asarray(seg_image),
                    segments=self._segments,
                )
            document = pdf_report(
                findings=findings,
                frames=frames,
                segments=self._segments,
                pictures=pictures,
                algorithm=self._algorithm,
                identity=self._identity(frames),
                title=self._title,
                identity_on_page=self._identity_on_page,
                paper=self._paper,
                fonts=self._fonts,
            )
        op_output.emit([document], "dicom_instances")
