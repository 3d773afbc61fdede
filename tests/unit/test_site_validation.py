"""A site's own cases: how each ended, how far it is from what others drew and measured, and what is told of it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from math import comb
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from result_cases import ALGORITHM, SEGMENTS, identity_of, phantom_case, seg_of

from isocenter.cli import main
from isocenter.cli.site_cases import Case, cases_below
from isocenter.cli.site_report import not_as_expected
from isocenter.cli.site_validation import CaseResult, examined, proportion, spread
from isocenter_operators.dicom.results.rtstruct import structure_set
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.errors import GeometryError, InferenceUnavailable, UnreadableInput
from isocenter_operators.run import Outcome, StoredInstance

GROUP = {"label": "Right lung", "notes": [], "volume_mL": 2000.0}


@pytest.fixture(scope="module")
def phantom() -> tuple[Volume, NDArray[np.uint8]]:
    volume, labels = phantom_case(size=(48, 40, 12), spacing_mm=(7.6, 7.6, 24.0))
    return volume, labels


@pytest.fixture
def folder(phantom: tuple[Volume, NDArray[np.uint8]], tmp_path: Path) -> Path:
    """Cases: `drawn` with a Segmentation of the truth, `outlined` with a structure set of it, `plain` with neither."""
    volume, labels = phantom
    for name in ("drawn", "outlined", "plain"):
        (tmp_path / "cases" / name / "images").mkdir(parents=True)
        for number, image in enumerate(volume.sources):
            image.save_as(tmp_path / "cases" / name / "images" / f"{number}", enforce_file_format=True)
        (tmp_path / "cases" / name / "licence.txt").write_text("no image")
    seg_of(volume, labels).save_as(tmp_path / "cases" / "drawn" / "truth.dcm", enforce_file_format=True)
    structures = structure_set(
        labels=labels,
        frames=volume.frames,
        segments=SEGMENTS,
        algorithm=ALGORITHM,
        identity=identity_of(volume),
    )
    structures.save_as(tmp_path / "cases" / "outlined" / "truth.dcm", enforce_file_format=True)
    return tmp_path / "cases"


def application(
    phantom: tuple[Volume, NDArray[np.uint8]], change: Callable[[NDArray[np.uint8]], object] = lambda _: None
) -> Callable[[Path, Path], Outcome]:
    """One that finds the truth, less what `change` takes from it."""
    volume, labels = phantom

    def run(images: Path, out: Path) -> Outcome:
        assert len(list(images.iterdir())) == len(volume.sources)  # and not what others have drawn
        found = labels.copy()
        change(found)
        out.mkdir(parents=True, exist_ok=True)
        seg = seg_of(volume, found)
        seg.save_as(out / "seg.dcm", enforce_file_format=True)
        stored = StoredInstance("1.2", "2.25.1", "2.25.2", "1.2.3", "SEG", out / "seg.dcm")
        return Outcome("done", "", (GROUP,), (), (stored,), {})

    return run


def case_of(folder: Path, name: str, expected: str = "") -> Case:
    file = folder.parent / "expected.csv"
    file.write_text(f"case,region,measurement,expected,tolerance\n{expected}\n")
    found = {case.name: case for case in cases_below(folder, file if expected else None)}
    assert found.keys() == {"drawn", "outlined", "plain"}
    return found[name]


@pytest.mark.parametrize("name", ["drawn", "outlined"])
def test_what_is_found_is_compared_with_what_others_drew(
    phantom: tuple[Volume, NDArray[np.uint8]], folder: Path, name: str
) -> None:
    case = case_of(folder, name)
    same = examined(case, application(phantom), folder.parent / "out", {})
    assert [(each.label, each.dice) for each in same.segments] == [("Right lung", 1.0), ("Left lung", 1.0)]
    assert same.as_expected

    def half(labels: NDArray[np.uint8]) -> None:
        where = np.argwhere(labels == 1)
        labels[tuple(where[::2].T)] = 0

    fewer = examined(case, application(phantom, half), folder.parent / "out", {})
    right, left = fewer.segments
    assert right.dice == pytest.approx(2 / 3, abs=0.01)
    assert right.found_ml == pytest.approx(right.reference_ml / 2, rel=0.01)
    assert left.dice == 1.0


def test_a_segment_that_was_not_found_counts_as_nothing_of_it(
    phantom: tuple[Volume, NDArray[np.uint8]], folder: Path
) -> None:
    def without_left(labels: NDArray[np.uint8]) -> None:
        labels[labels == 2] = 0

    case = case_of(folder, "drawn")
    missed = examined(case, application(phantom, without_left), folder.parent / "out", {})
    assert {each.label: each.dice for each in missed.segments} == {"Right lung": 1.0, "Left lung": 0.0}
    # By names that the site has for them.
    named = examined(
        case,
        application(phantom),
        folder.parent / "out",
        {"Right lung": "Left lung", "Left lung": "Right lung"},
    )
    assert {each.label: each.dice for each in named.segments} == {"Right lung": 0.0, "Left lung": 0.0}


def test_a_reference_that_does_not_fit_is_told_and_not_passed(
    phantom: tuple[Volume, NDArray[np.uint8]], folder: Path
) -> None:
    other, labels = phantom_case(size=(40, 40, 12), spacing_mm=(7.6, 7.6, 24.0))
    seg_of(other, labels).save_as(folder / "drawn" / "truth.dcm", enforce_file_format=True)
    result = examined(case_of(folder, "drawn"), application(phantom), folder.parent / "out", {})
    assert "lie on different planes" in result.not_compared
    assert not result.as_expected
    seg_of(*phantom).save_as(folder / "drawn" / "second.dcm", enforce_file_format=True)
    result = examined(case_of(folder, "drawn"), application(phantom), folder.parent / "out", {})
    assert "there are several: second.dcm, truth.dcm" in result.not_compared


@pytest.mark.parametrize(
    ("line", "within", "as_expected"),
    [
        ("plain,Right lung,volume_mL,1990,10", True, True),
        ("plain,Right lung,volume_mL,1990,9.9", False, False),
        ("plain,Right lung,volume_mL,1990,", None, True),
        ("plain,Left lung,volume_mL,1990,10", False, False),  # it measured none
        ("plain,,status,done,", None, True),
        ("plain,,status,not_applicable,", None, False),
    ],
)
def test_what_is_measured_is_compared_with_what_was_expected(
    phantom: tuple[Volume, NDArray[np.uint8]], folder: Path, line: str, within: bool | None, as_expected: bool
) -> None:
    result = examined(case_of(folder, "plain", line), application(phantom), folder.parent / "out", {})
    assert [each.within for each in result.differences] == ([] if "status" in line else [within])
    assert result.as_expected is as_expected
    assert bool(not_as_expected(result)) is (within is False or not as_expected)


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (GeometryError("slices are missing", series_uid=None), "refused"),
        (InferenceUnavailable("away"), "failed"),
    ],
)
def test_what_goes_wrong_with_a_case_is_a_line_of_the_report(
    folder: Path, raised: Exception, status: str
) -> None:
    def run(images: Path, out: Path) -> Outcome:
        raise raised

    result = examined(case_of(folder, "plain"), run, folder.parent / "out", {})
    assert (result.status, result.reason, result.as_expected) == (status, str(raised), False)
    measured = case_of(folder, "plain", "plain,Right lung,volume_mL,1990,10")
    missed = examined(measured, run, folder.parent / "out", {})
    assert [each.within for each in missed.differences] == [False]  # it counts among those that are judged
    wanted = examined(case_of(folder, "plain", "plain,,status,refused,"), run, folder.parent / "out", {})
    assert wanted.as_expected is (status == "refused")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("case,region\n", r"no line below the header"),
        (
            "case,region\nplain,x\n",
            r"expected.csv:2: the columns are case,region,measurement,expected,tolerance",
        ),
        (
            "case,region,measurement,expected\nplain,x,volume_mL,many\n",
            r"csv:2: expected 'many' is no number",
        ),
        (
            "case,region,measurement,expected,tolerance\nplain,x,v,1,-1\n",
            r"csv:2: tolerance '-1' is no number",
        ),
        (
            "case,region,measurement,expected\nplain,,status,fine\n",
            r"csv:2: a status is one of done, not_appl",
        ),
        (
            "case,region,measurement,expected\nplane,,status,done\n",
            r"there is no case 'plane' in .*, only drawn, outlined, plain",
        ),
    ],
)
def test_what_is_wrong_in_the_csv_is_named(
    folder: Path,
    content: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder.parent / "expected.csv").write_text(content)
    site(folder.parent, monkeypatch)
    assert (
        main(["validate-site", "cases", "--app", "a", "--expected", "expected.csv", "--out", "report"]) == 2
    )
    assert re.search(message, capsys.readouterr().err)
    assert not (folder.parent / "report").exists()


def test_cases_are_known_by_their_bytes(folder: Path) -> None:
    before = {case.name: case.digest for case in cases_below(folder, None)}
    assert len(set(before.values())) == 1  # the same images, whatever is drawn on them
    image = next((folder / "plain" / "images").iterdir())
    image.write_bytes(image.read_bytes()[:-2] + b"\1\1")
    after = {case.name: case.digest for case in cases_below(folder, None)}
    assert after["plain"] != before["plain"]
    assert after["drawn"] == before["drawn"]
    (folder / "empty").mkdir()
    with pytest.raises(UnreadableInput, match="case empty: there are no DICOM images"):
        cases_below(folder, None)


APP = """
from isocenter_operators.run import Outcome, StoredInstance

