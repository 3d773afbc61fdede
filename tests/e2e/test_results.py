"""Every kind of result in one study, as a reader opens them in OHIF: judged by the pixels, against the truth.

The screenshots that this leaves in tests/artifacts are the documentation's.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pypdfium2
import pytest
from lungs import (
    LEFT,
    LUNGS,
    RIGHT,
    assert_is_the_picture,
    assert_lungs_are_where_they_belong,
    dice,
    fitted,
    in_hue_of,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from reader import ARTIFACTS, Reader, Viewport, coloured, reader
from scipy import ndimage

from isocenter.settings import OrthancSettings
from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Findings, Measurement, MeasurementGroup, Points
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.derived_series import derived_series
from isocenter_operators.dicom.results.key_frames import key_frames
from isocenter_operators.dicom.results.key_objects import key_images, result_set
from isocenter_operators.dicom.results.outcome_note import (
    NoteImages,
    NoteSubject,
    outcome_identity,
    outcome_note,
)
from isocenter_operators.dicom.results.parametric_map import PROBABILITY, parametric_map
from isocenter_operators.dicom.results.pdf_report import pdf_report, section_pictures
from isocenter_operators.dicom.results.picture import overlay_pictures
from isocenter_operators.dicom.results.presentation_state import presentation_states
from isocenter_operators.dicom.results.rtstruct import structure_set
from isocenter_operators.dicom.results.seg import segmentation
from isocenter_operators.dicom.results.sr import measurement_report
from isocenter_operators.dicom.results.text_report import text_report
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.testing import as_datasets, thorax_phantom

pytestmark = pytest.mark.e2e

ALGORITHM = Algorithm("lung density", "1.2.0", {"lungs": "3"})
CREATED = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
SEG, SR, TEXT, PDF, MAP, RTSTRUCT, NOTE = 9001, 9002, 9004, 9005, 9006, 9007, 9011  # Series Number


@dataclass(frozen=True)
class Study:
    """A phantom's chest CT with every result, as it lies in the archive."""

    uid: str
    volume: Volume
    labels: NDArray[np.uint8]  # (Z, Y, X)
    pictures: tuple[Dataset, ...]
    pdf: bytes


Stored = Callable[..., Study]


@pytest.fixture(scope="module")
def stored(orthanc: OrthancSettings) -> Stored:
    """Stores a phantom of these parameters and its results."""

    def store(**parameters: Any) -> Study:
        phantom = thorax_phantom(noise_hu=10.0, **parameters)
        volume = volume_of(as_datasets(phantom))
        flipped = float(phantom.affine[:3, 2] @ volume.affine[:3, 2]) < 0
        labels = np.ascontiguousarray(phantom.labels[::-1] if flipped else phantom.labels)
        results = results_of(volume, labels)
        put(orthanc, [*volume.sources, *results])
        (document,) = (each for each in results if "EncapsulatedDocument" in each)
        return Study(
            str(volume.sources[0].StudyInstanceUID),
            volume,
            labels,
            tuple(each for each in results if each.Modality == "OT"),
            document.EncapsulatedDocument[: document.EncapsulatedDocumentLength],
        )

    return store


def put(orthanc: OrthancSettings, instances: Sequence[Dataset]) -> None:
    with httpx.Client(base_url=orthanc.rest_url) as archive:
        for instance in instances:
            content = io.BytesIO()
            instance.save_as(content, enforce_file_format=True)
            archive.post("/instances", content=content.getvalue()).raise_for_status()


def results_of(volume: Volume, labels: NDArray[np.uint8]) -> list[Dataset]:
    identity = JobIdentity.of([str(each.SOPInstanceUID) for each in volume.sources], ALGORITHM, CREATED)
    findings = findings_of(volume, labels)
    job: dict[str, Any] = {"frames": volume.frames, "algorithm": ALGORITHM, "identity": identity}
    seg = segmentation(labels=labels, segments=LUNGS, **job)
    drawn: dict[str, Any] = {"volume": volume, "labels": labels, "segments": LUNGS}
    keys = key_frames(frames=volume.frames, findings=findings, labels=labels, segments=LUNGS)
    results: list[Dataset] = [
        seg,
        measurement_report(findings=findings, seg=seg, segments=LUNGS, **job),
        *overlay_pictures(findings=findings, algorithm=ALGORITHM, identity=identity, **drawn),
        text_report(findings=findings, **job),
        pdf_report(findings=findings, segments=LUNGS, pictures=section_pictures(**drawn), **job),
        parametric_map(
            values=ndimage.gaussian_filter((labels == RIGHT).astype(np.float32), 1.5),
            quantity=PROBABILITY,
            segment=LUNGS[0],
            value_range=(0, 1),
            window=(0, 1),
            **job,
        ),
        structure_set(labels=labels, segments=LUNGS, **job),
        key_images(selected=keys, algorithm=ALGORITHM, identity=identity),
    ]
    named = result_set(results=results, source=volume.sources[0], algorithm=ALGORITHM, identity=identity)
    return [*results, named, note_on(volume)]


