"""A worker is killed when its Segmentation is in the archive and its report is not: the next one finishes the job."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos.count import count
from chaos.modality import Archive, Study, study
from chaos.site import Site, running_site

from isocenter.ledger import Ledger
from isocenter.ledger_entry import Entry
from isocenter_operators.dicomweb.client import DICOMwebClient

pytestmark = pytest.mark.integration


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    with running_site(tmp_path) as site:
        yield site


def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def stored(site: Site, study: Study) -> dict[str, set[str]]:
    """The SOP Instance UIDs of the study's results, by modality, asked of the archive by QIDO-RS."""
    found: dict[str, set[str]] = {}
    with DICOMwebClient(f"{site.archive_url}/dicom-web") as client:
        for series in client.search_series(study.uid):
            modality = series["00080060"]["Value"][0]
            if modality != "CT":
                instances = client.search_instances(study.uid, series["0020000E"]["Value"][0])
                found.setdefault(modality, set()).update(each["00080018"]["Value"][0] for each in instances)
    return found


def entries(site: Site, study: Study) -> list[Entry]:
    return Ledger(site.settings.database).of_study(study.uid)


def test_the_report_follows_and_nothing_is_double(site: Site) -> None:
    sent = study("plain", 0, random.Random(1), "between")
    (worker,) = site.workers
    site.to_orthanc.mode = "STOW's first part"
    Archive(site.archive_url, site.archive_dicom_port, done=lambda *_: None).send(sent, random.Random(1))
    until(lambda: bool(stored(site, sent)))
    with worker.held:  # nobody starts it again meanwhile
        worker.kill()
        site.to_orthanc.mode = "through"
        half = stored(site, sent)
        assert half.keys() == {"SEG"}
        (storing,) = [each for each in entries(site, sent) if each.storing]
        assert len(half["SEG"]) == 1 < len(storing.results)
        worker.start()
        worker.wait()

    until(lambda: all(each.state == "done" for each in entries(site, sent)))

    whole = stored(site, sent)
    promised = {each["sop_instance_uid"] for each in storing.results}
    assert half["SEG"] <= whole["SEG"]
    assert promised <= whole["SEG"] | whole["SR"]
    counted = count(f"{site.archive_url}/dicom-web", [sent])
    assert (counted.lost, counted.double, counted.images_missing) == ([], [], [])
    assert (
        counted.current == len(entries(site, sent)) == 2
    )  # of two applications, one Segmentation and one report each
    assert counted.instances == 4
    (again,) = [each for each in entries(site, sent) if each.job_id == storing.job_id]
    assert (again.deaths, again.results) == (1, storing.results)
