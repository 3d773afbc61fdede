"""The findings as a page to read or print: an Encapsulated PDF (PS3.3, A.45.1) with pictures and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from highdicom import SOPClass
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from isocenter_operators.dicom.findings import Findings, MeasurementGroup, Segment
from isocenter_operators.dicom.header import DISCLAIMER, coded, has_sound, stamp
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.drawing import section_drawn
from isocenter_operators.dicom.results.page import Column, Page, Picture, Row, Table, page_pdf
from isocenter_operators.dicom.results.plane import View, largest_sections
from isocenter_operators.dicom.results.text_report import report_title
from isocenter_operators.dicom.results.wording import (
    conclusion,
    described_images,
    group_heading,
    made_by,
    number,
    subject,
    unit,
)
from isocenter_operators.dicom.series.frame import Frame, instances_of
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.errors import GeometryError, InvalidResult

__all__ = ["pdf_report", "section_pictures"]

_ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
_VIEWS: tuple[View, View] = ("coronal", "axial")
_PICTURE_SIZE = 640  # pixels: some 190 to the inch as they are printed, with markers that can be read
_STRIP = 6  # times as long as wide
_MOST_COLUMNS = 5
_NOT_GIVEN = "not given"
_SEXES = {"F": "female", "M": "male", "O": "other"}


def pdf_report(
    *,
    findings: Findings,
    frames: Sequence[Frame],
    segments: Sequence[Segment] = (),
    pictures: Sequence[Picture] = (),
    algorithm: Algorithm,
    identity: JobIdentity,
    title: str | None = None,
    identity_on_page: bool = True,
    paper: Literal["A4", "Letter"] = "A4",
    fonts: Sequence[Path] = (),
    series_number: int = 9005,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
) -> SOPClass:
    """One document of one or more sheets: who and what it is about, pictures, all measurements, notes, what made it.

    `pictures`: as `section_pictures` draws them; their colours are the segments'.
    `identity_on_page`: whether the patient's name and numbers are on the page too, as paper needs them; Burned In
    Annotation says so. The document's header has them anyway. Of images whose identity was removed they never are: what
    stands there is no name, and on the page it could not be put right.
    `fonts`: TrueType or OpenType files for scripts that FiraGO lacks, as Japanese, Korean and Chinese. Without one a
    name in such a script is replaced by words that say so.

    Raises InvalidResult where there are no frames.
    """
    if not frames:
        raise InvalidResult("a report has to be about images")
    header = frames[0].instance
    identity_on_page = identity_on_page and header.get("PatientIdentityRemoved") != "YES"
    title = title or f"{algorithm.name} report"
    description = (series_description or f"{algorithm.name} report as a page")[:64]
    document = SOPClass(
        study_instance_uid=str(header.StudyInstanceUID),
        series_instance_uid=identity.uid("pdf.series"),
        series_number=series_number,
        sop_instance_uid=identity.uid("pdf"),
        sop_class_uid=_ENCAPSULATED_PDF,
        instance_number=1,
        modality="DOC",
        manufacturer=algorithm.manufacturer,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=description,
    )
    stamp(
        document,
        source=header,
        algorithm=algorithm,
        identity=identity,
        disclaimer=disclaimer,
        texts=[description, title],
    )
    _describe(document, frames, title, identity_on_page)
    page = Page(
        kind=report_title(frames).meaning,
        title=title,
        identity=tuple(_identity(document, frames, identity_on_page)),
        running=_running(document) if identity_on_page else (),
        summary=conclusion(findings, algorithm),
        pictures=tuple(pictures),
        tables=tuple(_tables(findings, segments)),
        notes=tuple(_notes(findings)),
        about=(made_by(algorithm), f"Images: {described_images(frames)}."),
        disclaimer=disclaimer,
        made_by=f"{algorithm.name} {algorithm.version}  ·  {_shown_time(document)}",
        created=identity.created,
        identifier=str(document.SOPInstanceUID),
        paper=paper,
        fonts=tuple(fonts),
    )
    _encapsulate(document, page_pdf(page))
    return document


def section_pictures(
    *, volume: Volume, labels: NDArray[np.uint8], segments: Sequence[Segment]
) -> list[Picture]:
    """A coronal and an axial section through what is labelled, with the segments' outlines; none where nothing is, and
    none that would be a mere strip, as of a few slices.

    `labels`: uint8 (Z, Y, X), on the volume's grid. Raises GeometryError where it is not.
    """
    if labels.shape != volume.voxels.shape:
        uid = volume.frames[0].series_uid
        raise GeometryError(
            f"series {uid}: the label map is {labels.shape}, the volume {volume.voxels.shape} (Z, Y, X)",
            series_uid=uid,
        )
    if not labels.any():
        return []
    named = ", ".join(segment.label for segment in segments)
    pictures = []
    for section in largest_sections(labels, volume.affine, _VIEWS):
        if max(section.size_mm) > _STRIP * min(section.size_mm):
            continue
        pixels = section_drawn(
            section=section,
            volume=volume,
            labels=labels,
            segments=segments,
            pixels_per_mm=_PICTURE_SIZE / max(section.size_mm),
        )
        caption = f"{section.view.capitalize()}, largest segmented area"
        pictures.append(Picture(pixels, caption, f"{section.view} section with the outlines of {named}"))
    return pictures


def _describe(document: Dataset, frames: Sequence[Frame], title: str, identity_on_page: bool) -> None:
    """SC Equipment (PS3.3, C.8.6.1), Encapsulated Document (C.24.2)."""
    del document.ContentQualification  # of images and of reports on them; this IOD has none
    document.ConversionType = "WSD"
    document.AcquisitionDateTime = None
    document.BurnedInAnnotation = "YES" if identity_on_page else "NO"
    document.RecognizableVisualFeatures = "NO"
    document.SourceInstanceSequence = [_reference(source) for source in instances_of(frames)]
    document.DocumentTitle = title
    document.ConceptNameCodeSequence = [coded(report_title(frames))]  # CID 7020 includes CID 7000
    document.VerificationFlag = "UNVERIFIED"
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"


def _encapsulate(document: Dataset, pdf: bytes) -> None:
    # Of an odd number of bytes one more would be written (PS3.5, 8.2), which not every reader takes off again.
    pdf += b"\n" * (len(pdf) % 2)
    document.EncapsulatedDocument = pdf
    document.EncapsulatedDocumentLength = len(pdf)


def _identity(
    document: Dataset, frames: Sequence[Frame], shown: bool
) -> Iterator[tuple[str, tuple[str, ...]]]:
    if shown:
        birth = _date(document, "PatientBirthDate")
        sex = _SEXES.get(str(document.get("PatientSex") or ""), "")
        yield "Patient", _names(document)
        yield "Patient ID", (_value(document, "PatientID"),)
        yield "Date of birth", (f"{birth}, {sex}" if sex else birth,)
        yield "Date of study", (_date(document, "StudyDate"),)
        yield "Accession number", (_value(document, "AccessionNumber"),)
    elif frames[0].instance.get("PatientIdentityRemoved") == "YES":
        yield "Patient", ("identity removed from the images",)
    yield "Images", (described_images(frames),)


def _running(document: Dataset) -> tuple[tuple[str, ...], ...]:
    born = _date(document, "PatientBirthDate")
    return _names(document), (_value(document, "PatientID"),), (f"born {born}",)


def _names(document: Dataset) -> tuple[str, ...]:
    """Each of the name's forms (PS3.5, 6.2.1.2): alphabetic, ideographic, phonetic."""
    alphabetic, *others = str(document.get("PatientName") or "").split("=")
    names = [_person(alphabetic), *(" ".join(form.replace("^", " ").split()) for form in others)]
    return tuple(name for name in names if name) or (_NOT_GIVEN,)


