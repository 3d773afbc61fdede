"""The rules: what fires, what does not and why, and that no reason tells who the patient is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ports import free_port
from pydicom import dcmread
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from served import served
from starlette.applications import Starlette

from isocenter.catalog import Catalog
from isocenter.cli import main
from isocenter.pacs import Orthanc
from isocenter.route import Route
from isocenter.rules import (
    Series,
    attributes_of,
    explain,
    judge,
    place_in_series,
    priority_of,
    problems,
    refuse_wrong_rules,
    why_not,
)
from isocenter.rules.attribute import attribute
from isocenter.settings import OrthancSettings, Settings
from isocenter_operators.errors import ConfigurationError

ROOT = Path(__file__).parents[2]

CT: dict[str, Any] = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "Modality": "CT",
    "SeriesDescription": "Thorax 1.0 lung",
    "SliceThickness": "1.25",
    "PixelSpacing": "0.7\\0.8",
    "ImageType": "ORIGINAL\\PRIMARY\\AXIAL",
    "ImageOrientationPatient": "1\\0\\0\\0\\1\\0",
    "PatientName": "Doe^Jane",
    "PatientID": "4711",
    "PatientBirthDate": "19600229",
    "StudyDate": "20240228",
    "ReferringPhysicianName": "House^Gregory",
    "PatientAge": "065Y",
    "AccessionNumber": "4712",
    "RequestAttributesSequence": [
        {"RequestedProcedureID": "4713", "RequestedProcedureDescription": "CT chest"},
        {"RequestedProcedureDescription": "CT abdomen", "ReasonForRequestedProcedureCodeSequence": []},
    ],
    "0019,100c": "4714",
}


def never() -> Sequence[Mapping[str, Any]]:
    raise AssertionError("nothing needs every instance")


def series(instances: int = 100, uid: str = "1.2.3", **attributes: Any) -> Series:
    return Series("1.2", uid, instances, {**CT, **attributes}, never)


def slices(*positions_mm: float, uid: str = "1.2.3", **attributes: Any) -> Series:
    """A series with a slice at each place along z."""
    each = [{**CT, **attributes, "ImagePositionPatient": f"0\\0\\{z}"} for z in positions_mm]
    return Series("1.2", uid, len(each), each[0], lambda: each)


def reason(when: dict[str, Any], looked_at: Series | None = None, *others: Series, least: int = 1) -> str:
    route = Route(name="r", application="a", when=when, min_instances=least)
    asked = looked_at or series()
    assert problems([route], {"a"}) == []
    answer = judge(route, [asked, *others], asked)
    assert answer.wanted == (answer.reason == "") == bool(answer.series_uids)
    return answer.reason


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
        {"0008,0060": "CT"},
        {"(0008,0060)": "CT"},
        {"0019,100C": {"exists": True}},
        {"RequestAttributesSequence.RequestedProcedureDescription": "abdomen"},
        {"RequestAttributesSequence": {"count": 2}},
        {"RequestAttributesSequence.ReasonForRequestedProcedureCodeSequence.CodeValue": {"exists": False}},
        {"ImageType": {"equals": ["ORIGINAL", "PRIMARY", "AXIAL"], "count": {"at_least": 3}}},
        {"ImageType": {"equals": "original"}},
        {"ImageType": {"one_of": ["MPR", "AXIAL"], "not": {"one_of": ["DERIVED", "SECONDARY"]}}},
        {"SeriesDescription": {"matches": r"\blung$", "not": "scout"}},
        {"SliceThickness": {"equals": 1.250, "between": [1, 2], "at_most": 1.25}},
        {"StudyDate": {"at_least": 20240101}},
        {"StudyDate": [20240101, 20241231]},
        {"StudyDate": [20240101, ">="]},
        {"contrast": {"exists": False}, "instances": {"at_least": 1}},
        {"BodyPartExamined": {"exists": False}},
        {"BodyPartExamined": {"not": "HEAD"}},
        {"BodyPartExamined": {"count": 0}},
        {"instances": 100, "pixel_spacing_mm": [0.7, 0.8], "slice_thickness_mm": {"at_most": 1.25}},
        {"orientation": "Axial", "age_years": {"at_least": 65, "not": {"between": [70, 80]}}},
        {"orientation": {"one_of": ["axial", "oblique"], "not": "oblique"}},
        {"contrast": {"exists": False}},
        {"any_of": [{"Modality": "MR"}, {"Modality": "CT"}]},
        {"not": {"Modality": "CT", "BodyPartExamined": "HEAD"}},
        {"any_series": {"Modality": "CT"}, "no_series": {"Modality": "SEG"}, "series_count": 1},
        {"any_instance": {"Modality": "CT"}},
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
        ({"Modality": {"equals": "C"}}, "Modality is 'CT', and should be 'C'"),
        ({"Modality": {"one_of": ["MR", "PT"]}}, "Modality is 'CT', and should be one of 'MR', 'PT'"),
        ({"Modality": {"not": "^c"}}, "Modality is 'CT', and should not be like '^c'"),
        ({"Modality": {"exists": False}}, "Modality is 'CT', and should have no value"),
        ({"BodyPartExamined": {"exists": True}}, "BodyPartExamined has no value, and should have a value"),
        ({"ImageType": {"count": {"at_least": 4}}}, "ImageType has 3, and should have at least 4 values"),
        ({"PixelSpacing": {"at_least": 0.71, "at_most": 0.79}}, "from"),
        (
            {"pixel_spacing_mm": {"at_most": 0.75}},
            "pixel_spacing_mm is 0.7 and 0.8, and should be at most 0.75",
        ),
        ({"orientation": "coronal"}, "orientation is axial, and should be coronal"),
        (
            {"contrast": False},
            "contrast is unknown (nothing in the Contrast/Bolus module tells), and should be false",
        ),
        (
            {"any_of": [{"Modality": "MR"}, {"instances": 3}]},
            "any_of: none holds (Modality is 'CT', and should",
        ),
        ({"not": {"Modality": "CT"}}, "not: Modality is 'CT', which should not be"),
        ({"any_series": {"Modality": "SR"}}, "any_series with Modality like 'SR': none of 1"),
        ({"no_series": {"Modality": {"equals": "CT"}}}, "no_series with Modality 'CT': 1 of 1"),
        (
            {"series_count": {"when": {"Modality": "CT"}, "at_least": 2}},
            "1 of 1 series with Modality like 'CT', and",
        ),
        ({"age_years": [0, 17]}, "age_years is 65, and should be from 0 to 17"),
    ],
)
def test_a_condition_that_is_not_met_is_told_with_the_value_seen(when: dict[str, Any], why: str) -> None:
    if why == "from":
        why = "PixelSpacing is '0.7\\\\0.8', and should be at least 0.71 and at most 0.79"
    assert why in reason(when)


def test_too_few_instances() -> None:
    assert reason({}, series(instances=3), least=20) == "3 instances, and should be 20 or more"


SECRETS = ("Doe", "doe", "House", "4711", "4712", "4713", "4714", "1960")


@pytest.mark.parametrize(
    "condition",
    [
        {"PatientName": "somebody else"},
        {"PatientName": {"not": "doe"}},
        {"PatientID": ["!4711"]},
        {"PatientID": {"not": {"one_of": ["4711"]}}},
        {"ReferringPhysicianName": {"count": 3}},
        {"PatientBirthDate": {"at_most": 1}},
        {"AccessionNumber": "x"},
        {"RequestAttributesSequence.RequestedProcedureID": {"not": {"equals": "4713"}}},
        {"0019,100c": {"not": "4714"}},
        {"0010,0010": {"exists": False}},
        {"not": {"PatientName": "doe"}},
        {"no_series": {"PatientID": "4711"}},
        {"every_instance": {"PatientID": {"not": "4711"}}},
        {"any_of": [{"PatientID": {"not": "4711"}}]},
        {"series_count": {"when": {"PatientName": "Doe"}, "at_least": 2}},
        {"selection": {"selections": [{"name": "s", "conditions": {"PatientID": "9"}}]}},
    ],
)
def test_who_the_patient_is_stays_out_of_the_reason(condition: dict[str, Any]) -> None:
    one = series(instances=1)
    why = reason(condition, Series("1.2", "1.2.3", 1, one.attributes, lambda: [one.attributes]))
    assert "withheld" in why
    assert not any(secret in why for secret in SECRETS)


@pytest.mark.parametrize(
    "name",
    [
        "PerformedProcedureStepID",
        "CommentsOnThePerformedProcedureStep",
        "OrderCallbackPhoneNumber",
        "PlacerOrderNumberProcedure",
        "FrameComments",
        "AcquisitionComments",
        "ReasonForStudy",
        "ReasonForVisit",
        "IdentifyingComments",
        "InterpretationText",
        "AdmittingDiagnosesDescription",
    ],
)
def test_free_text_and_numbers_that_lead_to_the_patient_are_withheld(name: str) -> None:
    why = reason({name: {"not": "secret"}}, series(**{name: "secret 4711"}))
    assert why == f"{name} is not what the rule asks for (withheld)"


def test_every_attribute_that_sounds_like_free_text_about_somebody_is_withheld() -> None:
    sounds = re.compile(
        "Comment|Reason(?!forCh|ForOm|ForSup)|Phone|Telecom|Diagnos[ei]s|Accession|Admission|OrderNumber"
    )
    # Of equipment, of the software, and of a report's own coding.
    others = {
        "ErrorComment",
        "SystemStatusComment",
        "TestResultComment",
        "ReasonForChannelOmissionDescription",
    }
    for vr, _, _, _, keyword in DicomDictionary.values():
        if vr in {"SH", "LO", "UC", "LT", "ST", "UT"} and sounds.search(keyword) and keyword not in others:
            assert attribute(keyword, ()).withheld, keyword


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"])
def test_our_own_results_are_not_analysed_again_and_are_no_series_of_the_study(sop_class: str) -> None:
    ours = series(SOPClassUID=sop_class, Manufacturer="Isocenter", uid="9")
    theirs = series(SOPClassUID=sop_class, Manufacturer="Another", uid="8")
    assert reason({}, ours) == "Isocenter made it"
    assert reason({}, theirs) == ""
    assert reason({"series_count": 1}, series(), ours) == ""
    assert "2 of 2 series" in reason({"series_count": 1}, series(), theirs)
    whole = Route(name="r", application="a", scope="study")
    assert judge(whole, [series(), ours], None).series_uids == ("1.2.3",)
    assert not judge(whole, [ours], None).wanted


def test_a_phantom_of_ours_is_analysed() -> None:
    assert reason({}, series(Manufacturer="Isocenter")) == ""


def test_lengths_are_compared_as_people_write_them() -> None:
    thin = slices(*(round(0.7 * index, 1) for index in range(10)))
    assert thin.stack.spacing_mm == 0.7  # type: ignore[union-attr]
    assert reason({"slice_spacing_mm": {"at_most": 0.7}, "coverage_mm": 6.3}, thin) == ""
    assert reason({"slice_spacing_mm": 0.7, "coverage_mm": {"at_least": 6.3}}, thin) == ""


def test_slices_are_places_not_instances() -> None:
    scan = slices(0, 5, 10, 0, 5, 10)  # two phases
    assert reason({"slices": 3, "instances": 6}, scan) == ""
    assert reason({"slices": {"at_least": 4}}, scan) == "slices is 3, and should be at least 4"
    assert "slices is unknown (an image has no ImagePositionPatient)" in reason(
        {"slices": 3}, Series("1.2", "1.2.3", 1, CT, lambda: [CT])
    )


def test_the_first_instance_is_the_same_one_everywhere() -> None:
    places = [("2", "1.1"), ("10", "1.2"), ("", "1.0"), ("2", "1.0"), ("x", "0.1")]
    assert sorted(places, key=lambda each: place_in_series(*each)) == [
        ("2", "1.0"), ("2", "1.1"), ("10", "1.2"), ("x", "0.1"), ("", "1.0")
    ]  # fmt: skip


def test_geometry_is_that_of_every_slice_in_any_order() -> None:
    scan = slices(10, 0, 5, 15, 15, 20.0)  # one place twice: two time points
    assert reason({"coverage_mm": 20, "slice_spacing_mm": 5}, scan) == ""
    assert reason({"coverage_mm": [1, 2]}, scan) == "coverage_mm is 20, and should be from 1 to 2"
    # Along the normal: a sagittal stack does not extend in z.
    assert reason({"coverage_mm": 0}, slices(0, 5, ImageOrientationPatient="0\\1\\0\\0\\0\\1")) == ""
    assert "slice_spacing_mm is unknown (all slices lie at one place)" in reason(
        {"slice_spacing_mm": 1}, slices(3)
    )


def test_a_series_in_several_orientations_has_no_coverage() -> None:
    each = [dict(slices(z).attributes) for z in (0, 1)]
    each[1]["ImageOrientationPatient"] = "0\\1\\0\\0\\0\\1"
    scout = Series("1.2", "1.2.3", 2, each[0], lambda: each)
    assert "several orientations" in reason({"coverage_mm": {"at_least": 0}}, scout)
    assert reason({"any_instance": {"orientation": "sagittal"}}, scout) == ""
    assert "every_instance: orientation is sagittal, and should be axial (1 of 2 instances)" in reason(
        {"every_instance": {"orientation": "axial"}}, scout
    )


def test_a_multi_frame_instance_has_the_geometry_of_its_frames() -> None:
    shared = {
        "PlaneOrientationSequence": [{"ImageOrientationPatient": "1\\0\\0\\0\\0.8\\0.6"}],
        "PixelMeasuresSequence": [{"PixelSpacing": "0.5\\0.5", "SliceThickness": "3"}],
        "ContrastBolusUsageSequence": [{"ContrastBolusAgentAdministered": "NO"}],
    }
    frames = [
        {"PlanePositionSequence": [{"ImagePositionPatient": f"0\\{-0.6 * d}\\{0.8 * d}"}]} for d in (0, 4, 8)
    ]
    attributes = {
        "Modality": "MR",
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": frames,
    }
    scan = Series("1.2", "1.2.3", 1, attributes, lambda: [attributes])
    when = {"coverage_mm": [7.99, 8.01], "slice_spacing_mm": [3.99, 4.01], "pixel_spacing_mm": 0.5}
    assert reason({**when, "slice_thickness_mm": 3, "orientation": "axial", "contrast": False}, scan) == ""


@pytest.mark.parametrize(
    ("cosines", "plane"),
    [
        ("1\\0\\0\\0\\1\\0", "axial"),
        ("0.7071\\0.7071\\0\\-0.7071\\0.7071\\0", "axial"),  # turned in its plane
        ("1\\0\\0\\0\\0.9063\\0.4226", "axial"),  # tilted by 25 degrees
        ("1\\0\\0\\0\\0.7071\\0.7071", "oblique"),
        ("1\\0\\0\\0\\0\\-1", "coronal"),
        ("0\\1\\0\\0\\0\\-1", "sagittal"),
    ],
)
def test_orientation(cosines: str, plane: str) -> None:
    assert reason({"orientation": plane}, series(ImageOrientationPatient=cosines)) == ""


@pytest.mark.parametrize(
    "cosines", ["", "1\\0\\0", "1\\0\\0\\1\\0\\0", "0\\0\\0\\0\\0\\0", "nan\\0\\0\\0\\1\\0", "a"]
)
def test_an_orientation_that_is_none_is_unknown(cosines: str) -> None:
    scan = series(ImageOrientationPatient=cosines)
    assert "orientation is unknown" in reason({"orientation": "axial"}, scan)
    assert "orientation is unknown" in reason({"not": {"orientation": "axial"}}, scan)


@pytest.mark.parametrize(
    ("attributes", "known"),
    [
        ({"ContrastBolusAgent": "Iohexol"}, True),
        ({"ContrastBolusAgentSequence": [{"CodeValue": "C-B0300"}]}, True),
        ({"ContrastBolusVolume": "80"}, True),
        ({"ContrastBolusAgent": "NONE"}, False),
        ({"ContrastBolusAgent": "no contrast"}, False),
        ({"ContrastBolusAgent": "", "ContrastBolusVolume": "0"}, False),
        ({"ContrastBolusAgent": "NO IV, ORAL"}, None),
        ({"ContrastBolusAgent": ""}, None),
        ({"ContrastBolusAgentSequence": []}, None),
        ({"ImageComments": "contrast"}, None),
    ],
)
def test_contrast_is_what_the_header_says_and_unknown_where_it_says_nothing(
    attributes: dict[str, Any], known: bool | None
) -> None:
    for asked in (True, False):
        assert (reason({"contrast": asked}, series(**attributes)) == "") is (known is asked)
        assert (reason({"not": {"contrast": asked}}, series(**attributes)) == "") is (known is (not asked))
    assert (reason({"contrast": {"exists": True}}, series(**attributes)) == "") is (known is not None)


@pytest.mark.parametrize(
    ("age", "birth", "study", "from_years", "to_years"),
    [
        ("018M", "", "", 1.5, 1.5),
        ("010D", "", "", 0.02, 0.03),
        ("006W", "", "", 0.11, 0.12),
        ("", "19600229", "20240228", 63.9, 63.999),
        ("", "19600229", "20240229", 64, 64),
        ("", "19600229", "20230301", 63, 63),
        ("65Y", "20000101", "20180101", 18, 18),  # no age as DICOM writes one
    ],
)
def test_age(age: str, birth: str, study: str, from_years: float, to_years: float) -> None:
    scan = series(PatientAge=age, PatientBirthDate=birth, StudyDate=study)
    assert reason({"age_years": [from_years, to_years]}, scan) == ""


def test_an_age_is_told_in_whole_years_which_do_not_give_the_date_of_birth() -> None:
    scan = series(PatientAge="", PatientBirthDate="20060615", StudyDate="20240301")
    assert (
        reason({"age_years": {"at_least": 18}}, scan)
        == "age_years is 17 (whole years), and should be at least 18"
    )
    assert reason({"age_years": [0, 17]}, scan) == "age_years is 17 (whole years), and should be from 0 to 17"
    assert "age_years is 17 (whole years)" in reason({"not": {"age_years": {"at_most": 18}}}, scan)


def test_no_age_without_dates() -> None:
    scan = series(PatientAge="", PatientBirthDate="20240101", StudyDate="20230101")
    assert "age_years is unknown" in reason({"age_years": [0, 200]}, scan)


def test_every_instance_is_asked_for_once_and_only_where_a_condition_needs_it() -> None:
    asked = []

    def every() -> Sequence[Mapping[str, Any]]:
        asked.append(1)
        return [{**CT, "ImagePositionPatient": f"0\\0\\{z}", "EchoTime": str(z)} for z in range(3)]

    scan = Series("1.2", "1.2.3", 3, CT, every)
    assert "Modality" in reason({"Modality": "MR", "coverage_mm": 2}, scan)
    assert reason({"any_instance": {"Modality": "CT"}}, scan) == ""  # the first one does
    assert "MR" in reason({"every_instance": {"Modality": "MR"}}, scan)  # the first one does not
    assert asked == []
    assert (
        reason(
            {"coverage_mm": 2, "any_instance": {"EchoTime": 2}, "every_instance": {"Modality": "CT"}}, scan
        )
        == ""
    )
    assert "none of 3" in reason({"any_instance": {"EchoTime": 7}}, scan)
    assert (
        reason({"every_instance": {"EchoTime": 7}}, scan)
        == "every_instance: EchoTime has no value, and should be 7"  # the first one's
    )
    assert "every_instance: EchoTime is '1', and should be < 1 (2 of 3 instances)" in reason(
        {"every_instance": {"EchoTime": [1, "<"]}}, Series("1.2", "1.2.3", 3, {**CT, "EchoTime": "0"}, every)
    )
    assert asked == [1, 1]


def test_instances_that_are_gone_meet_nothing() -> None:
    gone = Series("1.2", "1.2.3", 3, CT, lambda: [])
    assert "not there" in reason({"every_instance": {"Modality": "CT"}}, gone)
    assert "coverage_mm is unknown" in reason({"coverage_mm": {"at_least": 0}}, gone)


def test_unknown_in_the_study_is_told_apart_from_none() -> None:
    plain, given_ = series(uid="1"), series(uid="2", ContrastBolusAgent="Iohexol")
    assert reason({"any_series": {"contrast": True}}, plain, given_) == ""
    assert "nobody can tell" in reason({"no_series": {"contrast": True}}, plain)
    assert "1 of 2 series" in reason(
        {"series_count": {"when": {"contrast": True}, "equals": 1}}, plain, given_
    )
    assert reason({"series_count": {"when": {"contrast": True}, "at_least": 1}}, plain, given_) == ""
    # One that is known to fail decides, whatever is unknown beside it.
    assert reason({"not": {"contrast": True, "Modality": "MR"}}, plain) == ""


STUDY = [
    series(uid="1", Modality="MR", SeriesDescription="localizer", instances=3),
    series(uid="2", Modality="MR", SeriesDescription="T1 post"),
    series(uid="3", Modality="MR", SeriesDescription="FLAIR"),
    series(uid="4", Modality="SR"),
]


def test_a_study_is_all_series_that_are_wanted() -> None:
    route = Route(name="r", application="a", scope="study", when={"Modality": "MR"}, min_instances=20)
    assert judge(route, STUDY, None).series_uids == ("2", "3")
    none = judge(Route(name="r", application="a", scope="study", when={"Modality": "PT"}), STUDY, None)
    assert (none.wanted, none.series_uids) == (False, ())
    assert none.reason == "none of 4 series; the nearest, 1: Modality is 'MR', and should be like 'PT'"
    assert not judge(route, [], None).wanted


def expecting(**whens: str) -> Route:
    expect = [{"name": name, "when": {"SeriesDescription": text}} for name, text in whens.items()]
    return Route(name="r", application="a", scope="study", when={"Modality": "MR"}, expect=expect)


def test_a_study_is_exactly_the_expected_series() -> None:
    found = judge(expecting(flair="FLAIR", t1="T1"), STUDY, None)
    assert (found.wanted, found.series_uids, found.missing) == (True, ("2", "3"), ())
    lacking = judge(expecting(t1="T1", t2="T2"), STUDY, None)
    assert (lacking.wanted, lacking.series_uids, lacking.missing) == (False, ("2",), ("t2",))
    assert lacking.reason.startswith(
        "t2 is not there: none of 3 series; the nearest, 1: SeriesDescription is"
    )


def test_no_series_stands_for_two_expected_ones() -> None:
    route = expecting(t1="T1", t1_post="T1 post")
    assert judge(route, STUDY, None).missing == ("t1_post",) or judge(route, STUDY, None).missing == ("t1",)
    plain = series(uid="5", Modality="MR", SeriesDescription="T1")
    assert judge(route, [*STUDY, plain], None).series_uids == ("2", "5")
    assert judge(route, [plain, *STUDY], None).series_uids == ("5", "2")


def test_priority_is_the_most_urgent_that_holds() -> None:
    priority = {
        "batch": {},
        "STAT": {"SeriesDescription": "stroke"},
        "urgent": {"any_series": {"Modality": "SR"}},
    }
    route = Route(name="r", application="a", priority=priority)
    assert priority_of(route, [series()], series()) == "batch"
    assert priority_of(route, STUDY, STUDY[0]) == "urgent"
    stroke = series(SeriesDescription="Stroke")
    assert priority_of(route, [stroke], stroke) == "STAT"
    assert priority_of(route, [*STUDY, stroke], None) == "STAT"
    assert (
        priority_of(Route(name="r", application="a", priority={"STAT": {"Modality": "US"}}), STUDY, None)
        == "routine"
    )
    assert priority_of(Route(name="r", application="a", priority="urgent"), [], None) == "urgent"


def test_priors_are_chosen_by_the_same_conditions() -> None:
    assert why_not({"Modality": "CT"}, [series()], series()) == ""
    assert why_not({"Modality": "MR"}, [series()], series()) == "Modality is 'CT', and should be like 'MR'"


@pytest.mark.parametrize(
    ("when", "place", "message"),
    [
        ({"Modalty": "CT"}, ("Modalty",), "not a DICOM keyword; did you mean Modality?"),
        ({"modality": "CT"}, ("modality",), "did you mean Modality?"),
        ({"coverage": 3}, ("coverage",), "did you mean coverage_mm?"),
        ({"any_serie": {}}, ("any_serie",), "did you mean any_series?"),
        ({"Modality": "("}, ("Modality",), "'(' is not a regular expression"),
        ({"Modality": None}, ("Modality",), "None is no condition"),
        ({"Modality": True}, ("Modality",), "True is no condition"),
        ({"Modality": {"equal": "CT"}}, ("Modality", "equal"), "did you mean equals?"),
        ({"Modality": {"matches": "["}}, ("Modality", "matches"), "not a regular expression"),
        ({"Modality": {"not": {"exists": "yes"}}}, ("Modality", "not", "exists"), "neither true nor false"),
        ({"Modality": {}}, ("Modality",), "an empty condition"),
        ({"SliceThickness": [1, "=>"]}, ("SliceThickness",), "[1, '=>'] is neither a range"),
        ({"SliceThickness": [3, 1]}, ("SliceThickness",), "the lower number comes first"),
        ({"SliceThickness": {"equals": "thin"}}, ("SliceThickness", "equals"), "not a number"),
        ({"PatientAge": [50, 80]}, ("PatientAge",), "age_years takes numbers"),
        ({"PatientAge": {"at_least": 18}}, ("PatientAge",), "age_years takes numbers"),
        ({"SeriesDescription": [2, ">"]}, ("SeriesDescription",), "holds text"),
        ({"ImageOrientationPatient": "oblique"}, ("ImageOrientationPatient",), "none of Axial"),
        ({"RequestAttributesSequence": "x"}, ("RequestAttributesSequence",), "a sequence has no value"),
        ({"Modality.CodeValue": "x"}, ("Modality.CodeValue",), "Modality is no sequence"),
        ({"PixelData": {"exists": True}}, ("PixelData",), "holds bytes"),
        ({"orientation": "axail"}, ("orientation",), "did you mean axial?"),
        ({"orientation": ["axial"]}, ("orientation",), "one_of"),
        ({"contrast": "yes"}, ("contrast",), "neither true nor false"),
        ({"coverage_mm": "200"}, ("coverage_mm",), "no condition on a number"),
        ({"coverage_mm": {"atleast": 2}}, ("coverage_mm", "atleast"), "did you mean at_least?"),
        ({"any_of": {}}, ("any_of",), "a list of conditions"),
        ({"StudyDate": ["20240101", "20241231"]}, ("StudyDate",), "is no range: write two numbers"),
        ({"StudyDate": [20241231, 20240101]}, ("StudyDate",), "the lower number comes first"),
        ({"StudyDate": [20240101]}, ("StudyDate",), "is no range: write two numbers"),
        ({"ProtocolName": [1, 2]}, ("ProtocolName",), "ProtocolName holds text: write each in quotes"),
        ({"PatientAge": 65}, ("PatientAge",), "age_years takes numbers"),
        ({"PatientAge": {"equals": 65}}, ("PatientAge", "equals"), "age_years takes numbers"),
        ({"PatientAge": {"not": {"one_of": [65]}}}, ("PatientAge", "not", "one_of"), "age_years takes"),
        ({"ImageType": {"count": -1}}, ("ImageType", "count"), "no whole number from 0 on meets this"),
        ({"ImageType": {"count": 1.5}}, ("ImageType", "count"), "no whole number from 0 on meets this"),
        ({"instances": 0}, ("instances",), "no whole number from 1 on meets this"),
        ({"series_count": {"at_most": -1}}, ("series_count",), "no whole number from 0 on meets this"),
        ({"coverage_mm": {"at_most": -1}}, ("coverage_mm",), "no number from 0 on meets this"),
        (
            {"SliceThickness": {"at_least": 3, "at_most": 2}},
            ("SliceThickness",),
            "no number meets this, so the rule would never fire",
        ),
        ({"age_years": {"at_least": float("nan")}}, ("age_years",), "no number from 0 on meets this"),
        (
            {"any_of": [{"Modality": "CT"}, {"Modalty": "x"}]},
            ("any_of", 1, "Modalty"),
            "did you mean Modality?",
        ),
        ({"not": {}}, ("not",), "everything would meet them"),
        ({"any_instance": {"coverage_mm": 3}}, ("any_instance", "coverage_mm"), "of a whole series"),
        (
            {"series_count": {"when": {"x": 1}, "at_least": 1}},
            ("series_count", "when", "x"),
            "not a DICOM keyword",
        ),
        ({"series_count": {"when": {"Modality": "CT"}}}, ("series_count",), "no condition on a number"),
        ({"selection": {"selections": []}}, ("selection",), "is expected"),
        ({"selection": "/nowhere.json"}, ("selection",), "/nowhere.json can not be read"),
        (
            {"selection": {"selections": [{"conditions": {"Modalty": "CT"}}]}},
            ("selection", "selections", 0, "conditions", "Modalty"),
            "did you mean Modality?",
        ),
    ],
)
def test_a_condition_that_can_not_work_is_named_and_its_route_wants_nothing(
    when: dict[str, Any], place: tuple[str | int, ...], message: str
) -> None:
    route = Route(name="one", application="here", when=when)
    (problem,) = problems([route], {"here"})
    assert problem.place == ("routes", 0, "when", *place)
    assert message in problem.message
    assert str(problem).startswith("routes.0 (one): when.")
    assert judge(route, [series()], series()).reason.startswith("the rule itself is wrong: ")


def test_what_else_is_wrong_with_a_route() -> None:
    routes = [
        Route(
            name="one", application="here", priority={"STAT": {"Modalty": "CT"}}, priors={"when": {"X": 1}}
        ),
        Route(name="one", application="gone", scope="study", expect=[{"name": "x", "when": {"Y": 1}}]),
    ]
    assert [problem.place for problem in problems(routes, {"here"})] == [
        ("routes", 0, "priority", "STAT", "Modalty"),
        ("routes", 0, "priors", "when", "X"),
        ("routes", 1, "name"),
        ("routes", 1, "applications", 0),
        ("routes", 1, "expect", 0, "when", "Y"),
    ]
    assert problems(Settings().routes, {"ct_lung_density", "thorax_organs"}) == []


def test_a_route_without_the_conditions_that_it_needs_is_refused() -> None:
    empty = Route(
        name="r",
        application="a",
        scope="study",
        expect=[{"name": "x", "when": {}}],
        priority={"STAT": {}, "batch": {}},
    )
    assert [(each.place[2:], each.message) for each in problems([empty], {"a"})] == [
        (("expect", 0, "when"), "no conditions: any series would do"),
        (
            ("priority", "STAT"),
            "no conditions: every job would be STAT; if that is meant, write priority: STAT",
        ),
    ]
    # The last one may be for all others.
    priority = {"STAT": {"Modality": "CT"}, "batch": {}}
    assert problems([Route(name="r", application="a", priority=priority)], {"a"}) == []


def test_known_and_not_true_is_false() -> None:
    plain = series(ContrastBolusAgent="NONE")
    for asked, met in (
        ({"exists": True, "not": True}, plain),
        ({"exists": True, "not": False}, series(ContrastBolusAgent="Iohexol")),
    ):
        assert reason({"contrast": asked}, met) == ""
        assert "contrast is unknown" in reason({"contrast": asked}, series())


def test_wrong_rules_are_refused_with_line_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "isocenter.yaml"
    file.write_text(
        "routes:\n"
        "  - name: chest CT\n"
        "    application: gone\n"
        "    when:\n"
        "      Modality: CT\n"
        "      any_of:\n"
        "        - {Modalty: CT}\n"
    )
    settings = Settings.load(file)
    catalog = Catalog(ROOT / "apps")
    with pytest.raises(ConfigurationError) as refused:
        refuse_wrong_rules(settings, settings.file, catalog)
    assert str(refused.value).splitlines() == [
        f"{file}:3:5: routes.0 (chest CT): application: there is no application 'gone' in apps_dir; "
        f"there are {', '.join(sorted(catalog.names))}",
        f"{file}:7:12: routes.0 (chest CT): when.any_of.0.Modalty: not a DICOM keyword; did you mean Modality?",
    ]
    monkeypatch.setenv(
        "ISOCENTER_ROUTES", '[{"name": "r", "application": "ct_lung_density", "when": {"X": 1}}]'
    )
    settings = Settings.load(file)
    with pytest.raises(
        ConfigurationError, match=r"^environment variable ISOCENTER_ROUTES: routes.0 \(r\): when.X"
    ):
        refuse_wrong_rules(settings, settings.file, catalog)


def test_a_selection_stands_beside_the_file_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    selection = {
        "selections": [{"name": "chest", "conditions": {"Modality": "(?i)CT", "ImageType": ["PRIM", "!SEC"]}}]
    }
    (tmp_path / "site" / "chest.json").write_text(json.dumps(selection))
    file = tmp_path / "site" / "isocenter.yaml"
    file.write_text("routes: [{name: r, application: a, when: {not: {selection: chest.json}}}]")
    (route,) = Settings.load(file).routes
    monkeypatch.chdir(tmp_path / "site")
    assert problems([route], {"a"}) == []
    assert "which should not be" in judge(route, [series()], series()).reason
    assert judge(route, [series()], series(Modality="MR")).wanted


SELECTIONS: list[dict[str, Any]] = [
    {"Modality": "CT"},
    {"Modality": "(?i)^c"},
    {"Modality": "MR", "SeriesDescription": "t2"},
    {"ImageType": ["PRIMARY", "original"]},
    {"ImageType": ["PRIM"]},
    {"ImageType": ["!SECONDARY"]},
    {"ImageType": "ax"},
    {"ImageType": "!adc"},
    {"SliceThickness": [3, 5]},
    {"SliceThickness": [5, ">"]},
    {"SliceThickness": [5, "!="]},
    {"SliceThickness": r"\d\.0+"},
    {"SliceThickness": 1},
    {"SeriesNumber": [0, 5]},
    {"SeriesNumber": r"\d+"},
    {"PixelSpacing": "0.7"},
    {"Rows": 512},
    {"ImageOrientationPatient": "Axial"},
    {"ImageOrientationPatient": "sagittal"},
    {"BodyPartExamined": "", "Modality": "CT"},
    {"StudyDescription": "(.*?)"},
    {"ContrastBolusAgent": "omni"},
    {"PatientPosition": "FFS", "Manufacturer": "ge"},
    {},
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_selection_means_what_it_means_to_the_sdk(test_data: Path) -> None:
    import importlib

    studies_of = importlib.import_module("isocenter_operators.study").studies_of
    operator = importlib.import_module("monai.deploy.operators.dicom_series_selector_operator")
    sdk = operator.DICOMSeriesSelectorOperator.__new__(operator.DICOMSeriesSelectorOperator)
    folders = ["ct-abdomen-41/image", "mr-abdomen/adc_image", "mr-abdomen/t2_image", "ct-chest-275/image"]
    fired = 0
    for folder in folders:
        first = dcmread(min((test_data / folder).glob("*")), stop_before_pixels=True)
        ours = Series("1", "2", 1, attributes_of(first), never)
        for conditions in SELECTIONS:
            document = {"selections": [{"name": "s", "conditions": conditions}]}
            theirs = operator.DICOMSeriesSelectorOperator.filter(sdk, document, studies_of([first]), True)
            route = Route(name="r", application="a", when={"selection": document})
            if conditions:
                assert problems([route], {"a"}) == []
            assert judge(route, [ours], ours).wanted is bool(theirs), (folder, conditions)
            fired += bool(theirs)
    assert 20 < fired < len(folders) * len(SELECTIONS) - 20


def real(folder: Path) -> list[Series]:
    """The series below a folder of real DICOM files."""
    headers: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(each for each in folder.rglob("*") if each.is_file() and each.name != "LICENSE"):
        found = attributes_of(dcmread(file, stop_before_pixels=True))
        headers.setdefault(found["SeriesInstanceUID"], []).append(found)
    return [
        Series(each[0]["StudyInstanceUID"], uid, len(each), each[0], lambda each=each: each)  # type: ignore[misc]
        for uid, each in headers.items()
    ]


def test_real_series(test_data: Path) -> None:
    (ct,) = real(test_data / "ct-abdomen-41" / "image")
    assert reason({"coverage_mm": 200, "slice_spacing_mm": 5, "contrast": True, "age_years": 38}, ct) == ""
    adc, t2 = sorted(
        [*real(test_data / "mr-abdomen" / "adc_image"), *real(test_data / "mr-abdomen" / "t2_image")],
        key=lambda each: str(each.attributes["SeriesDescription"]),
    )
    assert (
        reason({"slice_spacing_mm": [6.99, 7.01], "slice_thickness_mm": 6, "orientation": "axial"}, adc) == ""
    )
    whole = expecting(t2="T2", adc="ADC")
    assert set(judge(whole, [t2, adc], None).series_uids) == {adc.series_uid, t2.series_uid}
    assert judge(whole, [adc], None).missing == ("t2",)


def test_the_example_of_the_page_is_right_and_fires(test_data: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "rules.md").read_text()
    file = tmp_path / "isocenter.yaml"
    file.write_text(page.split("```yaml")[1].split("```")[0])
    settings = Settings.load(file)
    assert problems(settings.routes, {"ct_lung_density", "thorax_organs"}) == []
    chest, liver = settings.routes
    assert liver.hours is not None
    assert (liver.hours.start.hour, liver.hours.end.hour) == (20, 6)

    scan = slices(*range(0, 200, 5), BodyPartExamined="CHEST", StudyDescription="Trauma scan")
    assert judge(chest, [scan], scan).wanted
    assert priority_of(chest, [scan], scan) == "STAT"
    child = slices(*range(0, 200, 5), BodyPartExamined="CHEST", PatientAge="010Y")
    assert judge(chest, [child], child).reason.startswith(
        "any_of: none holds (age_years is 10, and should be"
    )
    mr = [*real(test_data / "mr-abdomen" / "adc_image"), *real(test_data / "mr-abdomen" / "t2_image")]
    assert len(judge(liver, mr, None).series_uids) == 2


TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["1\\0\\0\\0\\1\\0", "0\\0\\5", "nan\\inf\\-0", "1e999", "065Y", "99991231", "20240230", "\\\\", "٣"]
    ),
)
LOOKED_AT = [
    "Modality", "SliceThickness", "PixelSpacing", "ImageType", "ImageOrientationPatient", "ImagePositionPatient",
    "PatientAge", "PatientBirthDate", "StudyDate", "ContrastBolusAgent", "ContrastBolusVolume", "PatientPosition",
    "RequestAttributesSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "0019,100c",
    "SOPClassUID", "Manufacturer", "ContrastBolusAgentSequence",
]  # fmt: skip
VALUES = st.recursive(
    st.one_of(TEXTS, st.none(), st.integers(), st.floats(), st.booleans(), st.binary(max_size=3)),
    lambda inner: st.lists(
        st.one_of(inner, st.dictionaries(st.sampled_from(LOOKED_AT), inner, max_size=3)), max_size=2
    ),
    max_leaves=4,
)
EVERY_FORM: list[dict[str, Any]] = [
    {"Modality": "c"},
    {"SliceThickness": [1, 2]},
    {"SliceThickness": r"\d"},
    {"PixelSpacing": [1, "!="]},
    {"ImageType": ["a", "!b"]},
    {"ImageOrientationPatient": "Axial"},
    {"ImageType": {"equals": ["a", "b"]}},
    {"ImageType": {"count": {"at_least": 1}}},
    {"SliceThickness": {"equals": 1, "at_least": 1, "one_of": [1]}},
    {"RequestAttributesSequence": {"count": 1, "exists": True}},
    {"RequestAttributesSequence.RequestAttributesSequence.Modality": {"not": "c"}},
    {"0019,100c": {"matches": "x"}},
    {"StudyDate": {"between": [1, 2]}},
    {"orientation": "axial"},
    {"pixel_spacing_mm": 1},
    {"slice_thickness_mm": 1},
    {"slice_spacing_mm": 1},
    {"coverage_mm": 1},
    {"contrast": True},
    {"age_years": {"at_least": 1}},
    {"any_instance": {"orientation": "oblique"}},
    {"no_series": {"coverage_mm": 1}},
    {"selection": {"selections": [{"conditions": each} for each in SELECTIONS if each]}},
]
FORMS = [Route(name=str(index), application="a", when=when) for index, when in enumerate(EVERY_FORM)]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(st.dictionaries(st.sampled_from(LOOKED_AT), VALUES, max_size=6))
def test_no_condition_crashes_on_any_value(attributes: dict[str, Any]) -> None:
    scan = Series("1", "2", 2, attributes, lambda: [attributes, {}])
    for verdict in explain(FORMS, [scan]):
        assert verdict.wanted == (verdict.reason == "")


KEYS = [
    "Modality", "SliceThickness", "PatientAge", "ImageOrientationPatient", "RequestAttributesSequence", "0019,100c",
    "instances", "orientation", "contrast", "coverage_mm", "any_instance", "every_instance", "any_series", "no_series",
    "series_count", "any_of", "not", "selection", "selections", "conditions", "when", "equals", "one_of", "matches",
    "between", "at_least", "at_most", "exists", "count", "Modalty", "a.b", "",
]  # fmt: skip
CONDITIONS = st.recursive(
    st.one_of(
        st.text(max_size=3),
        st.sampled_from(["CT", "axial", ">"]),
        st.none(),
        st.integers(),
        st.floats(),
        st.booleans(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")  # re, of a text like [[
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS), CONDITIONS, max_size=3))
def test_what_is_no_condition_is_a_problem_and_never_a_crash(when: dict[str, Any]) -> None:
    route = Route(name="r", application="a", when=when)
    wrong = problems([route], {"a"})
    scan = slices(0, 5)
    answer = judge(route, [scan], scan)
    assert not (wrong and answer.wanted)


@settings(deadline=None)
@given(TEXTS, st.sampled_from(["PatientName", "PatientID", "0019,100c", "AccessionNumber"]))
def test_a_withheld_value_is_never_told(value: str, name: str) -> None:
    secret = f"<{value}>"
    for condition in ({"not": {"matches": "<"}}, {"equals": "x"}, {"not": {"exists": True}}):
        assert secret not in reason({name: condition}, series(**{name: secret}))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with rules."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "apps").symlink_to(ROOT / "apps")
    (tmp_path / "isocenter.yaml").write_text(
        "routes:\n"
        "  - {name: CT, application: ct_lung_density, when: {Modality: CT}, priority: urgent}\n"
        "  - name: pair\n"
        "    application: ct_lung_density\n"
        "    scope: study\n"
        "    when: {Modality: MR}\n"
        "    hours: {start: 20:00, end: 06:00, days: [Mon]}\n"
        "    destinations: [vault]\n"
        "peers: {vault: {kind: folder, path: /vault}}\n"
    )
    return tmp_path


def test_the_command_explains_series_and_studies(
    site: Path, test_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = test_data / "mr-abdomen"
    assert main(["rules", "explain", str(folder)]) == 0
    said = capsys.readouterr().out
    assert said.count("CT: not wanted: Modality is 'MR', and should be like 'CT'") == 2
    assert (
        "pair: goes to ct_lung_density; routine; made of 2 series; from 20:00 to 06:00 on Mon; results also to vault"
        in said
    )
    assert main(["rules", "explain", str(folder), "--json"]) == 0
    one, other, study = json.loads(capsys.readouterr().out)
    assert [len(each["routes"]) for each in (one, other)] == [1, 1]
    assert study["series_uid"] is None
    (pair,) = study["routes"]
    assert (pair["wanted"], len(pair["series_uids"]), pair["hours"]["start"]) == (True, 2, "20:00:00")


def test_the_command_looks_at_the_first_instance_whatever_its_file_is_called(
    site: Path, test_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "scan").mkdir()
    for name, number in (("a", 10), ("b", 2)):
        image = dcmread(min((test_data / "ct-abdomen-41" / "image").glob("*")))
        image.SOPInstanceUID, image.InstanceNumber, image.ImageComments = f"1.2.{number}", number, ""
        image.ProtocolName = f"number {number}"
        image.save_as(site / "scan" / name)
    (site / "isocenter.yaml").write_text(
        "routes: [{name: r, application: ct_lung_density, when: {ProtocolName: x}}]"
    )
    assert main(["rules", "explain", str(site / "scan")]) == 0
    assert "ProtocolName is 'number 2', and should be like 'x'" in capsys.readouterr().out


def test_the_command_refuses_wrong_rules(
    site: Path, test_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rules", "check"]) == 0
    assert "2 rules: nothing is wrong" in capsys.readouterr().out
    (site / "isocenter.yaml").write_text(
        "routes: [{name: r, application: ct_lung_density, when: {Modalty: CT}}]"
    )
    sentence = "isocenter.yaml:1:57: routes.0 (r): when.Modalty: not a DICOM keyword; did you mean Modality?"
    for command in (["rules", "check"], ["rules", "explain", str(test_data / "mr-abdomen")]):
        assert main(command) == 2
        assert sentence in capsys.readouterr().err
    assert main(["rules", "check", "--json"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["where"] == "isocenter.yaml:1:57"


def test_the_api_explains_a_study_of_the_archive(site: Path) -> None:
    from isocenter.gateway.rules_api import RulesAPI

    def study_of(study_uid: str) -> list[Series]:
        return [series()] if study_uid == "1.2" else []

    app = Starlette(routes=RulesAPI(Settings.load(), study_of, lambda _: []).routes)
    with served(app, free_port()) as url, httpx.Client(base_url=url, trust_env=False) as client:
        listed = client.get("/api/rules").json()
        assert ([route["name"] for route in listed["routes"]], listed["problems"]) == (["CT", "pair"], [])
        answer = client.post("/api/rules/explain", json={"study_uid": "1.2"}).json()
        assert answer["series"][0]["routes"][0]["priority"] == "urgent"
        assert answer["routes"][0]["reason"] == "Modality is 'CT', and should be like 'MR'"
        assert client.post("/api/rules/explain", json={"study_uid": "1.3"}).status_code == 404
        for wrong in (b"", b"[]", b'{"study_uid": "../x"}', b'{"study_uid": 1}', b"[" * 100000):
            assert client.post("/api/rules/explain", content=wrong).status_code == 400


@pytest.mark.integration
def test_the_archive_and_the_files_say_the_same(orthanc: OrthancSettings, test_data: Path) -> None:
    file = min((test_data / "ct-abdomen-41" / "image").glob("*"))
    header = dcmread(file)
    header.SeriesInstanceUID, header.SOPInstanceUID = generate_uid(), generate_uid()
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    item = Dataset()
    item.RequestedProcedureDescription = "CT chest"
    item.RequestedProcedureID = ""
    header.RequestAttributesSequence = [item]
    header.private_block(0x0099, "SITE", create=True).add_new(0x0C, "LO", "protocol 7")
    content = BytesIO()
    header.save_as(content)
    with httpx.Client(base_url=orthanc.rest_url, timeout=60, trust_env=False) as http:
        stored = http.post("/instances", content=content.getvalue()).json()
    with Orthanc(orthanc) as archive:
        told = archive.attributes(stored["ID"])
        assert archive.every_attributes(stored["ParentSeries"]) == (told,)
    for name in (
        "Modality",
        "ImageType",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RequestAttributesSequence",
        "0099,100c",
    ):
        assert told[name] == attributes_of(header)[name]
    scan = Series("1", "2", 1, told, never)
    assert (
        reason(
            {"0099,100c": "^protocol", "RequestAttributesSequence.RequestedProcedureDescription": "chest"},
            scan,
        )
        == ""
    )
