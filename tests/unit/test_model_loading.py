"""Imported models on a Triton elsewhere that does not answer as it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from isocenter.model_loading import load_missing
from isocenter.settings import Settings, TritonSettings
from isocenter.stack.versions import ModelVersions
from isocenter.worker.retries import trouble_of
from isocenter_operators.errors import DeadlineExceeded, InferenceUnavailable
from isocenter_operators.inference.control import ModelControl
from isocenter_operators.inference.triton import TritonClient


def with_bone(folder: Path) -> Settings:
    """Of a site that has imported this model."""
    (folder / "models" / "bone").mkdir(parents=True)
    (folder / "models" / "bone" / "config.pbtxt").touch()
    return Settings(data_dir=folder, triton=TritonSettings(url="127.0.0.1:1"))


def test_a_silent_server_is_away_and_no_call_of_a_model_is_stuck_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def says_nothing(_: TritonClient) -> dict[str, list[str]]:
        raise DeadlineExceeded("it said nothing within 5 s", model="")

    monkeypatch.setattr(TritonClient, "ready", lambda *_: False)
    monkeypatch.setattr(TritonClient, "versions", says_nothing)
    with pytest.raises(InferenceUnavailable, match="said nothing") as raised:
        load_missing(with_bone(tmp_path), {"bone": "1"})
    assert trouble_of(raised.value).name == "away"


def test_a_model_is_taken_out_and_put_back_where_the_server_chooses_for_itself_what_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(_: ModelControl) -> None:
        raise InferenceUnavailable("explicit model load / unload is not allowed if polling is enabled")

    monkeypatch.setattr(TritonClient, "versions", lambda _: {"bone": ["1"]})
    monkeypatch.setattr(ModelControl, "load", refuses)
    monkeypatch.setattr(ModelControl, "unload", refuses)
    (tmp_path / "apps" / "bone").mkdir(parents=True)
    (tmp_path / "apps" / "bone" / "app.yaml").write_text(
        "application: {title: Bone, version: '1'}\nisocenter: {models: {bone: '1'}, deadline_s: 60}\n"
    )
    settings = Settings(
        data_dir=tmp_path / "data", apps_dir=tmp_path / "apps", triton=TritonSettings(url="127.0.0.1:1")
    )
    versions = ModelVersions(settings, "bone")
    taken_out, put_back = versions.take_out(), versions.put_back()
    assert (taken_out.serving.loaded, put_back.serving.loaded) == (False, True)
    for change in (taken_out, put_back):
        assert (change.live, "chooses for itself what it loads" in change.served) == (False, True)


def test_what_a_server_that_chooses_for_itself_does_not_serve_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(_: ModelControl) -> None:
        raise InferenceUnavailable("explicit model load / unload is not allowed if polling is enabled")

    monkeypatch.setattr(TritonClient, "why_not_ready", lambda *_: "model 'bone' is UNAVAILABLE: no weights")
    monkeypatch.setattr(TritonClient, "versions", lambda _: {"bone": []})
    monkeypatch.setattr(ModelControl, "load", refuses)
    with pytest.raises(InferenceUnavailable, match="no weights; explicit model load"):
        load_missing(with_bone(tmp_path), {"bone": "1"})
