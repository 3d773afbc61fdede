"""The applications, routes and settings of the fault test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

__all__ = ["APPLICATIONS", "POLICIES", "ROUTES", "install"]

_HERE = Path(__file__).parent

# name -> what app.yaml says of it in our own block
APPLICATIONS: dict[str, dict[str, Any]] = {
    "plain": {},  # every series
    "modelled": {"models": {"self_test": "1"}, "deadline_s": 20},  # the first series of a study, by Triton
    "pair": {},  # all series of a study together
    "poison": {},  # kills its worker
}
_PRIORITY = {
    "STAT": {"StudyDescription": "stat"},
    # Those of which more will come once they are analysed must not wait for all that the faults have left behind.
    "urgent": {"StudyDescription": "urgent|late|pair|deleted"},
    "batch": {"StudyDescription": "batch"},
}
ROUTES: list[dict[str, Any]] = [
    {
        "name": "every series",
        "application": "plain",
        "when": {"Modality": "^CT$"},
        "priority": _PRIORITY,
        "superseded": "keep",
    },
    {
        "name": "first series",
        "application": "modelled",
        "when": {"Modality": "^CT$", "SeriesNumber": "^1$"},
        "priority": _PRIORITY,
        "superseded": "delete",
    },
    {
        "name": "both series",
        "application": "pair",
        "scope": "study",
        "when": {"Modality": "^CT$", "StudyDescription": "pair"},
        "priority": _PRIORITY,
        "superseded": "hide",
    },
    {
        "name": "poison",
        "application": "poison",
        "when": {"StudyDescription": "poison"},
        "priority": "urgent",  # its workers start again while others are at work, not when all else is done
    },
]
# application -> what becomes of its results when others supersede them
POLICIES: dict[str, str] = {route["application"]: route.get("superseded", "keep") for route in ROUTES}


def install(folder: Path) -> Path:
    """Put the applications into `folder` and give it."""
    for name, ours in APPLICATIONS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(_HERE / "application.py", folder / name / "app.py")
        described = {"application": {"title": name, "version": "1.0"}, "isocenter": ours}
        (folder / name / "app.yaml").write_text(yaml.safe_dump(described))
    return folder
