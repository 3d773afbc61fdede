"""The rules: what the routes of `isocenter.yaml` say of a series or a study, and why. Nothing here stores anything.

`docs/rules.md` tells what a condition may be.
"""

from isocenter.rules.checking import located, problems, refuse_wrong_rules
from isocenter.rules.judging import (
    Answer,
    RouteVerdict,
    explain,
    explanation,
    judge,
    priority_of,
    why_not,
)
from isocenter.rules.problem import Problem
from isocenter.rules.series import OUR_OWN, Series, attributes_of, is_our_own, place_in_series

__all__ = [
    "OUR_OWN",
    "Answer",
    "Problem",
    "RouteVerdict",
    "Series",
    "attributes_of",
    "explain",
    "explanation",
    "is_our_own",
    "judge",
    "located",
    "place_in_series",
    "priority_of",
    "problems",
    "refuse_wrong_rules",
    "why_not",
]
