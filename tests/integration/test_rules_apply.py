"""`isocenter rules apply`: rules asked once more about studies that were decided on, against a real Orthanc."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import pytest
import yaml
from pydicom import Dataset
from routed import routed, said, wait_for

from isocenter.arrivals import Arrivals
from isocenter.cli import main
from isocenter.jobs import Jobs
from isocenter.settings import OrthancSettings, Settings

pytestmark = pytest.mark.integration
pytest_plugins = ["growing_study", "postgres"]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("postgres") if request.param == "postgresql" else None


def rules_apply(
    settings: Settings, study_uid: str, *more: str, routes: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What `isocenter rules apply --study` says as JSON, with these routes in the file."""
    kept = {"data_dir", "apps_dir", "database_url", "orthanc", "routing", "limits"}
    given = settings.model_dump(mode="json", include=kept, exclude_none=True)
    named = [{"name": "r", "applications": ["trivial"], **each} for each in routes]
    file = settings.data_dir / "isocenter.yaml"
    file.write_text(yaml.safe_dump({**given, "routes": [_plain(each) for each in named]}))
    with redirect_stdout(StringIO()) as out:
        assert main(["rules", "--config", str(file), "apply", "--study", study_uid, "--json", *more]) == 0
    answer: dict[str, Any] = json.loads(out.getvalue())
    return answer


def _plain(route: dict[str, Any]) -> dict[str, Any]:
    return {**route, "applications": list(route["applications"])}


def test_a_new_or_changed_route_takes_what_was_decided_on_before_when_it_is_asked_to(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs, image: Dataset
) -> None:
    study_uid = str(image.StudyInstanceUID)
    with routed(settings, {"when": {"SeriesDescription": "^thin$"}}) as router:
        send("thin", 1, 2)
        send("thicker", 1, 2)
        wait_for(lambda: len(jobs.list()) == 1 and len(said(router)) == 2 and not router.settling())
    changed = (
        {"when": {"SeriesDescription": "^thi"}},
        {"name": "new", "applications": ("other",), "scope": "study", "priority": "STAT"},
    )
    with routed(settings, *changed) as router:
        preview = rules_apply(settings, study_uid, routes=changed)
        expected = {("r", "trivial", ("1.2.7",)), ("new", "other", ("1.2.4", "1.2.7"))}
        assert {
            (each["route"], each["application"], tuple(sorted(each["series_uids"])))
            for each in preview["jobs"]
        } == expected
        assert len(jobs.list()) == 1
        assert router.settling() == []

        assert rules_apply(settings, study_uid, "--yes", routes=changed)["jobs"] == preview["jobs"]
        wait_for(lambda: len(jobs.list()) == 3 and not router.settling())
        new = [job for job in jobs.list() if job.priority == "batch"]  # no old study before what arrives
        assert {(job.route, job.application, tuple(sorted(job.series_uids))) for job in new} == expected
        for _ in range(2):
            assert rules_apply(settings, study_uid, "--yes", routes=changed)["jobs"] == []
        assert [job.attempts for job in jobs.list()] == [1, 1, 1]

        send("thin", 3, 3)  # what comes now is new again
        wait_for(lambda: jobs.list()[0].priority == "STAT")


def test_what_an_archive_held_before_is_taken_when_it_is_asked_to(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs, image: Dataset
) -> None:
    elsewhere = settings.model_copy(update={"orthanc": OrthancSettings(url=settings.orthanc.rest_url)})
    study_uid = str(image.StudyInstanceUID)
    send("thin", 1, 2)
    with routed(elsewhere, {}) as router:
        wait_for(lambda: Arrivals(settings.database).resources() != {})
        assert router.settling() == []
        assert len(rules_apply(elsewhere, study_uid, "--yes", routes=[{}])["jobs"]) == 1
        wait_for(lambda: len(jobs.list()) == 1 and not router.settling())
        assert rules_apply(elsewhere, study_uid, "--yes", routes=[{}])["jobs"] == []


def test_what_was_there_before_gives_a_route_that_has_a_job_no_other_one(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs, image: Dataset
) -> None:
    elsewhere = settings.model_copy(update={"orthanc": OrthancSettings(url=settings.orthanc.rest_url)})
    of_study = {"scope": "study"}
    send("thin", 1, 2)
    with routed(elsewhere, of_study) as router:
        wait_for(lambda: Arrivals(settings.database).resources() != {})
        send("thicker", 1, 2)
        wait_for(lambda: len(jobs.list()) == 1 and not router.settling())
    new = {"name": "new", "applications": ("other",)}
    with routed(elsewhere, of_study, new) as router:
        study_uid = str(image.StudyInstanceUID)
        preview = rules_apply(elsewhere, study_uid, "--yes", routes=(of_study, new))
        assert {(each["route"], *each["series_uids"]) for each in preview["jobs"]} == {
            ("new", "1.2.4"),
            ("new", "1.2.7"),
        }
        wait_for(lambda: len(jobs.list()) == 3 and not router.settling())
        assert [job.route for job in jobs.list()].count("r") == 1


def test_a_route_whose_scope_was_changed_is_another_one(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs, image: Dataset
) -> None:
    with routed(settings, {}) as router:
        send("thin", 1, 2)
        send("thicker", 1, 2)
        wait_for(lambda: len(jobs.list()) == 2 and not router.settling())
    of_study = {"scope": "study"}
    with routed(settings, of_study) as router:
        study_uid = str(image.StudyInstanceUID)
        assert len(rules_apply(settings, study_uid, "--yes", routes=[of_study])["jobs"]) == 1
        wait_for(lambda: len(jobs.list()) == 3 and not router.settling())
        assert rules_apply(settings, study_uid, "--yes", routes=[of_study])["jobs"] == []
