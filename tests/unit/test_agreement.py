"""How a shadow's boxes, numbers and answers are compared with those that were shown, and what is reported."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.apps.detection.metrics.matching import matching_batch
from monai.data.box_utils import box_iou

from isocenter.cli.output import groups_table
from isocenter.cli.shadow_report import BoxesOfStudy, shadow_report, shadow_told
from isocenter.cli.version_report import arms_of, arms_told
from isocenter.job import Job
from isocenter.measurements import measurement_table
from isocenter.settings import Settings
from isocenter.shadows import ComparedAnswer, ComparedNumber, ComparedSegment, Comparison, Shadows
from isocenter.shadows import Run as ComparedRun
from isocenter.worker.agreement import Agreement, agreement, groups_agreement
from isocenter.worker.runner import as_json
from isocenter_operators.application import Application
from isocenter_operators.dicom.findings import Box, Code, Findings, Measurement, MeasurementGroup
from isocenter_operators.dicom.results.box_overlap import box_overlaps
from isocenter_operators.errors import InputError
from isocenter_operators.run import Folder, Outcome, Run, StoredInstance

_Group = dict[str, Any]


def box(
    number: int, centre_mm: tuple[float, float, float], kind: str = "Lung nodule", side: float = 10
) -> _Group:
    """As a job's answer holds it, certain by 90 % and less."""
    sizes = {"width_mm": side, "depth_mm": side, "height_mm": side}
    place = {"kind": kind, "centre_mm": [*centre_mm], "size_mm": [side] * 3}
    return {
        "label": f"{kind} {number}",
        "notes": [],
        "box": place,
        "certainty_percent": 91.0 - number,
        **sizes,
    }


def without_place(group: _Group) -> _Group:
    """As an earlier release wrote it."""
    return {name: value for name, value in group.items() if name != "box"}


def test_boxes_are_matched_as_monai_matches_them() -> None:
    generator = np.random.default_rng(5)
    grid = np.stack(np.meshgrid(*[np.arange(4) * 100.0] * 3), axis=-1).reshape(-1, 3)  # (64, 3), mm
    shown = [("nodule", Box(tuple(place), tuple(generator.uniform(10, 30, 3)))) for place in grid[:40]]
    moved = [  # some hardly, some too far, some there is no other of
        ("nodule", Box(tuple(place + generator.uniform(-12, 12, 3)), tuple(generator.uniform(10, 30, 3))))
        for place in grid[20:]
    ]
    (found,) = box_overlaps(shown, moved)

    def corners(boxes: list[tuple[str, Box]]) -> np.ndarray[Any, Any]:
        middles, sizes = (
            np.array([getattr(each, name) for _, each in boxes]) for name in ("centre_mm", "size_mm")
        )
        return np.hstack([middles - sizes / 2, middles + sizes / 2])

    ious = box_iou(corners(shown), corners(moved))
    matched = matching_batch(
        iou_fn=box_iou,
        iou_thresholds=[0.1],
        pred_boxes=[corners(moved)],
        pred_classes=[np.zeros(len(moved))],
        pred_scores=[np.ones(len(moved))],
        gt_boxes=[corners(shown)],
        gt_classes=[np.zeros(len(shown))],
    )[0][0]
    both = int((matched["dtMatches"] > 0).sum())
    assert 5 < both < 20
    assert (len(found.ious), found.one_only, found.other_only) == (both, 40 - both, 44 - both)
    assert found.ious == pytest.approx(sorted(ious[ious >= 0.1], reverse=True), rel=1e-5)


def test_a_box_is_in_one_pair_and_the_best_pair_comes_first() -> None:
    # Two shown boxes lie over the first of the shadow's; the worse of them goes to the second one, which it meets too.
    at = {0: Box((0, 0, 0), (10, 10, 10)), 3: Box((3, 0, 0), (10, 10, 10)), 8: Box((8, 0, 0), (10, 10, 10))}
    (found,) = box_overlaps([("a", at[3]), ("a", at[0])], [("a", at[0]), ("a", at[8])])
    assert found.ious == pytest.approx((1.0, 5 / 15))
    (one_way,), (other_way,) = (
        box_overlaps(*sides) for sides in ([[("a", at[3])], [("a", at[0])]], [[("a", at[0])], [("a", at[3])]])
    )
    assert one_way == other_way
    apart = box_overlaps([("a", at[0])], [("b", at[0])])  # of other kinds
    assert [(each.kind, each.one_only, each.other_only, each.ious) for each in apart] == [
        ("a", 1, 0, ()),
        ("b", 0, 1, ()),
    ]
    (far,) = box_overlaps([("a", at[0])], [("a", at[8])], at_least=0.2)  # 2 of 18
    assert (far.one_only, far.other_only, far.ious) == (1, 1, ())
    (near,) = box_overlaps([("a", at[0])], [("a", at[8])])
    assert near.ious == pytest.approx((2 / 18,))
    assert box_overlaps([], []) == ()


