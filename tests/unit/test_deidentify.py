"""De-identified images hold nothing of who the patient is; results of them, with the identity back, are the same."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from unit import result_cases
from unit.result_cases import ALGORITHM, findings_of, pictures_of, report_of, seg_of

from isocenter_operators.dicom.deidentify import Deidentification, Pseudonyms
from isocenter_operators.dicom.identity import JobIdentity
from isocenter_operators.dicom.retained import RETAINED_BY_OPTION
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.dicom.series.read import read_folder
from isocenter_operators.errors import InputError, InvalidResult
from isocenter_operators.testing import as_datasets, as_enhanced, thorax_phantom

SITE = Deidentification(b"k" * 32)
ALL_KEPT = Deidentification(b"k" * 32, frozenset(RETAINED_BY_OPTION))
IDENTITY = {
    "PatientName": "Müller^Erika",
    "PatientID": "PID-4711",
    "PatientBirthDate": "19640812",
    "PatientSex": "F",
    "PatientAge": "062Y",
    "PatientComments": "known to Dr. Hausarzt",
    "OtherPatientNames": "Geborene^Erika",
    "IssuerOfPatientID": "WALDKLINIK",
    "AccessionNumber": "ACC-0815",
    "StudyID": "STUDY-33",
    "StudyDate": "20261103",
    "StudyTime": "081459",
    "StudyDescription": "Kontrolle Mueller",
    "SeriesDescription": "Erika, prone",
    "ProtocolName": "Lunge Dr. Radiologe",
    "ReferringPhysicianName": "Hausarzt^Horst",
    "PerformingPhysicianName": "Radiologe^Rita",
    "OperatorsName": "Assistenz^Anna",
    "InstitutionName": "Waldklinik Musterstadt",
    "InstitutionAddress": "Am Wald 1",
    "StationName": "CT-KELLER",
    "DeviceSerialNumber": "SN-123456",
    "ContrastBolusAgent": "Kontrast fuer Erika",
    "ImageComments": "Erika moved",
    "AcquisitionDate": "20261104",
    "TimezoneOffsetFromUTC": "+0545",
}


def with_header(images: list[Dataset], **others: Any) -> list[Dataset]:
    for image in images:
        image.SpecificCharacterSet = "ISO_IR 100"
        for keyword, value in {**IDENTITY, **others}.items():
            setattr(image, keyword, value)
        image.Manufacturer, image.ManufacturerModelName = "Scanner Works", "Ring 64"
        image.add_new(0x00091001, "LO", "ERIKA PRIVATE")
        image.add_new(0x60003000, "OW", b"ERIKA OVERLAY ..")
        request = Dataset()
        request.RequestedProcedureDescription = "Kontrolle bei Erika"
        image.RequestAttributesSequence = [request]
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = (
            "1.2.840.10008.5.1.4.1.1.2",
            "1.2.3.4.5",
        )
        image.ReferencedImageSequence = [reference]
    # As they come from a file: nothing has been looked at.
    return [dcmread(BytesIO(content_of(image))) for image in images]


@pytest.fixture(scope="module")
def phantom() -> Any:
    return thorax_phantom(size=(48, 40, 12), spacing_mm=(7.6, 7.6, 24.0), noise_hu=0.0)


@pytest.fixture
def images(phantom: Any) -> list[Dataset]:
    return with_header(as_datasets(phantom))


def content_of(instance: Dataset) -> bytes:
    content = BytesIO()
    instance.save_as(content, enforce_file_format=True)
    return content.getvalue()


def every_value(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Each value below a data set and its file's header, as text, but for the pixels."""
    if getattr(dataset, "file_meta", None) is not None:
        yield from every_value(dataset.file_meta)
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from every_value(item)
        elif element.keyword != "PixelData":
            values = element.value if element.VM > 1 else [element.value]
            for value in values:
                yield element.keyword, value.decode("latin-1") if isinstance(value, bytes) else str(value)


def words() -> set[str]:
    """Everything by which this patient, or who was at work, could be known."""
    found = {"Erika", "ERIKA", "Hausarzt", "Radiologe", "Waldklinik", "Dr."}
    for keyword, value in IDENTITY.items():
        if keyword not in ("PatientSex", "ContrastBolusAgent"):
            found |= {word for word in value.replace("^", " ").split() if len(word) > 2}
    return found


@pytest.mark.parametrize("enhanced", [False, True])
def test_that_no_patient_was_scanned_is_still_said(phantom: Any, enhanced: bool) -> None:
    image = (as_enhanced(phantom) if enhanced else as_datasets(phantom))[0]
    assert Pseudonyms(SITE).concealed(image).QualityControlSubject == "YES"