def findings_of(volume: Volume, labels: NDArray[np.uint8]) -> Findings:
    voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000
    groups = []
    for lung in LUNGS:
        hu = volume.voxels[labels == lung.number]
        measurements = (
            Measurement("volume_mL", codes.VOLUME, hu.size * voxel_ml, codes.MILLILITER, decimals=0),
            Measurement("mean_HU", codes.ATTENUATION, float(hu.mean()), codes.HOUNSFIELD_UNIT, codes.MEAN),
        )
        groups.append(MeasurementGroup(lung.label, codes.LUNG, (lung.number,), measurements, lung.laterality))
    return Findings(tuple(groups))


def note_on(volume: Volume) -> Dataset:
    """What another application leaves, that these images were not for."""
    source = volume.sources[0]
    instances = tuple((str(each.SOPClassUID), str(each.SOPInstanceUID)) for each in volume.sources)
    job = hashlib.sha256(f"liver {source.SeriesInstanceUID}".encode()).hexdigest()
    subject = NoteSubject(
        application=Algorithm("liver volume", "2.0", {}),
        job_id=job,
        ending="not_applicable",
        reason="the liver is not in the images",
        ended=CREATED,
        images=(NoteImages(str(source.SeriesInstanceUID), "CT", instances, 1),),
    )
    return outcome_note(
        subject=subject,
        header=source,
        maker=Algorithm("Isocenter", "0.4", {}),
        identity=outcome_identity(job, 1, CREATED),
    )


@pytest.mark.parametrize(
    ("acquired", "parameters"),
    [
        ("axial", {"size": (128, 112, 40), "spacing_mm": (2.8, 2.8, 7.5)}),
        (
            "coronal",
            {"size": (128, 96, 32), "spacing_mm": (2.8, 3.2, 7.0), "orientation": "LIP", "oblique_deg": 8.0},
        ),
    ],
)
def test_each_result_is_shown_the_right_way_round(
    gateway: str, stored: Stored, acquired: str, parameters: dict[str, Any]
) -> None:
    study = stored(**parameters)
    with reader(gateway) as browser:
        browser.open(study.uid)
        images, picture = browser.wait_for(
            lambda seen: len(seen) == 2 and all(coloured(each.pixels).mean() > 0.01 for each in seen),
            "the segmentation and the picture",
        )
        browser.screenshot(ARTIFACTS / f"results-{acquired}-seg.png")
        assert_lungs_are_where_they_belong(images, labels_shown(images, study))
        assert_is_the_picture(picture, study.pictures)

        browser.choose(RTSTRUCT)
        outlined, picture = browser.wait_for(is_outlined, "outlines")
        browser.screenshot(ARTIFACTS / f"results-{acquired}-rtstruct.png")
        assert_outlines_are_where_they_belong(outlined, labels_shown(outlined, study))
        assert_is_the_picture(picture, study.pictures)  # what was beside it stays

        browser.choose(PDF)
        page = browser.wait_for_pane(0, lambda seen: page_box(seen) is not None, "the page")
        browser.screenshot(ARTIFACTS / f"results-{acquired}-pdf.png")
        assert browser.document() == study.pdf
        assert_is_the_page(page, study.pdf)

    assert browser.elsewhere == []
    assert browser.complaints == []


