"""The same person under two spellings of DICOM, and another one."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from isocenter_operators.dicom.person_name import same_name

SAME = [
    ("Doe^Jane", "DOE^JANE"),
    ("Doe^Jane", "Doe^Jane^^^"),
    ("Doe^Jane", "Doe ^ Jane "),
    ("Doe^Jane==", "Doe^Jane"),
    ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou"),
    ("Yamada^Tarou=山田^太郎", "YAMADA^TAROU=山田^太郎=やまだ^たろう"),
    ("=山田^太郎", "Yamada^Tarou=山田^太郎"),
    ("Mu\u0308ller^Jo\u0308rg", "Müller^Jörg"),
    ("", "^^"),
    (None, ""),
]
OTHER = [
    ("Doe^Jane", "Doe^John"),
    ("Doe^Jane", "Jane^Doe"),
    ("Doe^Jane", "Doe^^Jane"),
    ("Doe^Jane", "Doe^Jane^^^MD"),
    ("Doe^Jane", ""),
    (None, "Doe^Jane"),
    ("Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^花子"),
    ("Yamada^Tarou", "=山田^太郎"),
    ("Müller^Jörg", "Muller^Jorg"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_person(one: str | None, other: str | None) -> None:
    assert same_name(one, other)
    assert same_name(other, one)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_another_person(one: str | None, other: str | None) -> None:
    assert not same_name(one, other)
    assert not same_name(other, one)


@pytest.mark.parametrize(
    ("name", "character_set"),
    [
        ("Müller^Jörg", "ISO_IR 100"),
        ("Жуков^Юрий", "ISO_IR 144"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
        ("Zhang^XiaoDong=张^小东", "GB18030"),
        ("Hong^Gildong=洪^吉洞=홍^길동", ["", "ISO 2022 IR 149"]),
    ],
)
def test_in_whatever_character_set_a_name_is_written(name: str, character_set: str | list[str]) -> None:
    assert same_name(_read_back(name, character_set), _read_back(name.upper(), "ISO_IR 192"))
    assert not same_name(_read_back(name, character_set), _read_back(f"{name}x", "ISO_IR 192"))


def _read_back(name: str, character_set: str | list[str]) -> object:
    dataset = Dataset()
    dataset.SpecificCharacterSet = character_set
    dataset.PatientName = name
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = BytesIO()
    dcmwrite(content, dataset, enforce_file_format=True)
    content.seek(0)
    return dcmread(content).PatientName
