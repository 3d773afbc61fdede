"""The numbers of a job as people read them."""

from __future__ import annotations

import math

import pytest

from isocenter.measurements import measurement_table


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2100.5, "2100.5"),
        (-812.34, "-812.3"),
        (1.04, "1.0"),
        (1, "1.0"),
        (0, "0.0"),
        (0.0, "0.0"),
        (0.5, "0.5"),
        (0.04, "0.04"),
        (-0.04, "-0.04"),
        (0.0012, "0.0012"),
        (0.00123456, "0.00123"),
        (0.9994, "0.999"),
        (0.9996, "1.0"),
        (1e-7, "1e-07"),
        (math.nan, "nan"),
        (None, "-"),
        ("Yes", "Yes"),
    ],
)
def test_no_number_is_shown_as_nothing(value: float | str | None, shown: str) -> None:
    assert measurement_table([{"label": "Lung", "notes": [], "score": value}])[1] == ["Lung", shown]
