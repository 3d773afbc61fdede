"""Which answers of the archive are read by the gateway, and how superseded results look in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isocenter.database import prepare
from isocenter.gateway.marking import Listing, Marking, listing_of, marked
from isocenter.settings import Settings
from isocenter_operators.errors import Unavailable


@pytest.mark.parametrize(
    ("path", "listing"),
    [
        ("series", Listing("series")),
        ("instances", Listing("instances")),
        ("studies/1/series", Listing("series", "1")),
        ("studies/1/series/", Listing("series", "1")),
        ("studies/1/instances", Listing("instances", "1")),
        ("studies/1/series/2/instances", Listing("instances", "1", "2")),
        ("studies/1/metadata", Listing("metadata", "1")),
        ("studies/1/series/2/metadata", Listing("metadata", "1", "2")),
        ("studies/1/series/2/instances/3/metadata", Listing("metadata", "1", "2")),
        ("studies", None),
        ("studies/1", None),
        ("studies/1/series/2", None),
        ("studies/1/series/2/rendered", None),
        ("studies/1/series/2/instances/3", None),
        ("studies/1/series/2/instances/3/frames/1", None),
    ],
)
def test_lists_of_series_and_instances_are_read_and_nothing_else(path: str, listing: Listing | None) -> None:
    assert listing_of(path) == listing


def item(series_uid: str, description: str | None = None) -> dict[str, Any]:
    named = {} if description is None else {"0008103E": {"vr": "LO", "Value": [description]}}
    return {"0020000E": {"vr": "UI", "Value": [series_uid]}, **named}


def described(items: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [
        (each["0020000E"]["Value"][0], each.get("0008103E", {}).get("Value", [None])[0]) for each in items
    ]


def test_what_is_kept_is_called_superseded_and_what_is_hidden_is_left_out() -> None:
    listed = [item("1", "CT"), item("2", "lungs"), item("3", "lungs"), item("4"), item("5", "x" * 64)]
    superseded: dict[str, Any] = {"2": "keep", "3": "hide", "4": "keep", "5": "delete"}
    shown = described(marked(listed, Listing("series", "9"), superseded))
    assert shown == [
        ("1", "CT"),
        ("2", "SUPERSEDED: lungs"),
        ("4", "SUPERSEDED:"),
        ("5", f"SUPERSEDED: {'x' * 52}"),
    ]
    assert described(listed)[1] == ("2", "lungs")

    shown = described(marked(listed, Listing("instances", "9"), superseded))
    assert shown[1:3] == [
        ("2", "SUPERSEDED: lungs"),
        ("4", None),
    ]  # as was asked: without the series' description
    assert marked([{}], Listing("instances", "9", "3"), superseded) == []  # without its series' UID
    assert described(marked([item("3", "lungs")], Listing("metadata", "9"), superseded)) == []
    assert described(marked([item("3", "lungs")], Listing("metadata", "9", "3"), superseded)) == [
        ("3", "SUPERSEDED: lungs")
    ]


def test_while_the_database_is_away_what_was_known_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    prepare(settings)
    marking = Marking(settings)
    monkeypatch.setattr("isocenter.gateway.marking._FRESH_S", 0.0)
    assert marking.of(Listing("series", "1")) == {}
    (settings.data_dir / "isocenter.sqlite").write_bytes(b"no database" * 1000)
    assert marking.of(Listing("series", "1")) == {}
    with pytest.raises(Unavailable, match="can not be used"):
        marking.of(Listing("series", "2"))