def labels_shown(seen: Viewport, study: Study) -> NDArray[np.uint8]:
    """The true labels (Y, X) of the slice that is shown, of square pixels."""
    (index,) = (
        index
        for index, source in enumerate(study.volume.sources)
        if int(source.InstanceNumber) == seen.instance_number
    )
    row_mm, column_mm = study.volume.frames[index].spacing_mm
    zoom = (row_mm / min(row_mm, column_mm), column_mm / min(row_mm, column_mm))
    labels: NDArray[np.uint8] = ndimage.zoom(
        study.labels[index], zoom, order=0, grid_mode=True, mode="nearest"
    )
    return labels


def is_outlined(seen: list[Viewport]) -> bool:
    """In the colours of both lungs, but nowhere filled."""
    if len(seen) != 2:
        return False
    shares = [in_hue_of(lung.display_rgb, seen[0].pixels).mean() for lung in LUNGS]
    return bool(min(shares) > 0.0005 and max(shares) < 0.02)


def assert_outlines_are_where_they_belong(seen: Viewport, labels: NDArray[np.uint8]) -> None:
    """Each outline runs around its lung, and the mirror image of the lungs is not what they run around."""
    labels = fitted(labels, seen.pixels.shape[:2])
    for lung, other in zip(LUNGS, (LEFT, RIGHT), strict=True):
        line = in_hue_of(lung.display_rgb, seen.pixels)
        within = filled(line)
        assert dice(within, filled(labels == lung.number)) > 0.95, lung.label
        assert dice(within, filled(labels == lung.number)[:, ::-1]) < 0.2, lung.label
        assert dice(within, filled(labels == other)[:, ::-1]) < 0.92, lung.label
        assert dice(within, filled(labels == lung.number)[::-1]) < 0.92, lung.label
        # Along the border, but for the line that joins a hole to it.
        border = ndimage.binary_dilation(labels == lung.number) & (labels != lung.number)
        assert (ndimage.distance_transform_edt(~border)[line] < 4).mean() > 0.8, lung.label


def filled(outline: NDArray[np.bool_]) -> NDArray[np.bool_]:
    closed = ndimage.binary_closing(np.pad(outline, 2), iterations=2)
    inside: NDArray[np.bool_] = np.asarray(ndimage.binary_fill_holes(closed))[2:-2, 2:-2]
    return inside


def page_box(pane: NDArray[np.uint8]) -> tuple[int, int, int] | None:
    """The first row and the first and last column of a white page in the browser's viewer; None where there is none."""
    white = (pane > 250).all(axis=-1)
    rows = np.flatnonzero(white.mean(axis=1) > 0.9)
    if len(rows) < 0.1 * len(pane):
        return None
    columns = np.flatnonzero(white[rows].mean(axis=0) > 0.9)
    return int(rows[0]), int(columns[0]), int(columns[-1])


def assert_is_the_page(pane: NDArray[np.uint8], pdf: bytes) -> None:
    """The upper part of the PDF's first page, as it is rendered here by itself, and not its mirror image."""
    box = page_box(pane)
    assert box is not None
    top, left, right = box
    page = pypdfium2.PdfDocument(pdf)[0]
    rendered = page.render(scale=(right - left + 1) / page.get_width()).to_numpy()[..., 2::-1]  # BGR
    height = min(len(pane) - top, len(rendered)) - 8
    shown = pane[top : top + height, left : left + rendered.shape[1]].astype(np.int16)
    expected = rendered[:height, : shown.shape[1]].astype(np.int16)
    assert expected.std() > 20, "the page has nothing on it"
    difference = np.abs(shown - expected).mean()
    for turned in (expected[:, ::-1], expected[::-1], expected[::-1, ::-1]):
        assert np.abs(shown - turned).mean() > 3 * difference
    assert difference < 6, difference


