"""A shadow that hung, where the server is away or the model out of service: nothing is done, nor said to be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from isocenter.hung_shadows import HungShadows
from isocenter.serving import Serving, Servings
from isocenter.settings import Settings, TritonSettings
from isocenter.worker import hung_shadow
from isocenter.worker.hung_shadow import HungShadow
from isocenter_operators.errors import InferenceUnavailable

BOTH = "version_policy: { specific: { versions: [ 1, 2 ] } }"
FIRST = "version_policy: { specific: { versions: [ 1 ] } }"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(data_dir=tmp_path, routes=[], triton=TritonSettings(model_repository=tmp_path))
    config = tmp_path / "models" / "liver" / "config.pbtxt"
    config.parent.mkdir(parents=True)
    config.write_text(f"{BOTH}\n")
    Servings(tmp_path).write("liver", Serving(active="1", shadow="2"))
    HungShadows(tmp_path).hung("liver", "2")
    return settings


class Control:
    """How the server answers each time when it is asked to load."""

    def __init__(self, *answers: str) -> None:
        self.answers = [*answers]
        self.asked = 0

    def __call__(self, *_: object, **__: object) -> Control:
        return self

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def load(self) -> None:
        self.asked += 1
        if answer := self.answers.pop(0):
            raise InferenceUnavailable(answer)


def server(monkeypatch: pytest.MonkeyPatch, control: Control) -> None:
    """One that has no process of the version, and was started after that hung."""
    there = SimpleNamespace(process=SimpleNamespace(create_time=lambda: float("inf")), of=lambda *_: [])
    monkeypatch.setattr(hung_shadow.Server, "running", lambda _: there)
    monkeypatch.setattr(hung_shadow, "ModelControl", control)


def test_a_model_that_was_taken_out_of_service_is_not_loaded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = Control("", "")
    server(monkeypatch, control)
    Servings(settings.data_dir).write("liver", Serving(active="1", shadow="2", loaded=False))
    there = HungShadow(settings, "liver", "2")
    there.see_to()
    assert control.asked == 0
    assert there.refuses


def test_a_server_that_goes_away_meanwhile_gets_the_version_at_its_next_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings.data_dir / "models" / "liver" / "config.pbtxt"
    server(monkeypatch, Control("", "no server", "no server"))
    there = HungShadow(settings, "liver", "2")
    there.see_to()
    assert there.refuses
    assert BOTH in config.read_text()


def test_a_newer_server_that_was_started_without_it_has_not_loaded_it_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was ended in the middle of loading it again has left it out."""
    config = settings.data_dir / "models" / "liver" / "config.pbtxt"
    config.write_text(f"{FIRST}\n")
    control = Control("")
    server(monkeypatch, control)
    there = HungShadow(settings, "liver", "2")
    there.look()
    assert there.refuses
    there.see_to()
    assert not there.refuses
    assert BOTH in config.read_text()
    assert control.asked == 1
