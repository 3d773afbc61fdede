"""The page: what is on it, that others read it, whose it is, and that it is always the same."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from read_back import found_by_dciodvfy, lacking
from result_cases import ALGORITHM, LEFT, RIGHT, SEGMENTS, findings_of, identity_of, phantom_case, written

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Code, Evaluation, Findings, Measurement, MeasurementGroup
from isocenter_operators.dicom.results.pdf_report import pdf_report, section_pictures
from isocenter_operators.dicom.rules.validate import problems
from isocenter_operators.dicom.series.geometry import Volume

PATIENT = {
    "PatientName": "Mustermann^Erika^^Dr.",
    "PatientID": "12-AB-34",
    "PatientBirthDate": "19640812",
    "PatientSex": "F",
    "StudyDate": "20261120",
    "AccessionNumber": "ACC-0815",
}
SHOWN = ("Mustermann, Dr. Erika", "12-AB-34", "1964-08-12, female", "2026-11-20", "ACC-0815")


@pytest.fixture(scope="module")
def case() -> tuple[Volume, NDArray[np.uint8]]:
    volume, labels = phantom_case()
    for source in volume.sources:
        source.update(of_patient())
    return volume, labels


@pytest.fixture(scope="module")
def findings(case: tuple[Volume, NDArray[np.uint8]]) -> Findings:
    found = findings_of(*case, note="cut off at the lower end of the scan")
    return replace(found, notes=("slices of 12 mm",))


@pytest.fixture(scope="module")
def made(case: tuple[Volume, NDArray[np.uint8]], findings: Findings) -> Callable[..., Dataset]:
    volume, labels = case
    pictures = section_pictures(volume=volume, labels=labels, segments=SEGMENTS)

    def make(**others: Any) -> Dataset:
        given = {
            "findings": findings,
            "frames": volume.frames,
            "segments": SEGMENTS,
            "pictures": pictures,
            **others,
        }
        return pdf_report(algorithm=ALGORITHM, identity=identity_of(volume), **given)

    return make


@pytest.fixture(scope="module")
def document(made: Callable[..., Dataset]) -> Dataset:
    return made()


def of_patient(**others: str) -> Dataset:
    patient = Dataset()
    for keyword, value in {**PATIENT, **others}.items():
        setattr(patient, keyword, value)
    return patient


def sheets(document: Dataset) -> list[str]:
    """The text of each sheet as PDFium reads it, blanks as one."""
    pdf = pypdfium2.PdfDocument(document.EncapsulatedDocument)
    return [" ".join(page.get_textpage().get_text_bounded().split()) for page in pdf]


def rendered(document: Dataset) -> NDArray[np.uint8]:
    """The first sheet as PDFium shows it: (rows, columns, 3), two pixels to the point."""
    page = pypdfium2.PdfDocument(document.EncapsulatedDocument)[0]
    return np.asarray(page.render(scale=2).to_pil().convert("RGB"))


def test_others_find_every_number_and_word_on_it(document: Dataset, findings: Findings) -> None:
    (text,) = sheets(document)
    for group in findings.groups:
        numbers = [f"{m.value:.{m.decimals}f}".replace("-", "\N{MINUS SIGN}") for m in group.measurements]
        assert f"{group.label} {' '.join(numbers)}" in text
    for words in (
        "CT REPORT",
        "Volume mL",
        "(mean) HU",
        "Right lung: cut off at the lower end of the scan",
        "Slices of 12 mm",
        "ct_lung_density 1.2.0",
        "lungs 3",
        "2026-11-22 10:30",
        "Research use only, not for clinical diagnosis",
        "Page 1 of 1",
        "24 images",
        *SHOWN,
    ):
        assert words in text


def test_the_document_is_sound_and_gives_the_page_back(
    document: Dataset, case: tuple[Volume, NDArray[np.uint8]], tmp_path: Path
) -> None:
    path = written(document, tmp_path, "pdf")
    assert [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"] == []
    assert problems(path) == []
    read = dcmread(path)
    assert (read.Modality, read.MIMETypeOfEncapsulatedDocument) == ("DOC", "application/pdf")
    assert (read.BurnedInAnnotation, read.DocumentTitle) == ("YES", "ct_lung_density report")
    assert [item.ReferencedSOPInstanceUID for item in read.SourceInstanceSequence] == [
        source.SOPInstanceUID for source in case[0].sources
    ]
    if shutil.which("dcm2pdf") is None:
        lacking("dcm2pdf is not installed (Debian package dcmtk)")
    subprocess.run(["dcm2pdf", path, tmp_path / "page.pdf"], check=True, capture_output=True)
    assert (tmp_path / "page.pdf").read_bytes() == document.EncapsulatedDocument
    assert len(document.EncapsulatedDocument) == document.EncapsulatedDocumentLength
    for metadata in (b"ct_lung_density report</rdf:li>", b'pdfaid:part="2"', b"/DisplayDocTitle true"):
        assert metadata in document.EncapsulatedDocument


def test_it_is_the_same_whenever_it_is_made(document: Dataset, made: Callable[..., Dataset]) -> None:
    time.sleep(1.1)  # a time of day on the page would be another one
    assert made().EncapsulatedDocument == document.EncapsulatedDocument


def test_the_pictures_are_the_right_way_round(document: Dataset) -> None:
    shown = rendered(document).astype(int)
    pictures = shown[: shown.shape[0] * 55 // 100]
    middle = pictures.shape[1] // 2
    for half in (pictures[:, :middle], pictures[:, middle:]):
        right, left = (np.abs(half - s.display_rgb).sum(axis=2) < 60 for s in (RIGHT, LEFT))
        assert min(right.sum(), left.sum()) > 50, "both lungs are outlined in both pictures"
        assert right.nonzero()[1].mean() < left.nonzero()[1].mean()


@pytest.mark.parametrize("removed", [False, True])
def test_identity_is_left_off_the_page_where_that_is_wanted_or_it_is_no_identity(
    made: Callable[..., Dataset], case: tuple[Volume, NDArray[np.uint8]], removed: bool
) -> None:
    pseudonymous = Dataset()
    pseudonymous.update(case[0].sources[0])
    pseudonymous.PatientIdentityRemoved, pseudonymous.DeidentificationMethod = "YES", "as told"
    frames = [replace(case[0].frames[0], instance=pseudonymous)] if removed else case[0].frames
    document = made(identity_on_page=removed, pictures=(), frames=frames)
    assert document.BurnedInAnnotation == "NO"
    (text,) = sheets(document)
    for secret in ("Mustermann", *SHOWN[1:]):
        assert secret not in text
        assert secret.encode() not in document.EncapsulatedDocument
    assert ("identity removed from the images" in text) is removed
    assert document.PatientName == PATIENT["PatientName"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Люксембург^Роза", ("Люксембург, Роза",)),
        ("שרון^דבורה", ("שרון", "דבורה")),
        (
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
            ("Yamada, Tarou (name in a script that this page can not show)",),
        ),
        ("王^小東", ("Patient (name in a script that this page can not show)",)),
        ("", ("Patient not given",)),
    ],
)
def test_a_name_is_right_or_visibly_left_out(
    case: tuple[Volume, NDArray[np.uint8]], name: str, shown: tuple[str, ...]
) -> None:
    volume, _ = case
    first = Dataset()
    first.update(volume.sources[0])
    first.update(of_patient(PatientName=name, SpecificCharacterSet="ISO_IR 192"))
    frames = [replace(volume.frames[0], instance=first)]
    document = pdf_report(
        findings=Findings(()), frames=frames, algorithm=ALGORITHM, identity=identity_of(volume)
    )
    (text,) = sheets(document)
    for words in shown:
        assert words in text or words[::-1] in text  # PDFium gives some letters as they stand, from the left
    assert "does not mean that the images are normal" in text


def test_a_site_adds_a_font_for_its_script(made: Callable[..., Dataset], tmp_path: Path) -> None:
    sign = "\N{RADIOACTIVE SIGN}"  # which FiraGO lacks
    findings = Findings((), notes=(f"marked {sign}",))
    assert "Marked (letters that this page can not show)" in sheets(made(findings=findings, pictures=()))[0]
    font = tmp_path / "symbols.ttf"
    font.write_bytes(import_module("pymupdf_fonts.NotoSansSymbols2_Regular").fontbuffer)
    assert f"Marked {sign}" in sheets(made(findings=findings, pictures=(), fonts=[font]))[0]


def test_many_regions_go_on_over_sheets_each_with_heading_identity_and_disclaimer(
    made: Callable[..., Dataset],
) -> None:
    volume = Measurement("volume_mL", codes.VOLUME, 12.5, codes.MILLILITER)
    groups = tuple(MeasurementGroup(f"Vertebra {i}", codes.LUNG, measurements=(volume,)) for i in range(60))
    text = sheets(made(findings=Findings(groups)))
    assert len(text) > 1
    assert [sum(f"Vertebra {i} 12.5" in sheet for sheet in text) for i in range(60)] == [1] * 60
    for number, sheet in enumerate(text, 1):
        assert f"Page {number} of {len(text)}" in sheet
        assert "Research use only" in sheet
        assert "Mustermann, Dr. Erika" in sheet
        assert "Volume mL" in sheet or "Vertebra" not in sheet


def test_answers_and_more_numbers_than_fit_beside_each_other_are_rows(made: Callable[..., Dataset]) -> None:
    numbers = tuple(
        Measurement(f"m{i}", Code(f"{i}", "99X", f"Quantity {i}"), -1.25 * i, codes.PERCENT, decimals=2)
        for i in range(1, 9)
    )
    answer = Evaluation(
        "pneumothorax", Code("36118008", "SCT", "Pneumothorax"), Code("2667000", "SCT", "Absent")
    )
    gone = replace(numbers[0], name="gone", concept=Code("gone", "99X", "Gone"), value=float("nan"))
    group = MeasurementGroup("Chest", codes.LUNG, measurements=(*numbers, gone), evaluations=(answer,))
    (text,) = sheets(made(findings=Findings((group,)), pictures=(), paper="Letter"))
    for i in range(1, 9):
        assert f"Quantity {i} \N{MINUS SIGN}{1.25 * i:.2f} %" in text
    assert "Gone no value" in text
    assert "Chest Pneumothorax Absent" in text
