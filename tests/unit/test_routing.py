"""The rules: what fires, what does not and why, and that no reason tells who the patient is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isocenter.arrivals import Arrivals, Verdict, fingerprint
from isocenter.pacs import ArchiveSeries
from isocenter.rules import Series, explain, problems
from isocenter.settings import Route, Settings

CT: dict[str, Any] = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "Modality": "CT",
    "SeriesDescription": "Thorax 1.0 lung",
    "SliceThickness": "1.25",
    "ImageType": "ORIGINAL\\PRIMARY\\AXIAL",
    "ImageOrientationPatient": "1\\0\\0\\0\\1\\0",
    "PatientName": "Doe^Jane",
    "PatientID": "4711",
    "ReferringPhysicianName": "House^Gregory",
    "PatientAge": "065Y",
}


def series(instances: int = 100, **attributes: str) -> Series:
    return Series("1.2", "1.2.3", instances, {**CT, **attributes})


def reason(when: dict[str, Any], looked_at: Series | None = None, min_instances: int = 1) -> str:
    route = Route(name="r", application="a", when=when, min_instances=min_instances)
    (verdict,) = explain([route], looked_at or series())
    assert verdict.wanted == (verdict.reason == "")
    return verdict.reason


@pytest.mark.parametrize(
    "when",
    [
        {},
        {"Modality": "ct"},
        {"Modality": "^CT$", "SeriesDescription": "lung$"},
        {"SliceThickness": 1.25},
        {"SliceThickness": [1, 1.25]},
        {"SliceThickness": [2, "<"]},
        {"SliceThickness": [2, "!="]},
        {"SliceThickness": r"1\.\d+"},
        {"ImageType": ["primary", "!SECONDARY"]},
        {"ImageType": "AXIAL"},
        {"ImageOrientationPatient": "Axial"},
        {"PatientName": "doe"},
    ],
)
def test_a_condition_that_is_met(when: dict[str, Any]) -> None:
    assert reason(when) == ""


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ({"Modality": "MR"}, "Modality is 'CT', and should be like 'MR'"),
        ({"BodyPartExamined": "CHEST"}, "BodyPartExamined has no value, and should be like 'CHEST'"),
        ({"SliceThickness": [2, 5]}, "SliceThickness is '1.25', and should be from 2 to 5"),
        ({"SliceThickness": [2, ">"]}, "SliceThickness is '1.25', and should be > 2"),
        ({"SliceThickness": "1"}, "SliceThickness is '1.25', and should be like '1'"),
        (
            {"ImageType": ["!ORIGINAL"]},
            "ImageType is 'ORIGINAL\\\\PRIMARY\\\\AXIAL', and should be with !ORIGINAL",
        ),
        (
            {"ImageOrientationPatient": "Coronal"},
            "ImageOrientationPatient is '1\\\\0\\\\0\\\\0\\\\1\\\\0', and should be like 'Coronal'",
        ),
        ({"Modality": "CT", "PatientAge": "^0[0-5]"}, "PatientAge is '065Y', and should be like '^0[0-5]'"),
    ],
)
def test_a_condition_that_is_not_met_is_told_with_the_value_seen(when: dict[str, Any], why: str) -> None:
    assert reason(when) == why


def test_too_few_instances() -> None:
    assert reason({}, series(instances=3), min_instances=20) == "3 instances, and should be 20 or more"


@pytest.mark.parametrize(
    ("keyword", "secret"),
    [("PatientName", "Doe"), ("PatientID", "4711"), ("ReferringPhysicianName", "House")],
)
def test_who_the_patient_is_stays_out_of_the_reason(keyword: str, secret: str) -> None:
    why = reason({keyword: "somebody else"})
    assert "withheld" in why
    assert secret not in why


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"])
def test_our_own_results_are_not_analysed_again(sop_class: str) -> None:
    ours = series(SOPClassUID=sop_class, Manufacturer="Isocenter")
    theirs = series(SOPClassUID=sop_class, Manufacturer="Another")
    assert reason({}, ours) == "Isocenter made it"
    assert reason({}, theirs) == ""


def test_a_phantom_of_ours_is_analysed() -> None:
    assert reason({}, series(Manufacturer="Isocenter")) == ""


def test_rules_that_can_not_work_are_named() -> None:
    routes = [
        Route(name="one", application="here", when={"Modalty": "CT"}),
        Route(name="one", application="gone", when={"Modality": "(", "SliceThickness": [1, "=>"]}),
    ]
    found = "\n".join(problems(routes, {"here"}))
    assert "routes.0 (one): Modalty: not a DICOM keyword" in found
    assert "there is no application 'gone'" in found
    assert "another rule has this name too" in found
    assert "Modality: '(' is not a regular expression" in found
    assert "SliceThickness: [1, '=>'] is neither a range" in found
    assert problems(Settings().routes, {"ct_lung_density"}) == []


def test_an_arrival_settles_anew_only_when_its_instances_change(tmp_path: Path) -> None:
    arrivals = Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}")
    assert arrivals.position() is None
    first = ArchiveSeries("r1", "1.2", "1.2.3", frozenset({"a", "b"}))
    arrivals.record(7, [first], now=100.0)
    (arrival,) = arrivals.settling()
    assert (arrival.instances, arrival.changed_at, arrival.fingerprint) == (2, 100.0, fingerprint("ba"))
    verdict = Verdict("r", "a", "f" * 64, "")
    arrivals.judge(arrival, [verdict])
    assert arrivals.settling() == []

    arrivals.record(9, [first], now=200.0)
    assert arrivals.settling() == []

    more = ArchiveSeries("r1", "1.2", "1.2.3", frozenset({"a", "b", "c"}))
    arrivals.record(11, [more], now=300.0)
    (again,) = Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}").settling()
    assert (again.instances, again.changed_at, again.verdicts) == (3, 300.0, (verdict,))
    assert arrivals.position() == 11

    # A judgement that comes too late, for the set as it was, changes nothing.
    arrivals.judge(arrival, [])
    assert len(arrivals.settling()) == 1