@pytest.mark.parametrize("enhanced", [False, True])
def test_nothing_of_the_identity_is_left(phantom: Any, enhanced: bool) -> None:
    originals = with_header(list(as_enhanced(phantom)) if enhanced else as_datasets(phantom))
    uids = {
        value
        for image in originals
        for keyword, value in every_value(image)
        if keyword.endswith("UID") and not value.startswith("1.2.840.10008.")
    }
    pseudonyms = Pseudonyms(SITE)
    for image in originals:
        before = content_of(image)
        concealed = pseudonyms.concealed(image)
        for keyword, value in every_value(concealed):
            assert not [word for word in words() if word in value], keyword
            assert value not in uids, keyword
        assert not any(element.tag.is_private for element in concealed.iterall())
        assert concealed.PatientSex in (None, "")
        assert concealed.PixelData is image.PixelData
        assert content_of(image) == before
        assert (concealed.PatientIdentityRemoved, concealed.LongitudinalTemporalInformationModified) == (
            "YES",
            "REMOVED",
        )
        (profile,) = concealed.DeidentificationMethodCodeSequence
        assert (profile.CodeValue, profile.CodingSchemeDesignator) == ("113100", "DCM")
        # What is read again from a file is the same: nothing hangs on the object.
        dcmread(BytesIO(content_of(concealed)))


def test_the_volume_is_the_same(images: list[Dataset], phantom: Any) -> None:
    for originals in (images, with_header(list(as_enhanced(phantom)))):
        pseudonyms = Pseudonyms(SITE)
        expected, seen = volume_of(originals), volume_of([pseudonyms.concealed(each) for each in originals])
        np.testing.assert_array_equal(seen.voxels, expected.voxels)
        np.testing.assert_array_equal(seen.affine, expected.affine)


@pytest.mark.parametrize("series", ["ct-abdomen-41/image", "mr-abdomen/adc_image", "mr-abdomen/t2_image"])
def test_the_volume_of_real_images_is_the_same(series: str, test_data: Path) -> None:
    originals = read_folder(test_data / series)
    pseudonyms = Pseudonyms(SITE)
    expected, seen = volume_of(originals), volume_of([pseudonyms.concealed(each) for each in originals])
    np.testing.assert_array_equal(seen.voxels, expected.voxels)
    np.testing.assert_array_equal(seen.affine, expected.affine)


def results_of(volume: Volume) -> list[Dataset]:
    labels = (volume.voxels < -500).astype(np.uint8)
    labels[volume.voxels < -900] = 2
    findings = findings_of(volume, labels)
    seg = seg_of(volume, labels)
    return [seg, report_of(volume, findings, seg), *pictures_of(volume, labels, findings)]


@pytest.fixture
def made_at(monkeypatch: pytest.MonkeyPatch) -> datetime:
    """The results' UIDs do not depend on the images, which go by other UIDs while they are processed."""
    created = datetime(2026, 11, 22, 23, 30, tzinfo=UTC)
    monkeypatch.setattr(
        result_cases, "identity_of", lambda volume, algorithm=ALGORITHM: JobIdentity("a" * 64, created)
    )
    return created


def test_results_with_the_identity_back_are_the_same_byte_by_byte(
    images: list[Dataset], made_at: datetime
) -> None:
    del made_at
    pseudonyms = Pseudonyms(ALL_KEPT)
    expected = results_of(volume_of(deepcopy(images)))
    made = results_of(volume_of([pseudonyms.concealed(each) for each in images]))
    for result in made:
        assert not [
            word
            for _, value in every_value(result)
            for word in ("Erika", "PID-4711", "SN-123456")
            if word in value
        ]
    before = [content_of(each) for each in made]
    revealed = [pseudonyms.revealed(each) for each in made]
    for result, truth in zip(revealed, expected, strict=True):
        assert content_of(result) == content_of(truth), result.Modality
    assert [content_of(each) for each in made] == before  # as others in the graph may still look at them


def test_without_dates_a_result_lacks_those_of_the_images_and_nothing_else(
    images: list[Dataset], made_at: datetime
) -> None:
    del made_at
    pseudonyms = Pseudonyms(SITE)
    expected = results_of(volume_of(deepcopy(images)))
    made = results_of(volume_of([pseudonyms.concealed(each) for each in images]))
    for result, truth in zip((pseudonyms.revealed(each) for each in made), expected, strict=True):
        if result.Modality == "SR":
            _drop_dates_of_library(truth)
        assert content_of(result) == content_of(truth), result.Modality
        assert (result.PatientName, result.StudyDate) == (IDENTITY["PatientName"], IDENTITY["StudyDate"])
        assert result.ContentDate == "20261123"  # at +05:45