def test_boxes_go_by_their_place_and_numbers_by_their_region() -> None:
    # The surest of the one is the second of the other: no number of theirs is compared by that.
    found = groups_agreement(
        [box(1, (0, 0, 0)), box(2, (50, 0, 0))], [box(1, (51, 0, 0)), box(2, (-90, 0, 0))]
    )
    (boxes,) = found.boxes
    assert (boxes.kind, boxes.shown_only, boxes.shadow_only) == ("Lung nodule", 1, 1)
    assert boxes.ious == pytest.approx((9 / 11,))
    assert (found.numbers, found.answers, found.segments) == ((), (), ())
    (alone,) = groups_agreement([], [box(1, (0, 0, 0))]).boxes
    assert (alone.shown_only, alone.shadow_only, alone.ious) == (0, 1, ())

    heart = {"label": "Measurements", "notes": [], "fraction_percent": 55.0, "score": 3.0, "class": "Yes"}
    other = {"label": "Measurements", "notes": [], "fraction_percent": 61.5, "flow": None, "class": "No"}
    liver = {"label": "liver", "notes": [], "volume_mL": 10.0, "mean_density_HU": 50.0}
    segment = ComparedSegment(label="liver", dice=1.0, shown_ml=10, shadow_ml=10)
    found = groups_agreement([heart, liver], [other], (segment,))
    assert found.numbers == (
        ComparedNumber(label="Measurements", name="fraction_percent", shown=55, shadow=61.5),
        ComparedNumber(label="Measurements", name="score", shown=3, shadow=None),
        ComparedNumber(label="Measurements", name="flow", shown=None, shadow=None),
        ComparedNumber(
            label="liver", name="mean_density_HU", shown=50, shadow=None
        ),  # its volume is the segment's
    )
    assert found.answers == (ComparedAnswer(label="Measurements", name="class", shown="Yes", shadow="No"),)
    with pytest.raises(InputError, match="several groups are called 'liver'"):
        groups_agreement([liver, liver], [liver])


def test_boxes_without_a_place_are_not_compared() -> None:
    earlier = without_place(box(1, (0, 0, 0)))
    for shadow in ([box(1, (0, 0, 0))], []):
        with pytest.raises(InputError, match="by an earlier release, which did not note where the boxes lie"):
            groups_agreement([earlier], shadow)
    assert groups_agreement([], [box(1, (0, 0, 0))]).boxes  # of one that found none nothing is missing
    # An application may measure the sizes of what it does not give as boxes.
    assert {each.name for each in groups_agreement([earlier], [earlier]).numbers} == {
        *("certainty_percent", "width_mm", "depth_mm", "height_mm")
    }


def outcome(modality: str, groups: tuple[_Group, ...] = ()) -> Outcome:
    stored = StoredInstance("1.2", "1.2.3", "1.2.4", "1.2.5", modality)
    return Outcome("done", "", groups, (), (stored,), {})


def test_nothing_found_is_said_only_where_nothing_was(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, routes=())
    shown = {"state": "done", "results": [{"modality": "SR"}], "groups": []}
    assert agreement(settings, shown, outcome("SR")) == Agreement()
    mapped = {**shown, "results": [{"modality": "SR"}, {"modality": "CT"}]}  # as a map of a parameter is
    with pytest.raises(InputError, match="the results are CT: only segmentations, boxes"):
        agreement(settings, mapped, outcome("SR"))
    with pytest.raises(InputError, match="the results are RTSTRUCT"):
        agreement(settings, shown, outcome("RTSTRUCT"))
    number = {"label": "Measurements", "notes": [], "score": float("nan")}
    (found,) = agreement(settings, shown, outcome("SR", (number,))).numbers
    assert found.shadow is None


def compared(number: int, **agreed: Any) -> Comparison:
    done = {"state": "done", "inference_s": 1.0}
    return Comparison(
        job_id=f"{number:064x}",
        study_uid=f"1.2.{number}",
        ended=float(number),
        shown=ComparedRun(version="1", **done),
        shadow=ComparedRun(version="2", **done),
        **({"whole": True} | agreed),
    )


def of(number: int, shown: list[_Group], shadow: list[_Group]) -> Comparison:
    return compared(number, **groups_agreement(shown, shadow).as_update())


