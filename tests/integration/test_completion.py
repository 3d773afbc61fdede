"""When a series or a study is complete, by route: against a real Orthanc, without a worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from routed import routed, said, wait_for

from isocenter.gone_studies import GoneStudies
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.settings import Settings

pytestmark = pytest.mark.integration
pytest_plugins = ["growing_study"]


EXPECTS = {
    "scope": "study",
    "settle_s": 0.6,
    "expect": [
        {"name": "a thin series", "when": {"SeriesDescription": "^thin$"}},
        {"name": "a thick series", "when": {"SeriesDescription": "^thicker$"}},
    ],
}


def test_a_study_starts_as_soon_as_the_expected_series_are_there(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    with routed(settings, EXPECTS) as router:
        send("thin", 1, 3)
        time.sleep(2)
        assert jobs.list() == []
        send("thicker", 1, 2)
        sending = time.monotonic() + 30
        number = 0
        # A third series that keeps coming holds up nothing.
        while time.monotonic() < sending and not jobs.list():
            number += 1
            send("a localizer", number, number)
            time.sleep(0.1)
        (job,) = jobs.list()
        assert job.series_uids == ("1.2.4", "1.2.7")
        assert "1.2.11" in {arrival.series_uid for arrival in router.settling()}
        wait_for(lambda: not router.settling())
        assert [each.id for each in jobs.list()] == [job.id]  # the same images: the same job

        send("thin", 4, 4)  # late
        wait_for(lambda: len(jobs.list()) == 2)
        larger, smaller = jobs.list()
        assert smaller.id == job.id
        wait_for(lambda: jobs.list()[1].state == "cancelled")
        assert f"superseded: job {larger.id[:12]}" in jobs.list()[1].reason


def test_expected_series_that_do_not_come_are_named_and_not_forgotten(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    with routed(settings, EXPECTS, longest_wait_s=2.0) as router:
        send("thin", 1, 3)
        wait_for(lambda: not router.settling() and bool(said(router)))
        assert said(router) == {
            "not wanted: r: a thick series did not come within 2 s; looked at again when more images come"
        }
        send("thicker", 1, 2)
        wait_for(lambda: len(jobs.list()) == 1)


def test_a_study_without_expectations_waits_until_all_of_it_is_quiet(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    with routed(settings, {"scope": "study", "when": {"SeriesDescription": "thi"}}, settle_s=2.0):
        send("thin", 1, 2)
        send("thicker", 1, 2)
        trickling = time.monotonic() + 4  # twice as long as the others would need
        number = 0
        while time.monotonic() < trickling:
            number += 1
            send("a localizer", number, number)
            assert jobs.list() == []
            time.sleep(0.2)
        wait_for(lambda: len(jobs.list()) == 1)
        assert jobs.list()[0].series_uids == ("1.2.4", "1.2.7")


def test_a_series_that_never_pauses_is_begun_after_the_longest_wait(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    with routed(settings, {}, settle_s=30.0, longest_wait_s=1.5):
        for number in range(200):
            send("thin", number + 1, number + 1)
            if jobs.list():
                break
            time.sleep(0.2)
        assert 1 < number < 199


def test_a_series_that_never_pauses_makes_a_job_in_each_longest_wait_and_not_at_every_look(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    with routed(settings, {}, settle_s=30.0, longest_wait_s=2.0):
        began, number = time.monotonic(), 0
        while time.monotonic() < began + 7:
            number += 1
            send("thin", number, number)
            time.sleep(0.1)
        assert 1 <= len(jobs.list()) <= 3


def test_late_images_that_make_the_rule_not_fire_cancel_its_job(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    with routed(settings, {"when": {"instances": {"at_most": 2}}}) as router:
        send("thin", 1, 2)
        wait_for(lambda: len(jobs.list()) == 1 and not router.settling())
        (job,) = jobs.list()
        send("thin", 3, 3)
        wait_for(lambda: jobs.list()[0].state == "cancelled")
        assert jobs.list()[0].reason == "images came or went, and r does not want them now"
        wait_for(lambda: not router.settling())
        assert said(router) == {
            "not wanted: r: instances is 3, and should be at most 2; "
            f"job {job.id[:12]}, of the images before, was cancelled"
        }


def test_results_of_the_images_before_stay_and_the_verdict_says_so(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    with routed(settings, {"when": {"instances": {"at_most": 2}}}) as router:
        send("thin", 1, 2)
        wait_for(lambda: len(jobs.list()) == 1 and not router.settling())
        (job,) = jobs.list()
        ledger = Ledger(settings.database)
        ledger.begin(job.id, "worker", "life")
        ledger.store(job.id, [{"sop_instance_uid": "9.9", "modality": "SEG"}])
        for number in (3, 4):  # while it stores them, and when it has ended
            send("thin", number, number)
            wait_for(lambda number=number: [each.instances for each in router.newest()] == [number])
            wait_for(lambda: not router.settling())
            assert [
                each.endswith(f"; the results of job {job.id[:12]}, of the images before, stay")
                for each in said(router)
            ] == [True]
            ledger.end(job.id, "done")
        assert jobs.list()[0].state == "done"


def test_a_job_that_another_route_wants_too_is_not_cancelled_by_one_that_does_not(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    routes = ({"name": "any"}, {"name": "few", "when": {"instances": {"at_most": 2}}})
    with routed(settings, *routes) as router:
        send("thin", 1, 2)
        wait_for(lambda: len(jobs.list()) == 1 and not router.settling())
        send("thin", 3, 3)
        wait_for(lambda: len(jobs.list()) == 2 and not router.settling())
        larger, smaller = jobs.list()
        assert larger.state == "queued"
        assert smaller.reason == f"superseded: job {larger.id[:12]} does more images"


def test_of_two_routes_that_ask_for_the_same_work_the_more_urgent_one_makes_it(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    with routed(
        settings, {"name": "slow", "priority": "batch"}, {"name": "fast", "priority": "urgent"}
    ) as router:
        send("thin", 1, 2)
        wait_for(lambda: bool(jobs.list()) and not router.settling())
        (job,) = jobs.list()
        assert (job.route, job.priority) == ("fast", "urgent")


def test_stat_is_begun_at_once(settings: Settings, send: Callable[..., list[str]], jobs: Jobs) -> None:
    route = {"priority": {"STAT": {"StudyPriorityID": "HIGH"}}}
    with routed(settings, route, settle_s=30.0):
        send("thin", 1, 2, StudyPriorityID="LOW")
        send("thicker", 1, 2, StudyPriorityID="HIGH")
        wait_for(lambda: len(jobs.list()) == 1)
        (job,) = jobs.list()
        assert (job.priority, job.series_uids) == ("STAT", ("1.2.7",))
        assert job.seconds["settle"] < 5


def test_stat_does_not_wait_for_the_routes_own_settle_time(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    route = {"settle_s": 30.0, "priority": {"STAT": {"StudyPriorityID": "HIGH"}}}
    with routed(settings, route):
        send("thicker", 1, 2, StudyPriorityID="HIGH")
        wait_for(lambda: len(jobs.list()) == 1, within_s=15)


def test_what_waits_says_what_for(settings: Settings, send: Callable[..., list[str]], jobs: Jobs) -> None:
    gone = {"name": "gone", "applications": ("none",), "when": {"SeriesDescription": "^a localizer$"}}
    with routed(settings, EXPECTS, gone, longest_wait_s=6.0) as router:

        def waiting() -> dict[str, str]:
            return {each.series_uid: each.waiting for each in router.newest()}

        send("thin", 1, 3)
        wait_for(lambda: waiting() == {"1.2.4": "r: waits for a thick series, 6 s at most"})
        send("a localizer", 1, 1)
        wait_for(lambda: "no application 'none'" in waiting().get("1.2.11", ""))
        assert "no application 'none'" in router.status()["away"]


def test_a_condition_on_the_study_is_asked_again_when_a_series_comes(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    route = {"when": {"SeriesDescription": "^thin$", "any_series": {"SeriesDescription": "^thicker$"}}}
    with routed(settings, route) as router:
        send("thin", 1, 2)
        wait_for(lambda: not router.settling() and bool(said(router)))
        assert jobs.list() == []
        send("thicker", 1, 2)
        wait_for(lambda: len(jobs.list()) == 1)
        assert jobs.list()[0].series_uids == ("1.2.4",)


def test_each_application_of_a_route_gets_its_own_job_once(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    routes = (
        {"name": "one", "applications": ("trivial", "other")},
        {"name": "two", "applications": ("trivial",)},
    )
    with routed(settings, *routes):
        send("thin", 1, 2)
        wait_for(lambda: len(jobs.list()) == 2)
        time.sleep(1)
        assert sorted(job.application for job in jobs.list()) == ["other", "trivial"]


def test_what_even_the_log_did_not_tell_is_found_by_comparing(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    with routed(settings, {}) as router:
        send("thin", 1, 2)
        wait_for(lambda: len(jobs.list()) == 1 and not router.settling())
    (known,) = jobs.list()
    send("thin", 3, 3)
    send("thicker", 1, 2)
    httpx.delete(f"{settings.orthanc.rest_url}/changes").raise_for_status()
    with routed(settings, {}) as router:
        wait_for(lambda: len(jobs.list()) == 3 and not router.settling())
        assert {each.series_uid: each.instances for each in router.newest()} == {"1.2.4": 3, "1.2.7": 2}
        assert {job.id: job.attempts for job in jobs.list()}[known.id] == known.attempts


def test_only_a_study_that_is_gone_is_forgotten_and_one_that_comes_again_is_done_once(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    ledger, gone = Ledger(settings.database), GoneStudies(settings, jobs)
    much_later = time.time() + 10 * 365 * 86400

    def attempts() -> list[int]:
        return [each.attempt for each in ledger.newest(10)]

    def end_all() -> None:
        """By hand, and then long ago: nothing but the ledger knows of it any more."""
        for job in jobs.list():
            jobs.cancel(job.id)
        jobs.forget(datetime.now(UTC) + timedelta(days=1))
        assert jobs.list() == []

    def compared(count: int) -> None:
        """All that the archive holds is compared with what is known, and the log tells nothing."""
        httpx.delete(f"{settings.orthanc.rest_url}/changes").raise_for_status()
        with routed(settings, {}) as router:
            time.sleep(2)
            wait_for(lambda: not router.settling())
            assert len(router.newest()) == count

    with routed(settings, {}) as router:
        send("thin", 1, 2)
        wait_for(lambda: len(jobs.list()) == 1 and not router.settling())
    end_all()
    assert [gone.forget(much_later) for _ in range(2)] == [0, 0]  # the archive holds it
    compared(1)
    assert attempts() == [1]
    send("thin", 3, 3)
    compared(1)
    assert attempts() == [1, 1]  # of three images
    end_all()

    (study,) = httpx.get(f"{settings.orthanc.rest_url}/studies").json()
    httpx.delete(f"{settings.orthanc.rest_url}/studies/{study}").raise_for_status()
    assert gone.forget(much_later) == 0  # nobody has looked
    compared(0)
    assert gone.forget() == 0  # since now
    assert gone.forget(time.time() + 364 * 86400) == 0
    assert attempts() == [1, 1]
    assert gone.forget(much_later) == 1
    assert attempts() == []
    with routed(settings, {}) as router:
        send("thin", 1, 3)
        wait_for(lambda: len(jobs.list()) == 1 and not router.settling())
    compared(1)
    assert attempts() == [1]


def test_without_room_on_the_disk_nothing_is_begun_and_nothing_is_lost(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    full = settings.model_copy(update={"limits": settings.limits.model_copy(update={"free_disk_mb": 10**9})})
    with routed(full, {}) as router:
        send("thin", 1, 2)
        wait_for(lambda: "limits.free_disk_mb is 1000000000" in router.status()["away"])
        time.sleep(1)
        assert jobs.list() == []
    with routed(settings, {}) as router:
        wait_for(lambda: len(jobs.list()) == 1)
        assert router.status()["away"] == ""


def test_that_there_is_no_room_is_told_while_the_archive_is_away_too(tmp_path: Path) -> None:
    nowhere = Settings(data_dir=tmp_path, orthanc={"http_port": 9}, limits={"free_disk_mb": 10**9}, routes=[])
    with routed(nowhere, {}) as router:
        wait_for(lambda: "does not answer" in router.status()["away"])
        assert "limits.free_disk_mb is 1000000000" in router.status()["away"]


def test_results_of_ours_are_closed_however_often_they_come(
    settings: Settings, send: Callable[..., list[str]], jobs: Jobs
) -> None:
    result = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Manufacturer": "Isocenter"}
    with routed(settings, {}) as router:
        for number in range(1, 3):  # a job that is done again stores its results again
            send("thin", number, number, **result)
            wait_for(lambda number=number: [each.instances for each in router.newest()] == [number])
            wait_for(lambda: not router.settling())
        assert said(router) == {"not wanted: : Isocenter made it"}
        assert jobs.list() == []
