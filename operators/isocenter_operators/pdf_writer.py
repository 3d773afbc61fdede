"""The operator that writes the findings as a page to read or print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from monai.deploy.core import ConditionType, Fragment, OperatorSpec
from monai.deploy.core.domain.image import Image

from isocenter_operators.dicom.results.page import Picture
from isocenter_operators.dicom.results.pdf_report import pdf_report, section_pictures
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.result_writer import ResultWriter, array_of
from isocenter_operators.volume import lps_affine

__all__ = ["PDFWriterOperator"]


class PDFWriterOperator(ResultWriter):
    """Writes pictures, a table of all measurements, notes and what made them as an Encapsulated PDF.

    Named inputs: `image` and `seg_image`: the volume and its label map; `findings`: Findings;
    `study_selected_series_list`.
    Named output: `dicom_instances`: a list with one Encapsulated PDF.

    Parameters
    ----------
    segments, algorithm, created, form
        See `ResultWriter`.
    takes_labels
        False: there are no inputs `image` and `seg_image`, and no pictures on the page.
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

    _takes_labels = True

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        takes_labels: bool = True,
        title: str | None = None,
        identity_on_page: bool = True,
        paper: Literal["A4", "Letter"] = "A4",
        fonts: Sequence[Path] = (),
        **kwargs: Any,
    ) -> None:
        self._takes_labels = takes_labels
        self._title = title
        self._identity_on_page = identity_on_page
        self._paper = paper
        self._fonts = tuple(fonts)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        if self._takes_labels:
            spec.input("image")
            spec.input("seg_image")
        spec.input("findings")
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        image, seg_image = (
            op_input.receive(name) if self._takes_labels else None for name in ("image", "seg_image")
        )
        findings = op_input.receive("findings")
        selection = op_input.receive("study_selected_series_list")
        with self._record.step("PDF"):
            frames = self._frames(selection)
            pictures = self._pictures(image, seg_image, frames) if self._takes_labels else []
            document = pdf_report(
                findings=self._noted(selection, findings),
                frames=frames,
                segments=self._segments,
                pictures=pictures,
                algorithm=self._algorithm,
                identity=self._identity(frames),
                title=self._title,
                identity_on_page=self._identity_on_page,
                paper=self._paper,
                fonts=self._fonts,
                disclaimer=self._form.disclaimer,
            )
        op_output.emit(self._form.given([document]), "dicom_instances")

    def _pictures(self, image: Image, seg_image: Any, frames: tuple[Frame, ...]) -> list[Picture]:
        return section_pictures(
            volume=Volume(image.asnumpy(), lps_affine(image), frames),
            labels=array_of(seg_image),
            segments=self._segments,
        )
