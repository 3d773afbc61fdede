"""The page about backups, for one machine with `isocenter up`: its commands as they are written there."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from commands import isocenter
from ports import free_port

from isocenter_operators.testing import thorax_phantom, write_series

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def commands(section: str) -> list[str]:
    """The lines of the page's section that are typed."""
    page = (ROOT / "docs" / "backup.md").read_text()
    text = page.split(f"## {section}")[1].split("\n## ")[0]
    return [line for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


@contextmanager
def up(place: Path) -> Iterator[None]:
    with (place / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "isocenter.cli", "up"], cwd=place, stdout=log, stderr=log
        )
    said = len((place / "up.log").read_text())
    try:
        wait_for(lambda: "ready after" in (place / "up.log").read_text()[said:] or process.poll() is not None)
        assert process.poll() is None, (place / "up.log").read_text()
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def wait_for(condition: Callable[[], object], within_s: float = 180) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.2)


def job(place: Path, url: str, study_uid: str) -> dict[str, Any]:
    """By the command, once it is over: which is asked over HTTP, because commands take the time that the job needs."""

    def over() -> bool:
        jobs = httpx.get(f"{url}/api/jobs").json()["jobs"]
        return any(each["study_uid"] == study_uid and each["ended"] for each in jobs)

    wait_for(over)
    (only,) = [each for each in isocenter(place, "jobs", "list")["jobs"] if each["study_uid"] == study_uid]
    return dict(only)


def instances(url: str, study_uid: str) -> set[str]:
    listed = httpx.get(f"{url}/dicom-web/studies/{study_uid}/instances").json()
    return {each["00080018"]["Value"][0] for each in listed}


def test_what_was_packed_is_there_again(tmp_path: Path) -> None:
    place = tmp_path / "site"
    (place / "apps").mkdir(parents=True)
    shutil.copytree(ROOT / "tests" / "fuzz" / "mean_density", place / "apps" / "mean_density")
    gateway = free_port()
    settings = {
        "gateway": {"port": gateway},
        "orthanc": {"http_port": free_port(), "dicom_port": free_port()},
        "triton": {"url": "127.0.0.1:9"},  # the discard port: this application asks no model
        "routing": {"settle_s": 1.0},
        "routes": [{"name": "CT", "application": "mean_density", "when": {"Modality": "^CT$"}}],
    }
    (place / "isocenter.yaml").write_text(yaml.safe_dump(settings))
    phantom = thorax_phantom(size=(48, 48, 12), spacing_mm=(7.5, 7.5, 25.0))
    write_series(phantom, tmp_path / "study")
    write_series(phantom, tmp_path / "next", uid_seed="next")
    url = f"http://127.0.0.1:{gateway}"
    pack, unpack, *then = commands("On one machine, with `isocenter up`")
    assert then == ["isocenter up", "isocenter jobs"]

    with up(place):
        (study_uid,) = isocenter(place, "send", tmp_path / "study")["study_uids"]
        before = job(place, url, study_uid)
        assert before["state"] == "done", before["reason"]
        kept = instances(url, study_uid)
    assert len(kept) == 12 + 2
    subprocess.run(["bash", "-ec", pack], cwd=place, check=True)
    backup = (place / "backup.tar.gz").rename(tmp_path / "backup.tar.gz")
    for lost in ("isocenter-data", "isocenter.yaml"):
        path = place / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    shutil.copy(backup, place)
    subprocess.run(["bash", "-ec", unpack], cwd=place, check=True)
    with up(place):
        assert job(place, url, study_uid) == before
        assert instances(url, study_uid) == kept
        (study_uid,) = isocenter(place, "send", tmp_path / "next")["study_uids"]
        assert job(place, url, study_uid)["state"] == "done"
    assert (place / "isocenter-data").stat().st_mode & 0o077 == 0
