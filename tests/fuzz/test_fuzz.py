"""2,000 mutated series through warm workers, and 60 others through a real archive: none is lost, none does harm."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from ports import free_port

from fuzz.archive import through_archive
from fuzz.mutations import MUTATIONS, case, sound_cases
from fuzz.originals import Original, originals
from fuzz.run import LIMIT_MB, Worker, run
from isocenter.settings import GatewaySettings, OrthancSettings, Settings

SEED, CASES, ARCHIVED = 20261124, 2000, 60

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def sound(test_data: Path) -> tuple[Original, ...]:
    return originals(test_data)


def test_every_mutated_series_ends_as_processed_or_with_a_reason(
    sound: tuple[Original, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run((case(sound, SEED, n) for n in range(CASES)), workers=2, log=tmp_path / "worker.log")
    with capsys.disabled():
        print(f"\n{report.table()}")  # noqa: T201 - the counts are the proof
    assert not report.wrong, "\n".join(report.wrong[:20])
    assert len(report.endings) == CASES
    assert {ending.case.mutation for ending in report.endings} == set(MUTATIONS)
    assert report.counts["processed"] > CASES // 5
    assert report.counts["refused"] > CASES // 5
    assert report.counts["surprise"] < CASES // 100


def test_what_is_sound_is_processed(sound: tuple[Original, ...], tmp_path: Path) -> None:
    report = run(sound_cases(sound), workers=1, log=tmp_path / "worker.log")
    by_name = {ending.case.original: ending.outcome for ending in report.endings}
    for original in sound:
        assert (by_name[original.name] == "processed") == original.slices, (original.name, by_name)


def test_a_case_is_the_same_whenever_it_is_made(sound: tuple[Original, ...]) -> None:
    for number in random.Random(SEED).sample(range(CASES), 20):
        assert case(sound, SEED, number) == case(sound, SEED, number)


def test_a_study_beyond_the_memory_limit_ends_its_job_and_not_the_worker(
    sound: tuple[Original, ...], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (good,) = [each for each in sound_cases(sound) if each.original == "tiny CT"]
    for index, content in enumerate(good.files):
        (tmp_path / "in" / f"{index}.dcm").write_bytes(content)
    task = {"folder": str(tmp_path / "in"), "sink": str(tmp_path / "out")}
    worker = Worker(tmp_path / "worker.log")
    try:
        for wastes_mb in (0, 8 * LIMIT_MB, 0, LIMIT_MB, 64):
            answer = worker.ask(task | {"wastes_mb": wastes_mb})
            expected = "out of memory" if wastes_mb >= LIMIT_MB else "processed"
            assert answer["outcome"] == expected, answer
            assert answer["peak_mb"] <= LIMIT_MB
            if expected == "out of memory":
                assert answer["reason"] == "not enough memory for mean_density on this study"
    finally:
        worker.end()


def test_the_same_through_an_archive(
    sound: tuple[Original, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = Settings(
        data_dir=tmp_path / "data",
        gateway=GatewaySettings(port=free_port()),
        orthanc=OrthancSettings(http_port=free_port(), dicom_port=free_port()),
    )
    cases = (case(sound, SEED + 1, number) for number in range(ARCHIVED))
    report = through_archive(cases, settings, tmp_path)
    with capsys.disabled():
        print(f"\n{report.table()}")  # noqa: T201 - the counts are the proof
    assert not report.wrong, "\n".join(report.wrong[:20])
    assert len(report.endings) == ARCHIVED
    assert report.counts["processed"] > 10
    assert report.counts["refused by the archive"] > 0
    ended = [ending.case.mutation for ending in report.endings if ending.outcome == "ended the archive"]
    assert set(ended) <= {"nested sequences"}, ended
