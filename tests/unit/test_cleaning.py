"""Which folders of jobs are removed, and which stay."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from isocenter.cleaning import Cleaning, Swept
from isocenter.database import prepare
from isocenter.job import JobSpec, State
from isocenter.ledger import Ledger
from isocenter.settings import LimitSettings, Settings
from isocenter_operators.dicom.identity import Algorithm

_DAY_S = 86400.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    site = Settings(
        data_dir=tmp_path / "data", limits=LimitSettings(free_disk_mb=0, jobs_kept_days=30, jobs_kept_mb=5)
    )
    prepare(site)
    return site


class Site:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ledger = Ledger(settings.database)
        self.jobs = settings.data_dir / "jobs"

    def folder(
        self,
        image: str,
        state: State | None = "failed",
        *,
        days: float = 0.0,
        mb: float = 0.001,
        below: str = "rejected",
    ) -> Path:
        """A job that is over, or not, and its folder as it was left so many days ago."""
        spec = JobSpec(
            algorithm=Algorithm("trivial", "1.0"),
            study_uid="1.2",
            series_uids=(f"1.2.{image}",),
            sop_instance_uids=(image,),
            route="everything",
        )
        job_id = spec.identity.job_id
        self.ledger.enter(spec)
        ended = time.time() - days * _DAY_S
        if state is not None:
            self.ledger.begin(job_id, "worker", "life")
            with pytest.MonkeyPatch.context() as then:
                then.setattr(time, "time", lambda: ended)
                self.ledger.end(job_id, state)
        return self.left(self.jobs / job_id, days=days, mb=mb, below=below)

    def left(self, folder: Path, *, days: float, mb: float = 0.001, below: str = "rejected") -> Path:
        file = folder / below / "1.2.3.dcm"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"\0" * int(mb * 1_000_000))
        changed = time.time() - days * _DAY_S
        for each in (file, file.parent, folder):
            os.utime(each, (changed, changed))
        return folder

    def sweep(self) -> Swept:
        return Cleaning(self.settings).sweep()


@pytest.fixture
def site(settings: Settings) -> Site:
    return Site(settings)


def test_before_the_first_job_there_is_nothing(site: Site) -> None:
    assert site.sweep() == Swept(0, 0)


def test_folders_go_with_age_but_never_those_of_jobs_that_are_not_over(site: Site) -> None:
    old, waits = site.folder("1", days=31, mb=1), site.folder("2", None, days=400)
    recent = site.folder("3", days=29)
    swept = site.sweep()
    assert (old.exists(), waits.exists(), recent.exists()) == (False, True, True)
    assert swept.folders == 1
    assert 1_000_000 <= swept.bytes < 1_100_000
    assert site.sweep() == Swept(0, 0)


def test_an_old_folder_of_a_job_that_has_just_ended_stays(site: Site) -> None:
    folder = site.folder("1")
    ages_ago = time.time() - 60 * _DAY_S
    for each in (folder, *folder.rglob("*")):
        os.utime(each, (ages_ago, ages_ago))
    assert site.sweep().folders == 0
    assert folder.exists()


def test_more_than_there_is_room_for_goes_oldest_first(site: Site) -> None:
    newest, oldest = site.folder("1", days=1, mb=1.9), site.folder("2", days=4, mb=1.9)
    middle, runs = site.folder("3", days=3, mb=1.9), site.folder("4", None, days=9, mb=1)
    assert site.sweep().folders == 1  # 6.7 MB of 5: what runs counts, and stays
    assert [each.exists() for each in (oldest, middle, newest, runs)] == [False, True, True, True]
    site.folder("5", None, mb=9)
    assert site.sweep().folders == 2
    assert [each.exists() for each in (middle, newest, runs)] == [False, False, True]


def test_what_nobody_knows_of_goes_after_a_day_and_other_things_stay(site: Site) -> None:
    unknown, fresh = site.left(site.jobs / ("f" * 64), days=2), site.left(site.jobs / ("e" * 64), days=0.5)
    notes = site.left(site.jobs / "notes of an administrator", days=400)
    elsewhere = site.left(site.settings.data_dir / "elsewhere", days=400)
    (site.jobs / ("d" * 64)).symlink_to(elsewhere)
    assert site.sweep().folders == 1
    assert [each.exists() for each in (unknown, fresh, notes)] == [False, True, True]
    assert (elsewhere / "rejected" / "1.2.3.dcm").exists()


def test_priors_of_a_job_whose_worker_died_go_and_its_rejected_results_stay(site: Site) -> None:
    folder = site.folder("1", days=1)
    site.left(folder / "priors" / "1", days=1, mb=1)
    running = site.folder("2", None, days=1, below="priors")
    fresh = site.folder("3", below="priors")
    for each in (folder, folder / "priors"):
        os.utime(each, (time.time() - _DAY_S,) * 2)
    swept = site.sweep()
    assert (folder / "rejected" / "1.2.3.dcm").exists()
    assert not (folder / "priors").exists()
    assert (running / "priors").exists()
    assert (fresh / "priors").exists()
    assert swept.folders == 0
    assert swept.bytes > 1_000_000


def test_a_job_that_is_asked_for_again_while_others_are_removed_keeps_its_folder(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = site.folder("1", days=40), site.folder("2", days=39)
    removed = []

    def slow(path: Path) -> None:
        removed.append(path)
        site.ledger.renew(second.name)

    monkeypatch.setattr("isocenter.cleaning.shutil.rmtree", slow)
    assert site.sweep().folders == 1
    assert removed == [first]


def test_a_folder_that_can_not_be_removed_is_told_and_the_others_go(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, gone = site.folder("1", days=40), site.folder("2", days=39)
    remove = shutil.rmtree

    def refuse(path: Path) -> None:
        if path == stuck:
            raise PermissionError(13, "Permission denied")
        remove(path)

    monkeypatch.setattr("isocenter.cleaning.shutil.rmtree", refuse)
    assert site.sweep().folders == 1
    assert (stuck.exists(), gone.exists()) == (True, False)
    assert f"{stuck} can not be removed: Permission denied" in caplog.text


def test_thousands_of_folders_are_asked_about_in_parts(site: Site) -> None:
    site.jobs.mkdir()
    for number in range(1200):
        (site.jobs / f"{number:064x}").mkdir()
    kept = site.folder("1")
    assert site.sweep().folders == 0  # all of them are of today
    assert kept.exists()
