"""A shadow that hangs is told of, where people look, for as long as it concerns somebody."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from ports import free_port
from served import served
from starlette.applications import Starlette
from threshold_bundle import threshold_bundle

from isocenter.cli import main
from isocenter.gateway.api import API
from isocenter.hung_shadows import Hang, HungShadows
from isocenter.serving import Canary, Serving, Servings
from isocenter.settings import Settings

ROOT = Path(__file__).parents[2]
AT = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC


def test_it_is_told_for_as_long_as_it_concerns_somebody(tmp_path: Path) -> None:
    hung, servings = HungShadows(tmp_path), Servings(tmp_path)
    assert hung.told() == []
    hung.write("liver", "2", Hang(at=(AT,)))
    assert hung.told() == []  # of a version that is for nothing
    for serving, told in (
        (Serving(active="1", shadow="2"), 1),
        (Serving(active="2", earlier=("1",)), 0),
        (Serving(active="1", canary=Canary(version="2", share_percent=5)), 0),
        (Serving(active="1", shadow="3"), 0),
    ):
        servings.write("liver", serving)
        assert len(hung.told()) == told
    hung.write("liver", "2", Hang(at=(AT, AT, AT), state="switched off"))
    for serving, told in (
        (Serving(active="1"), 1),
        (Serving(active="3", earlier=("2",)), 1),
        (Serving(active="2"), 0),
        (Serving(active="1", shadow="2"), 0),
    ):
        servings.write("liver", serving)
        assert len(hung.told()) == told
    (tmp_path / "serving" / "liver.json").write_text("{")
    assert hung.told() == []
    (tmp_path / "shadow" / "liver" / "2" / "hang.json").write_text("{")
    assert hung.of("liver", "2") is None


def test_each_time_counts_until_a_person_has_seen_to_it(tmp_path: Path) -> None:
    hung = HungShadows(tmp_path)
    first = hung.hung("liver", "2")
    assert (len(first.at), first.state, first.exhausted) == (1, "refuses", False)
    # It hung outside Python, and its process was killed: that is the same.
    assert hung.hung("liver", "2", "crashed") == first
    for times in (2, 3):
        hung.write(
            "liver", "2", first.model_copy(update={"at": (AT,) * (times - 1), "state": "loaded again"})
        )
        assert len(hung.hung("liver", "2").at) == times
    assert hung.hung("liver", "2").exhausted
    hung.forget("liver", "2")
    assert hung.hung("liver", "2", "crashed").how == "crashed"


@pytest.mark.parametrize(
    ("hang", "said"),
    [
        (
            Hang(at=(AT,)),
            "shadow version 2 of liver hung at 2026-09-21 14:13:20 UTC: it refuses every call, and is loaded again as "
            "soon as no job runs; `isocenter models shadow liver off` does without it",
        ),
        (
            Hang(at=(0, AT), how="crashed", state="loaded again"),
            "shadow version 2 of liver crashed at 2026-09-21 14:13:20 UTC (2 times since it was switched on), and was "
            "loaded again; after 3 times it is switched off",
        ),
        (
            Hang(at=(0, 0, AT), state="switched off", reason="it could not be loaded again: no memory"),
            "shadow version 2 of liver hung at 2026-09-21 14:13:20 UTC (3 times since it was switched on), and was "
            "switched off (it could not be loaded again: no memory): `isocenter models report liver` names the "
            "studies, `isocenter models shadow liver 2` tries it again",
        ),
    ],
)
def test_what_is_told_says_what_to_do(hang: Hang, said: str) -> None:
    assert hang.said("liver", "2") == said


def test_health_and_the_status_page_tell_it_and_stay_up(tmp_path: Path) -> None:
    Servings(tmp_path).write("liver", Serving(active="1", shadow="2"))
    hung = HungShadows(tmp_path)
    nobody = SimpleNamespace(list=lambda *_: [], newest=lambda *_: [], status=lambda: {"away": ""})
    api = API(nobody, nobody, {"orthanc": lambda: None}, warnings=hung.told)  # type: ignore[arg-type]
    app = Starlette(routes=api.routes)
    with served(app, free_port()) as url, httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/healthz").json() == {"status": "up", "parts": {"orthanc": {"up": True}}}
        hung.hung("liver", "2")
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()["status"]) == (200, "up")
        (warning,) = answer.json()["warnings"]
        assert warning.startswith("shadow version 2 of liver hung at ")
        assert "shadow version 2 of liver hung at " in client.get("/status").text


def test_the_commands_tell_it_and_start_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "apps").mkdir()
    repository = str(ROOT / "triton_models")
    content = {
        "data_dir": "data",
        "apps_dir": "apps",
        "triton": {"model_repository": repository},
        "routes": [],
    }
    (tmp_path / "isocenter.yaml").write_text(json.dumps(content))

    def command(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert main(["models", *words]) == code
        out, error = capsys.readouterr()
        return out if code == 0 else error

    for name, above_hu, words in (("first", 300, []), ("second", 700, ["--as-version"])):
        command("import", str(threshold_bundle(tmp_path / name, above_hu)), "--name", "bone", *words)
    command("shadow", "bone", "2")
    hung = HungShadows(Settings.load().data_dir)
    hung.hung("bone", "2")
    assert "shadow version 2 of bone hung at " in command("list")
    (listed,) = json.loads(command("list", "--json"))["hung_shadows"]
    assert (listed["version"], listed["state"], listed["told"]) == ("2", "refuses", hung.told()[0])
    # It is loaded, and would refuse every job's call.
    assert "shadow version 2 of bone hung at " in command("promote", "bone", "2", code=2)
    command("shadow", "bone", "2")  # nothing that would load it anew
    assert hung.of("bone", "2")
    command("shadow", "bone", "off")
    assert hung.of("bone", "2") is None
    hung.write("bone", "2", Hang(at=(AT, AT, AT), state="switched off"))
    assert "and was switched off" in command("list")
    command("shadow", "bone", "2")
    assert hung.of("bone", "2") is None