class App:
    def __init__(self, task):
        self.task = task

    def execute(self):
        (self.task.sink.path / "r.dcm").write_bytes(b"")
        stored = StoredInstance("1.2", "2.25.1", "2.25.2", "1.2.3", "SR", self.task.sink.path / "r.dcm")
        return Outcome("done", "", ({"label": "Right <lung>", "notes": [], "volume_mL": 2000.0},), (), (stored,), {})

def application(task):
    return App(task)
"""


def site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "apps" / "a").mkdir(parents=True)
    (folder / "apps" / "a" / "app.py").write_text(APP)
    (folder / "apps" / "a" / "app.yaml").write_text(
        yaml.safe_dump({"application": {"title": "A", "version": "1.2"}})
    )
    (folder / "isocenter.yaml").write_text("routes: []\n")
    monkeypatch.chdir(folder)


def test_the_report_says_what_was_run_and_what_came_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    site(folder.parent, monkeypatch)
    (folder.parent / "expected.csv").write_text(
        "case,region,measurement,expected,tolerance\ndrawn,Right <lung>,volume_mL,1900,50\n"
        "plain,Right <lung>,volume_mL,1990,50\n"
    )
    words = [
        "validate-site",
        "cases",
        "--app",
        "a",
        "--expected",
        "expected.csv",
        "--intended-use",
        "Lungs & all",
    ]
    assert main([*words, "--out", "report", "--json"]) == 1
    document = json.loads(capfd.readouterr().out)
    assert document == json.loads(Path("report/report.json").read_text())
    assert (document["application"], document["version"], document["intended_use"]) == (
        "a",
        "1.2",
        "Lungs & all",
    )
    assert document["summary"]["states"] == {"done": 3}
    # Of two a tolerance was given for, one is within; `drawn` and `outlined` have references, and there is no SEG.
    assert (document["summary"]["within"]["count"], document["summary"]["within"]["of"]) == (1, 2)
    assert document["summary"]["differences"]["Right <lung>: volume (mL)"]["median"] == 55.0
    assert document["summary"]["differences"]["Right <lung>: volume (mL)"]["low"] is None  # of two values
    assert [case["as_expected"] for case in document["cases"]] == [False, False, True]
    page = Path("report/report.html").read_text()
    for said in (
        "Lungs &amp; all",
        "Right &lt;lung&gt;: volume (mL) is 2000.00, expected 1900",
        "none: fewer than six",
    ):
        assert said in page
    assert "<lung>" not in page
    with Path("report/measurements.csv").open(newline="") as file:
        assert [row["within"] for row in csv.DictReader(file)] == ["False", "True"]
    with Path("report/cases.csv").open(newline="") as file:
        assert {row["images_sha256"] for row in csv.DictReader(file)} == {
            document["cases"][0]["images_sha256"]
        }
    assert main([*words, "--out", "report"]) == 2
    assert "a report is written into a new folder" in capfd.readouterr().err


@pytest.mark.parametrize(("count", "of"), [(0, 1), (0, 5), (1, 3), (7, 9), (5, 5), (29, 40)])
def test_a_proportions_interval_is_the_exact_one(count: int, of: int) -> None:
    found = proportion(count, of)
    assert found is not None

    def at_least(k: int, p: float) -> float:
        return sum(comb(of, n) * p**n * (1 - p) ** (of - n) for n in range(k, of + 1))

    # At either end the outcome, or one that is further away, has 2.5 %.
    assert found.low == 0.0 if count == 0 else at_least(count, found.low) == pytest.approx(0.025)
    assert found.high == 1.0 if count == of else 1 - at_least(count + 1, found.high) == pytest.approx(0.025)
    assert proportion(0, 0) is None


# The places of the two values, counted from either end: from tables of the sign test's interval.
@pytest.mark.parametrize(
    ("n", "place"), [(1, 0), (5, 0), (6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (20, 6), (50, 18)]
)
def test_a_medians_interval_lies_between_two_values(n: int, place: int) -> None:
    found = spread([float(each) for each in reversed(range(1, n + 1))])
    assert found is not None
    assert (found.low, found.high) == ((None, None) if place == 0 else (float(place), float(n + 1 - place)))
    assert found.median == (n + 1) / 2
    assert (found.smallest, found.largest) == (1.0, float(n))
    assert spread([]) is None


def test_nothing_of_a_patient_is_in_a_result(phantom: tuple[Volume, NDArray[np.uint8]], folder: Path) -> None:
    result = examined(case_of(folder, "drawn"), application(phantom), folder.parent / "out", {})
    assert isinstance(result, CaseResult)
    name = str(phantom[0].sources[0].PatientName)
    assert name
    assert name not in json.dumps(result.as_json(), default=str)
