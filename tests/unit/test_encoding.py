"""The bytes of a result are those that pydicom writes, whatever it holds."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from result_cases import findings_of, phantom_case, pictures_of, report_of, seg_of

from isocenter_operators.dicom.encoding import encoded

SHARED = Path(__file__).parents[3] / "shared" / "dicom"
pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's own, of odd values


def by_pydicom(instance: Dataset) -> bytes:
    file = BytesIO()
    instance.save_as(file, enforce_file_format=True)
    return file.getvalue()


def looked_into(instance: Dataset) -> Dataset:
    """Every element converted, as when somebody has asked for all of them."""
    for _ in instance.iterall():
        pass
    return instance


def test_every_kind_of_result() -> None:
    volume, labels = phantom_case()
    findings = findings_of(volume, labels, note="größer als zuvor ~")
    seg = seg_of(volume, labels)
    kinds = [
        seg,
        seg_of(volume, labels, kind="LABELMAP", transfer_syntax_uid=RLELossless),
        seg_of(volume, labels, transfer_syntax_uid=DeflatedExplicitVRLittleEndian),
        report_of(volume, findings, seg),
        *pictures_of(volume, labels, findings),
    ]
    for instance in kinds:
        made = encoded(instance)
        assert made == by_pydicom(instance)
        again = dcmread(BytesIO(made))
        assert again.SOPInstanceUID == instance.SOPInstanceUID
        assert encoded(again) == made == encoded(looked_into(again))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published images are not here")
def test_objects_of_others() -> None:
    """Of many makers, character sets and transfer syntaxes; as they were read, and looked into."""
    files = sorted(each for each in SHARED.rglob("*") if each.is_file() and each.stat().st_size < 3_000_000)
    tried = 0
    for file in files[:: max(1, len(files) // 120)]:
        try:
            instance = dcmread(file)
            expected = by_pydicom(instance)
        except Exception:  # noqa: BLE001 - what pydicom can not read or write is not what is asked here
            continue
        assert encoded(instance) == expected, file
        assert encoded(looked_into(instance)) == by_pydicom(instance), file
        tried += 1
    assert tried > 60


def odd() -> Dataset:
    instance = Dataset()
    instance.file_meta = FileMetaDataset()
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    instance.SOPClassUID, instance.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    return instance


@pytest.mark.parametrize(
    "said",
    [
        {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Müller^Jürgen", "StudyDescription": "Röntgen"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎", "StudyID": "a~b"},
        {"SpecificCharacterSet": "ISO_IR 13", "StudyDescription": "yen ¥ and ~"},
        {"StudyDescription": "", "PatientID": None, "OtherPatientIDsSequence": [], "ImageType": ["DERIVED", "X"]},
        {"PixelSpacing": [0.7, 0.70000000001], "SliceThickness": "1.20", "InstanceNumber": 7, "WindowCenter": -1},
        {"TextValue": "x" * 70_000, "SmallestImagePixelValue": 4, "PixelRepresentation": 0, "Rows": 3},
    ],
)  # fmt: skip
def test_what_is_left_to_pydicom(said: dict[str, Any]) -> None:
    instance = odd()
    for keyword, value in said.items():
        setattr(instance, keyword, value)
    assert encoded(instance) == by_pydicom(instance)


def test_items_and_sequences_without_a_length() -> None:
    instance, item, inner = odd(), Dataset(), Dataset()
    inner.CodeMeaning = "Größe"
    item.ConceptNameCodeSequence = [inner]
    item.SpecificCharacterSet = "ISO_IR 100"
    item.is_undefined_length_sequence_item = True
    instance.ContentSequence = ItemSequence([item])
    instance["ContentSequence"].is_undefined_length = True
    instance.ReferencedSeriesSequence = ItemSequence([item])
    assert encoded(instance) == by_pydicom(instance)


def test_implicit_value_representations() -> None:
    instance = odd()
    instance.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    instance.StudyDescription = "as it was"
    assert encoded(instance) == by_pydicom(instance)


def test_what_can_not_be_a_file_is_not_made_one() -> None:
    instance = odd()
    del instance.SOPInstanceUID
    with pytest.raises(Exception, match="Media Storage SOP Instance UID"):
        encoded(instance)
