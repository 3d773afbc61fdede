"""A graph that runs de-identified sees nothing of who the patient is, and makes the results it would make anyway."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from unit.test_deidentify import IDENTITY, every_value, with_header, words

from isocenter.settings import OrthancSettings
from isocenter_operators.dicom.deidentify import Deidentification
from isocenter_operators.dicom.rules.validate import problems
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.errors import GeometryError, InputError
from isocenter_operators.run import Archive, Folder, Run, StoredInstance
from isocenter_operators.testing import as_datasets, thorax_phantom

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::ResourceWarning")]

SITE = Deidentification(b"k" * 32)
OLD_RESULT = StoredInstance("1.2.840.10008.5.1.4.1.1.88.34", "1.2.3.1", "1.2.3.2", "1.2.3.3", "SR")


@pytest.fixture(scope="module")
def images() -> list[Dataset]:
    phantom = thorax_phantom(size=(48, 40, 12), spacing_mm=(7.6, 7.6, 24.0), noise_hu=0.0)
    return with_header(as_datasets(phantom))


@pytest.fixture
def task(images: list[Dataset], tmp_path: Path) -> Run:
    for name, study in (("in", images[0].StudyInstanceUID), ("prior", "1.2.826.77")):
        (tmp_path / name).mkdir()
        for image in images:
            image.StudyInstanceUID = study
            image.save_as(tmp_path / name / f"{image.SOPInstanceUID}.dcm")
    for image in images:
        image.StudyInstanceUID = dcmread(next((tmp_path / "in").iterdir())).StudyInstanceUID
    return Run(
        source=Folder(tmp_path / "in"),
        sink=Folder(tmp_path / "plain"),
        priors=(Folder(tmp_path / "prior"),),
        created=datetime(2026, 11, 22, 23, 30, tzinfo=UTC),
        notes=("no prior of 2024 was found",),
        predecessors=(OLD_RESULT,),
    )


def spied(task: Run) -> Any:
    from spied_app import Spied  # imports Holoscan, whose warnings are a test's to expect

    return Spied(task)


def _said(seen: list[Any]) -> Iterator[str]:
    for each in seen:
        if isinstance(each, Dataset):
            yield from (value for _, value in every_value(each))
        else:
            yield str(vars(each) if hasattr(each, "__dict__") else each)


def test_the_graph_sees_nobody_and_its_results_are_the_same(
    images: list[Dataset], task: Run, tmp_path: Path
) -> None:
    plain = spied(task)
    expected = plain.execute()
    assert any("Erika" in said for said in _said(plain.seen))  # the spy has eyes

    hidden = spied(replace(task, deidentification=SITE, sink=Folder(tmp_path / "hidden")))
    outcome = hidden.execute()

    uids = {value for image in images for keyword, value in every_value(image) if keyword in _OF_THE_PATIENT}
    uids |= {"1.2.826.77", *(OLD_RESULT.sop_instance_uid, OLD_RESULT.series_uid, OLD_RESULT.study_uid)}
    said = "\n".join(_said([*hidden.seen, *hidden.results]))
    assert hidden.results
    for word in words() | uids | {str(tmp_path / "in")}:
        assert word not in said, word

    assert outcome.groups == expected.groups
    assert outcome.notes == expected.notes
    for one, other in zip(_stored(outcome), _stored(expected), strict=True):
        assert problems(one) == problems(other) == []
        made, truth = dcmread(one), dcmread(other)
        assert (made.PatientName, made.PatientID) == (IDENTITY["PatientName"], IDENTITY["PatientID"])
        differing = set(_differences(made, truth, uids))
        assert differing <= {"a UID of its own"}, made.Modality


_OF_THE_PATIENT = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


def _stored(outcome: Any) -> list[Path]:
    return [
        each.path
        for each in sorted(
            outcome.results, key=lambda each: (each.modality, str(dcmread(each.path).get("InstanceNumber")))
        )
    ]


def _differences(made: Dataset, truth: Dataset, uids: set[str]) -> Iterator[str]:
    """What two results differ in. Of UIDs only those may differ that no image has: a job makes its own."""
    _without_dates_of_library(truth)
    if [each.tag for each in made] != [each.tag for each in truth]:
        yield f"attributes: {sorted({e.keyword for e in made} ^ {e.keyword for e in truth})}"
        return
    for one, other in zip(made, truth, strict=True):
        if one.VR == "SQ":
            if len(one.value) != len(other.value):
                yield f"{one.keyword}: {len(one.value)} items, not {len(other.value)}"
                continue
            for item, its_truth in zip(one.value, other.value, strict=True):
                yield from _differences(item, its_truth, uids)
        elif one.value != other.value:
            own = one.VR == "UI" and not {str(one.value), str(other.value)} & uids
            yield "a UID of its own" if own else f"{one.keyword}: {one.value!r}, not {other.value!r}"


def _without_dates_of_library(item: Dataset) -> None:
    if "ContentSequence" in item:
        kept = [each for each in item.ContentSequence if each.get("ValueType") != "DATE"]
        item.ContentSequence = kept


def test_results_are_checked_beside_the_images_that_they_name(
    images: list[Dataset], task: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that finds none of the images under the results' names would check nothing."""
    from isocenter_operators import folder_sink

    beside: dict[str, Dataset] = {}
    checked = folder_sink.checked

    def noted(batches: Any, rejected: Any, form: Any, sources: Any) -> Any:
        beside.update(sources)
        return checked(batches, rejected, form, sources)

    monkeypatch.setattr(folder_sink, "checked", noted)
    spied(replace(task, deidentification=SITE, sink=Folder(tmp_path / "hidden"))).execute()
    assert beside.keys() == {str(image.SOPInstanceUID) for image in images}
    for image in images:
        seen = beside[str(image.SOPInstanceUID)]
        for keyword in (*_OF_THE_PATIENT, "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            assert seen[keyword].value == image[keyword].value, keyword


def test_from_the_archive_and_back_to_it(
    images: list[Dataset], task: Run, tmp_path: Path, orthanc: OrthancSettings
) -> None:
    """What is to be stored is told, and stored, under the UIDs of the study in the archive."""
    study_uid, series_uid = generate_uid(), generate_uid()
    for image in images:
        image.StudyInstanceUID, image.SeriesInstanceUID = study_uid, series_uid
    with DICOMwebClient(orthanc.dicomweb_url) as client:
        client.store(images)
    about: list[StoredInstance] = []
    archive = Archive(orthanc.dicomweb_url, study_uid, (series_uid,))
    given = replace(
        task,
        source=archive,
        sink=archive,
        sop_instance_uids=frozenset(str(image.SOPInstanceUID) for image in images),
        before_store=about.extend,
        deidentification=SITE,
    )
    outcome = spied(given).execute()
    assert tuple(about) == outcome.results
    with DICOMwebClient(orthanc.dicomweb_url) as client:
        held = {
            (str(found["0020000D"]["Value"][0]), str(found["0020000E"]["Value"][0]))
            for found in client.search_series(study_uid)
            if found["00080060"]["Value"] != ["CT"]
        }
        (named,) = client.search_studies(StudyInstanceUID=study_uid)
    assert held == {(study_uid, each.series_uid) for each in outcome.results}
    assert len(held) == 2
    assert named["00100020"]["Value"] == [IDENTITY["PatientID"]]


def test_what_went_wrong_is_told_with_the_series_that_people_know(
    images: list[Dataset], task: Run, tmp_path: Path
) -> None:
    file = sorted(Path(str(task.source.path)).iterdir())[0]
    image = dcmread(file)
    image.ImageOrientationPatient = [0.8, 0.6, 0, 0, 0, -1]
    image.save_as(file)
    with pytest.raises(GeometryError, match=str(images[0].SeriesInstanceUID)) as told:
        spied(replace(task, deidentification=SITE, sink=Folder(tmp_path / "hidden"))).execute()
    assert told.value.series_uid == images[0].SeriesInstanceUID


def test_images_with_text_burned_in_are_refused(task: Run, tmp_path: Path) -> None:
    file = sorted(Path(str(task.source.path)).iterdir())[0]
    image = dcmread(file)
    image.BurnedInAnnotation = "YES"
    image.save_as(file)
    with pytest.raises(InputError, match="burned into its pixels"):
        spied(replace(task, deidentification=SITE, sink=Folder(tmp_path / "hidden"))).execute()
    assert not (tmp_path / "hidden").exists()