def test_reports_can_be_read_and_what_was_opened_before_leaves_nothing_behind(
    gateway: str, stored: Stored
) -> None:
    study = stored(size=(112, 96, 30), spacing_mm=(3.2, 3.2, 10.0))
    with reader(gateway) as browser:
        browser.open(study.uid)
        browser.wait_for(
            lambda seen: len(seen) == 2 and coloured(seen[0].pixels).mean() > 0.01, "the segmentation"
        )
        assert [line.split("\n")[:2] for line in sorted(browser.series())] == [
            ["CT", "Chest phantom"],
            ["DOC", "lung density report as a page"],
            ["KO", "lung density key objects"],
            ["OT", "lung density pictures"],
            ["PMAP", "lung density: Probability of Right lung"],
            ["RTSTRUCT", "lung density structure set"],
            ["SEG", "lung density segmentation"],
            ["SR", "No result (not applicable): liver volume"],
            ["SR", "lung density measurements"],
            ["SR", "lung density report"],
        ]
        assert "Volume: " in read(browser, SR, "Tracking Identifier: lung density Left lung")
        assert "of a computation" in read(browser, TEXT, "Right lung: Volume is ")
        assert "nothing was ruled out" in read(browser, NOTE, "NOT APPLICABLE: liver volume has no result")

        # What OHIF does for a map, its colours and its window, ends with it.
        browser.choose(MAP)
        browser.wait_for(lambda seen: len(seen) == 2 and "L:\n50" in seen[0].text, "the map")
        browser.screenshot(ARTIFACTS / "results-map.png")
        browser.choose(SEG)
        (segmented, _) = browser.wait_for(
            lambda seen: (
                len(seen) == 2 and coloured(seen[0].pixels).mean() > 0.01 and "L:\n-600" in seen[0].text
            ),
            "the segmentation again",
        )
        assert_lungs_are_where_they_belong(segmented, labels_shown(segmented, study))
    assert browser.elsewhere == []
    assert browser.complaints == []


def read(browser: Reader, series_number: int, sentence: str) -> str:
    browser.choose(series_number)
    seen = browser.wait_for(lambda seen: bool(seen) and sentence in seen[0].text, sentence)
    browser.screenshot(ARTIFACTS / f"results-{series_number}.png")
    return seen[0].text


def test_derived_images_open_as_images_and_marked_places_are_listed(
    gateway: str, orthanc: OrthancSettings
) -> None:
    phantom = thorax_phantom(size=(128, 112, 40), spacing_mm=(2.8, 2.8, 7.5), noise_hu=30.0)
    volume = volume_of(as_datasets(phantom))
    algorithm = Algorithm("nodule finder", "1.0", {"net": "1"})
    sources = [str(each.SOPInstanceUID) for each in volume.sources]
    job: dict[str, Any] = {
        "frames": volume.frames,
        "algorithm": algorithm,
        "identity": JobIdentity.of(sources, algorithm, CREATED),
    }
    smooth = ndimage.gaussian_filter(volume.voxels.astype(np.float32), 1).round().astype(np.int16)
    place = tuple((volume.affine @ (60, 50, 20, 1))[:3].tolist())
    found = MeasurementGroup("Nodule", codes.LUNG, region=Points((place,)))  # type: ignore[arg-type]
    results = [
        *derived_series(voxels=smooth, what="Denoised", **job),
        *presentation_states(findings=Findings((found,)), **job),
    ]
    put(orthanc, [*volume.sources, *results])
    with reader(gateway) as browser:
        browser.open(str(volume.sources[0].StudyInstanceUID))
        browser.wait_for(lambda seen: len(seen) == 1 and "I:" in seen[0].text, "the images")
        assert [line.split("\n")[:2] for line in sorted(browser.series())] == [
            ["CT", "Chest phantom"],
            ["CT", "Denoised (AI): Chest phantom"],
            ["PR", "nodule finder findings"],
        ]
        browser.choose_images(9010, slices_on=20)
        (seen,) = browser.wait_for(
            lambda seen: "Denoised" in seen[0].text and "(21/40)" in seen[0].text, "it"
        )
        browser.screenshot(ARTIFACTS / "results-derived.png")
    (shown,) = (z for z, each in enumerate(volume.sources) if each.InstanceNumber == seen.instance_number)
    expected = np.clip((smooth[shown] + 1350) / 1500 * 255, 0, 255)  # W 1500, L -600
    expected = ndimage.zoom(expected, seen.pixels.shape[0] / expected.shape[0], order=1)
    left = (seen.pixels.shape[1] - expected.shape[1]) // 2
    pixels = seen.pixels[: expected.shape[0], left : left + expected.shape[1], 0].astype(np.float32)
    expected = expected[: len(pixels)]
    difference = np.abs(pixels - expected).mean()
    assert difference < 6, difference
    for turned in (expected[:, ::-1], expected[::-1]):
        assert np.abs(pixels - turned).mean() > 3 * difference
    assert browser.complaints == []