def _drop_dates_of_library(item: Dataset) -> None:
    """Study Date and its kin in the image library (TID 1602)."""
    if "ContentSequence" not in item:
        return
    kept = [
        each for each in item.ContentSequence if each.get("ValueType") not in ("DATE", "TIME", "DATETIME")
    ]
    item["ContentSequence"].value = ItemSequence(kept)
    for each in kept:
        _drop_dates_of_library(each)


def test_pseudonyms_are_the_same_for_the_same_key_only(images: list[Dataset]) -> None:
    uids = {
        Pseudonyms(Deidentification(key)).concealed(images[0]).SeriesInstanceUID
        for key in (b"k" * 32, b"k" * 32, b"l" * 32)
    }
    assert len(uids) == 2
    first, last = (Pseudonyms(SITE).concealed(each) for each in (images[0], images[-1]))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert first[keyword].value == last[keyword].value
    assert first.SOPInstanceUID != last.SOPInstanceUID
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    assert repr(SITE.key) not in repr(SITE)


def test_a_message_names_the_series_that_people_know(images: list[Dataset]) -> None:
    pseudonyms = Pseudonyms(SITE)
    hidden = pseudonyms.concealed(images[0]).SeriesInstanceUID
    said = pseudonyms.told(f"series {hidden}: slices are missing; see 2.25.123")
    assert said == f"series {images[0].SeriesInstanceUID}: slices are missing; see 2.25.123"


def test_options_keep_what_they_name(images: list[Dataset]) -> None:
    dates = Pseudonyms(Deidentification(b"k" * 32, frozenset({"dates"}))).concealed(images[0])
    assert (dates.StudyDate, dates.AcquisitionDate, dates.get("PatientAge")) == ("20261103", "20261104", None)
    assert dates.LongitudinalTemporalInformationModified == "UNMODIFIED"
    patient = Pseudonyms(Deidentification(b"k" * 32, frozenset({"patient_characteristics"}))).concealed(
        images[0]
    )
    assert (patient.PatientSex, patient.PatientAge, patient.StudyDate) == ("F", "062Y", None)
    assert [each.CodeValue for each in patient.DeidentificationMethodCodeSequence] == ["113100", "113108"]


@pytest.mark.parametrize(
    ("written", "route", "agent", "way"),
    [
        ("Ultravist 370", "I.V.", "CONTRAST", "IV"),
        ("none", "", "NONE", ""),
        ("Gastrografin", "per os / oral", "CONTRAST", "ORAL"),
    ],
)
def test_of_the_contrast_medium_only_the_kind_is_told(
    images: list[Dataset], written: str, route: str, agent: str, way: str
) -> None:
    images[0].ContrastBolusAgent, images[0].ContrastBolusRoute = written, route
    concealed = Pseudonyms(SITE).concealed(images[0])
    assert (concealed.ContrastBolusAgent, concealed.ContrastBolusRoute or "") == (agent, way)


def test_images_with_text_in_them_are_refused(images: list[Dataset]) -> None:
    image = images[0]
    image.BurnedInAnnotation = "YES"
    with pytest.raises(InputError, match="text is burned into its pixels"):
        Pseudonyms(SITE).concealed(image)
    del image.BurnedInAnnotation
    Pseudonyms(SITE).concealed(image)
    image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    with pytest.raises(InputError, match="does not say that it has none") as refused:
        Pseudonyms(SITE).concealed(image)
    assert "Erika" not in str(refused.value)
    image.BurnedInAnnotation = "NO"
    Pseudonyms(SITE).concealed(image)


def test_a_name_where_a_number_belongs_is_not_kept(images: list[Dataset]) -> None:
    """As in a damaged file, in which every value may stand in any place."""
    content = content_of(images[0])
    image = dcmread(BytesIO(content))
    image._dict[image["SliceThickness"].tag] = image.get_item("SliceThickness")
    image["SliceThickness"]._value = "Erika"
    image.pop("RescaleType", None)
    image.add_new("RescaleType", "PN", "Erika^Mueller")
    concealed = Pseudonyms(SITE).concealed(image)
    assert "SliceThickness" not in concealed
    assert "RescaleType" not in concealed


def test_a_result_of_nobody_is_nobodys(images: list[Dataset]) -> None:
    pseudonyms = Pseudonyms(SITE)
    pseudonyms.concealed(images[0])
    stray = deepcopy(images[0])
    stray.StudyInstanceUID = "1.2.3"
    with pytest.raises(InvalidResult, match="whose it is can not be told"):
        pseudonyms.revealed(stray)
