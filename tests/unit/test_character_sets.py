"""Names and comments in every character set of PS3.3, C.12.1.1.2 survive into the results."""

from __future__ import annotations

import shutil
import subprocess
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from read_back import lacking
from result_cases import findings_of, phantom_case, report_of, seg_of, written

from isocenter_operators.dicom.rules.validate import check
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.dicom.unicode import in_unicode

# The bytes of the name in the file, and what they say. Those of the east are the standard's own (PS3.5, H to J).
NAMES = {
    "": (b"Smith^John", "Smith^John"),
    " undeclared": (b"M\xfcller^J\xfcrgen", "Müller^Jürgen"),
    "ISO_IR 100": (b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
    "ISO_IR 101": ("Wałęsa^Lech".encode("iso8859-2"), "Wałęsa^Lech"),
    "ISO_IR 109": ("Ħaġar^Ġorġ".encode("iso8859-3"), "Ħaġar^Ġorġ"),
    "ISO_IR 110": ("Šķēle^Ģirts".encode("iso8859-4"), "Šķēle^Ģirts"),
    "ISO_IR 144": ("Люксембург".encode("iso8859-5"), "Люксембург"),
    "ISO_IR 127": ("قباني^لنزار".encode("iso8859-6"), "قباني^لنزار"),
    "ISO_IR 126": ("Διονυσιος".encode("iso8859-7"), "Διονυσιος"),
    "ISO_IR 138": ("שרון^דבורה".encode("iso8859-8"), "שרון^דבורה"),
    "ISO_IR 148": ("Çavuşoğlu".encode("iso8859-9"), "Çavuşoğlu"),
    "ISO_IR 166": ("นามสกุล".encode("tis-620"), "นามสกุล"),
    "ISO_IR 13\\ISO 2022 IR 87": (
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J"
        b"=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    "\\ISO 2022 IR 87": (
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    "\\ISO 2022 IR 149": (
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "\\ISO 2022 IR 58": (
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=张^小东=",
    ),
    "ISO_IR 192": ("Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東"),
    "GB18030": ("Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
    "GBK": ("Wang^XiaoDong=王^小东".encode("gbk"), "Wang^XiaoDong=王^小东"),
}


Case = tuple[Volume, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def case() -> Case:
    return phantom_case()


def carrying(volume: Volume, terms: str, name: bytes, comment: bytes) -> Volume:
    """The volume of a patient whose images hold these very bytes."""
    frames = []
    for frame in volume.frames:
        source = Dataset()
        source.update(frame.instance)
        source.file_meta = deepcopy(frame.instance.file_meta)
        if terms != " undeclared":
            source.SpecificCharacterSet = terms.split("\\") if "\\" in terms else terms
        for keyword, value in (("PatientName", name), ("PatientComments", comment)):
            tag = Tag(keyword)
            source[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
        content = BytesIO()
        source.save_as(content, enforce_file_format=True)
        frames.append(Frame(dcmread(BytesIO(content.getvalue()))))
    return Volume(volume.voxels, volume.affine, tuple(frames))


def dumped(path: Path) -> bytes:
    """The file as DCMTK reads it, in the bytes that stand there."""
    if shutil.which("dcmdump") is None:
        lacking("dcmdump is not installed (Debian package dcmtk)")
    shown = subprocess.run(
        ["dcmdump", "-q", "+L", "+P", "0008,0005", "+P", "0010,0010", "+P", "0010,4000", str(path)],
        capture_output=True,
        check=True,
    )
    return shown.stdout


@pytest.mark.parametrize("terms", NAMES)
def test_a_name_reaches_the_result(terms: str, case: Case, tmp_path: Path) -> None:
    volume, labels = case
    name, said = NAMES[terms]
    comment = name.split(b"=")[0]
    patient = carrying(volume, terms, name, comment)
    report = report_of(patient, findings_of(patient, labels), seg_of(patient, labels))
    check(report)
    as_the_source = dumped(written(report, tmp_path, "report"))
    in_unicode(report)
    check(report)
    in_utf_8 = dumped(written(report, tmp_path, "unicode"))
    declared = {" undeclared": "ISO_IR 100"}.get(terms, terms)
    assert f"[{declared}]".encode() in as_the_source if terms else b"(0008,0005)" not in as_the_source
    assert b"[ISO_IR 192]" in in_utf_8
    for shown, in_full, told in (
        (as_the_source, name, comment),
        (in_utf_8, said.encode(), said.split("=")[0].encode()),
    ):
        assert b"PN [" + in_full.rstrip(b"=") in shown
        # Where katakana is in force from the start, it may be named once more (PS3.5, 6.1.2.5.3).
        assert b"LT [" + told in shown.replace(b"\x1b)I", b"").replace(b"\x1b(J", b"")