def test_the_report_sums_up_boxes_and_names_the_studies_that_differ_most() -> None:
    same = [box(1, (0, 0, 0)), box(2, (50, 0, 0))]
    report = shadow_report(
        "2",
        [
            of(1, same, same),
            of(2, same, [box(1, (5, 0, 0))]),
            of(3, [], [box(1, (0, 0, 0)), box(2, (90, 0, 0)), box(3, (0, 0, 0), "Cyst")]),
            of(4, [], []),
        ],
    )
    nodules, cysts = report.boxes
    assert (nodules.kind, nodules.n, nodules.shown_only, nodules.shadow_only, nodules.both) == (
        *("Lung nodule", 3, 1, 2, 3),
    )
    assert nodules.iou_median == 1.0
    assert (cysts.shadow_only, cysts.iou_median) == (1, None)
    assert report.boxes_differ_most == [
        BoxesOfStudy("1.2.3", 0, 3, 0, None),
        BoxesOfStudy("1.2.2", 1, 0, 1, pytest.approx(1 / 3)),
    ]
    told = shadow_told(report)
    assert any(line.split() == ["Lung", "nodule", "3", "1", "2", "3", "1.00"] for line in told)
    assert any("IoU of 0.1 and more" in line for line in told)
    assert [line.split()[:4] for line in told if "nothing found" in line] == [
        ["1.2.4", "nothing", "found", "by"]
    ]
    assert json.loads(json.dumps(report.as_json()))["boxes_differ_most"][0]["study_uid"] == "1.2.3"


def test_the_report_tells_how_far_numbers_lie_apart_and_how_often_classes_agree() -> None:
    def said(fraction: float | None, normal: bool, sure: float = 90) -> list[_Group]:
        classes = {"normal": "Yes" if normal else "No", "abnormal": "No" if normal else "Yes"}
        return [
            {"label": "Measurements", "notes": [], "fraction_percent": fraction},
            {"label": "Classification", "notes": [], "probability_normal_percent": sure, **classes},
        ]

    report = shadow_report(
        "2",
        [
            of(1, said(50, True), said(52, True)),
            of(2, said(50, True), said(41, False, 30)),
            of(3, said(50, False), said(51, False)),
            of(4, said(50, True), said(None, True)),
        ],
    )
    fraction, probability = report.numbers
    assert (fraction.name, fraction.n, fraction.shown_only, fraction.shadow_only) == (
        "fraction_percent",
        3,
        1,
        0,
    )
    assert (fraction.difference_median, fraction.difference_largest) == (1, -9)
    assert fraction.farthest_study_uid == "1.2.2"
    assert (probability.n, probability.difference_median, probability.difference_largest) == (4, 0, -60)
    together, normal, abnormal = report.answers
    assert (together.name, together.n, together.same, together.same_share) == ("", 4, 3, 0.75)
    assert (normal.name, normal.differing_study_uids) == ("normal", ["1.2.2"])
    assert abnormal.same == 3
    told = "\n".join(shadow_told(report))
    assert "Measurements: fraction (%)" in told
    assert "Classification, all of it" in told
    assert json.loads(json.dumps(report.as_json()))["answers"][0]["same_share"] == 0.75


def test_what_earlier_releases_have_compared_stays_readable(tmp_path: Path) -> None:
    run = {"state": "done", "reason": "", "inference_s": 1.0}
    earlier = {
        **{"job_id": "0" * 64, "study_uid": "1.2.3", "ended": 1.0, "not_compared": "", "segments": []},
        **{"shown": {"version": "1", **run}, "shadow": {"version": "2", **run}},
    }
    file = tmp_path / "shadow" / "nodules" / "2" / ("0" * 64) / "comparison.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(earlier))
    found = Shadows(tmp_path).of("nodules", "2")
    told = "\n".join(shadow_told(shadow_report("2", found)))
    assert "no segmentation by either" in told
    assert "nothing found" not in told  # nobody had looked at the boxes
    unknown = compared(2, not_compared="the job was done by an earlier release")
    assert "1.2.2: not compared: the job was done by" in "\n".join(shadow_told(shadow_report("2", [unknown])))


def job(number: int, version: str, *groups: _Group, superseded_by: str = "") -> Job:
    now = datetime.now(UTC)
    return Job(
        id=f"{number:064x}",
        state="done",
        application="lung",
        route="r",
        priority="routine",
        study_uid=f"1.2.{number}",
        series_uids=(),
        created=now,
        ended=now,
        attempts=1,
        groups=groups,
        models={"lung": version},
        superseded_by=superseded_by,
    )


