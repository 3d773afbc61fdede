"""What a model says of the images as a whole, in findings: what each number is of, and no number that is none."""

from __future__ import annotations

import numpy as np
import pytest

from isocenter_operators.errors import InvalidResult
from isocenter_operators.whole_findings import classified, measured

NONE = np.full(3, np.nan)
NAMES = ["Normal", "Liver cirrhosis", "C"]


def test_each_probability_says_what_it_is_of() -> None:
    found = np.array([[0.1, 0.7, 0.2], [0, 1, 0]])
    (group,) = classified(found, NAMES, "softmax", ("by somebody",)).groups
    assert [m.concept.meaning for m in group.measurements] == [f"Probability of {name}" for name in NAMES]
    assert [m.value for m in group.measurements] == pytest.approx([10, 70, 20])
    assert {m.unit.value for m in group.measurements} == {"%"}
    assert len({m.concept.value for m in group.measurements}) == 3
    assert [(each.concept.meaning, each.value.meaning) for each in group.evaluations] == [
        ("Normal", "No"),
        ("Liver cirrhosis", "Yes"),
        ("C", "No"),
    ]
    assert "none of the others" in group.notes[0]
    (group,) = classified(np.array([[0.9, 0.7, 0.2], NONE]), NAMES, "sigmoid").groups
    assert group.evaluations == ()
    assert "do not exclude each other" in group.notes[0]
    (group,) = classified(np.array([NONE, [0, 0, 1]]), NAMES, "").groups
    assert group.measurements == ()
    assert "no probabilities" in group.notes[0]


@pytest.mark.parametrize(
    ("found", "activation", "said"),
    [
        (np.array([[0.1, 0.9], [0, 1]]), "softmax", "not two rows of 3 classes"),
        (np.array([[0.1, 1.9, 0.2], NONE]), "softmax", "no probabilities"),
        (np.array([[0.1, np.nan, 0.2], NONE]), "softmax", "no probabilities"),
        (np.array([[0.1, 0.2, 0.7], NONE]), "", "no probabilities"),
        (np.array([NONE, NONE]), "softmax", "no probabilities"),
        (np.array([[0.1, 0.2, 0.7], [0, 2, 0]]), "softmax", "neither yes nor no"),
        (np.array([[0.1, 0.2, 0.7], [0, np.nan, 0]]), "softmax", "neither yes nor no"),
    ],
)
def test_what_is_no_probability_is_refused(found: np.ndarray, activation: str, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InvalidResult, match=said):
        classified(found, NAMES, activation)  # type: ignore[arg-type]


def test_a_number_has_the_unit_that_its_name_ends_with() -> None:
    (group,) = measured(
        np.array([55.5, 3.0, 7.0]), ["Ejection fraction (%)", "Score", "Flow (furlongs)"]
    ).groups
    assert [(m.name, m.concept.meaning, m.unit.value, m.value) for m in group.measurements] == [
        ("ejection_fraction_percent", "Ejection fraction", "%", 55.5),
        ("score", "Score", "1", 3.0),
        ("flow_furlongs", "Flow (furlongs)", "1", 7.0),
    ]
    with pytest.raises(InvalidResult, match="not 1 values"):
        measured(np.array([1.0, 2.0]), ["Score"])


def test_classes_that_only_a_side_or_a_sign_tells_apart_stay_apart() -> None:
    names = ["Left lung", "Right lung", "Grade A+", "Grade A-", "Liver"]
    (group,) = classified(np.array([[0.1, 0.9, 0, 0, 0], [0, 1, 0, 0, 0]]), names, "softmax").groups
    asked = [each.concept for each in group.evaluations]
    assert [each.meaning for each in asked] == names
    assert len({(each.value, each.scheme) for each in asked}) == len(names)
    assert asked[-1].scheme == "SCT"
    told = group.as_dict()
    assert (told["left_lung"], told["right_lung"]) == ("No", "Yes")
    assert (told["grade_a_3"], told["grade_a_4"]) == ("No", "No")
    (group,) = measured(np.array([1.0, 2.0]), ["Size (mm)", "Size (mL)"]).groups
    assert len({each.concept.value for each in group.measurements}) == 2
    assert list(group.as_dict()) == ["size_mm", "size_mL"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_not_reported_as_one(value: float) -> None:
    with pytest.raises(InvalidResult, match="not each is a number"):
        measured(np.array([1.0, value]), ["Score", "Grade"])