def _person(alphabetic: str) -> str:
    """ "Family, Prefix Given Middle, Suffix"."""
    family, given, middle, prefix, suffix, *_ = [part.strip() for part in alphabetic.split("^")] + [""] * 5
    first = " ".join(part for part in (prefix, given, middle) if part)
    return ", ".join(part for part in (family, first, suffix) if part)


def _value(document: Dataset, keyword: str) -> str:
    return str(document[keyword].value) if has_sound(document, keyword) else _NOT_GIVEN


def _date(document: Dataset, keyword: str) -> str:
    text = _value(document, keyword)
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdigit() else text


def _shown_time(document: Dataset) -> str:
    made = datetime.strptime(f"{document.ContentDate}{str(document.ContentTime)[:6]}", "%Y%m%d%H%M%S")
    return f"{made:%Y-%m-%d %H:%M}"


def _tables(findings: Findings, segments: Sequence[Segment]) -> Iterator[Table]:
    colours = {segment.number: segment.display_rgb for segment in segments}
    measured = [group for group in findings.groups if group.measurements or not group.evaluations]
    if measured:
        yield _measurements(measured, colours)
    answered = [group for group in findings.groups if group.evaluations]
    if answered:
        yield Table(
            "Assessments",
            "Region",
            (Column("Question", numeric=False), Column("Answer", numeric=False)),
            tuple(
                Row(
                    group_heading(group) if place == 0 else "",
                    (each.concept.meaning, each.value.meaning),
                    _colours(group, colours) if place == 0 else (),
                )
                for group in answered
                for place, each in enumerate(group.evaluations)
            ),
        )


def _measurements(groups: Sequence[MeasurementGroup], colours: dict[int, tuple[int, int, int]]) -> Table:
    """A column for each thing measured; where they are too many, a row for each measurement."""
    headings = list(
        dict.fromkeys((subject(each), unit(each.unit)) for group in groups for each in group.measurements)
    )
    if len(headings) > _MOST_COLUMNS:
        return _long(groups, colours)
    rows = []
    for group in groups:
        values = {
            (subject(each), unit(each.unit)): _number(each.value, number(each)) for each in group.measurements
        }
        cells = tuple(values.get(heading, "") for heading in headings)
        rows.append(Row(group_heading(group), cells, _colours(group, colours)))
    columns = tuple(Column(name, measured_in) for name, measured_in in headings)
    return Table("Measurements" if headings else "Regions", "Region", columns, tuple(rows))


def _long(groups: Sequence[MeasurementGroup], colours: dict[int, tuple[int, int, int]]) -> Table:
    rows = tuple(
        Row(
            group_heading(group) if place == 0 else "",
            (subject(each), _number(each.value, f"{number(each)} {unit(each.unit)}")),
            _colours(group, colours) if place == 0 else (),
        )
        for group in groups
        for place, each in enumerate(group.measurements)
    )
    return Table("Measurements", "Region", (Column("Measurement", numeric=False), Column("Value")), rows)


def _number(value: float, shown: str) -> str:
    """With a minus that is seen."""
    return shown.strip().replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else "no value"


def _colours(
    group: MeasurementGroup, colours: dict[int, tuple[int, int, int]]
) -> tuple[tuple[int, int, int], ...]:
    return tuple(colours[segment] for segment in group.segment_numbers if segment in colours)


def _notes(findings: Findings) -> Iterator[str]:
    for group in findings.groups:
        yield from (f"{group_heading(group)}: {note}" for note in group.notes)
    yield from (f"{note[:1].upper()}{note[1:]}" for note in findings.notes)


def _reference(instance: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = str(instance.SOPClassUID)
    item.ReferencedSOPInstanceUID = str(instance.SOPInstanceUID)
    return item