def test_arms_have_medians_of_every_number_and_the_boxes_of_a_study() -> None:
    lung = {"label": "Lung", "notes": [], "volume_mL": 2000.0, "mean_density_HU": -800.0, "normal": "Yes"}
    one, two, three = arms_of(
        [
            job(1, "1", lung, box(1, (0, 0, 0)), box(2, (9, 0, 0))),
            job(2, "1", {**lung, "mean_density_HU": -700.0}, without_place(box(1, (0, 0, 0)))),
            job(3, "1", {**lung, "mean_density_HU": None}),
            job(30, "1", box(1, (0, 0, 0)), superseded_by=f"{3:064x}"),  # on fewer images
            job(4, "2", lung),
        ],
        "lung",
        {},
    ) + arms_of([job(5, "3", box(1, (0, 0, 0), "Cyst"))], "lung", {})
    assert one.medians == {"Lung": {"volume_mL": 2000.0, "mean_density_HU": -750.0}}
    assert (one.boxes, two.boxes, three.boxes) == ({"Lung nodule": 1.0}, {}, {"Cyst": 1.0})
    told = arms_told([one, two])
    assert any(
        line.split() == ["Lung:", "mean", "density", "(HU),", "median", "-750", "-800"] for line in told
    )
    assert any(line.split()[-2:] == ["1.00", "0.00"] for line in told if "boxes a study" in line)
    json.dumps([each.as_json() for each in (one, two)])


def test_boxes_that_another_version_has_replaced_are_still_what_this_one_found() -> None:
    """As after every promotion, once the studies were done again."""
    one, two = arms_of(
        [job(1, "1", box(1, (0, 0, 0)), superseded_by=f"{2:064x}"), job(2, "2", box(1, (0, 0, 0)))],
        "lung",
        {},
    )
    assert one.boxes == two.boxes == {"Lung nodule": 1.0}


class Named(Application):
    """Finds the numbers that a model calls as a group calls its own parts, and one that it does not."""

    names = ("Box", "Label", "Notes", "Measurements", "Score")
    values = (5.0, 6.0, 7.0, float("nan"), 9.0)

    def run(self) -> None:
        numbers = tuple(
            Measurement(name.lower(), Code("1", "99X", name), value, Code("1", "UCUM", "no units"))
            for name, value in zip(self.names, self.values, strict=True)
        )
        about = MeasurementGroup(
            "Heart", Code("2", "99X", "Heart"), measurements=numbers, notes=("Careful.",)
        )
        self.record.findings = Findings((about,))


def test_a_number_that_is_called_like_a_part_of_its_group_is_a_number(tmp_path: Path) -> None:
    task = Run(source=Folder(tmp_path), sink=Folder(tmp_path))
    (group,) = as_json(Named(task).execute())["groups"]
    assert (group["label"], group["notes"], group["score"]) == ("Heart", ["Careful."], 9.0)
    said = {"box": 5.0, "label": 6.0, "notes": 7.0, "measurements": None}
    assert group["measurements"] == said
    assert "box" not in group

    json.dumps(group, allow_nan=False)
    assert measurement_table([group]) == [
        ["", "score", "box", "label", "notes", "measurements"],
        ["Heart", "9.0", "5.0", "6.0", "7.0", "-"],
    ]
    assert groups_table([group])[-1] == "Heart: Careful."
    found = groups_agreement([group], [{**group, "measurements": {**said, "box": 5.5}}])
    assert found.boxes == ()
    assert ComparedNumber(label="Heart", name="box", shown=5, shadow=5.5) in found.numbers
    told = "\n".join(shadow_told(shadow_report("2", [compared(1, **found.as_update())])))
    assert "Heart: box" in told
    (arm,) = arms_of([job(1, "1", group)], "lung", {})
    assert arm.medians["Heart"] == {"score": 9.0, "box": 5.0, "label": 6.0, "notes": 7.0}
    assert arm.boxes == {}


def test_a_number_that_an_earlier_release_wrote_over_a_part_of_its_group_stays_readable() -> None:
    earlier = {"label": "Heart", "notes": 7.0, "box": 5.0, "measurements": "Yes", "score": 9.0}
    assert groups_table([earlier])[1].split() == ["Heart", "7.0", "5.0", "Yes", "9.0"]
    (arm,) = arms_of([job(1, "1", earlier)], "lung", {})
    assert arm.medians == {"Heart": {"notes": 7.0, "box": 5.0, "score": 9.0}}
    found = groups_agreement([earlier], [{"label": "Heart", "notes": [], "measurements": {"box": 5.0}}])
    assert ComparedNumber(label="Heart", name="box", shown=5, shadow=5) in found.numbers


def test_where_a_box_lies_is_no_column_of_a_table() -> None:
    header, row = measurement_table([box(1, (0, 0, 0))])
    assert header == ["", "certainty (%)", "width (mm)", "depth (mm)", "height (mm)"]
    assert row == ["Lung nodule 1", "90.0", "10.0", "10.0", "10.0"]
    header, row = measurement_table(
        [{"label": "Classification", "notes": [], "normal": "Yes", "fat_score": 1.0}]
    )
    assert (header, row) == (["", "normal", "fat score"], ["Classification", "Yes", "1.0"])
