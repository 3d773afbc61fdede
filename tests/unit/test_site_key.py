"""De-identified processing as the service knows it: the site's key, a job of its own, what can not be run so."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from isocenter.job import JobSpec
from isocenter.route import Deidentify, Route
from isocenter.site_key import site_key
from isocenter.worker import runner
from isocenter_operators.dicom.deidentify import Deidentification
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import ConfigurationError
from isocenter_operators.manifest import read_manifest
from isocenter_operators.run import Folder, Run


def test_every_worker_has_the_same_key_and_every_site_another(tmp_path: Path) -> None:
    sites = [f"sqlite:///{tmp_path / name}.sqlite" for name in ("one", "other")]
    with ThreadPoolExecutor(8) as workers:
        keys = set(workers.map(site_key, [sites[0]] * 8))
    assert len(keys) == 1
    (key,) = keys
    assert len(key) == 32
    assert site_key(sites[1]) != key
    assert site_key(sites[0]) == key


def test_a_route_says_what_is_kept() -> None:
    def said(deidentify: object) -> Deidentify | None:
        return Route(name="a", application="x", deidentify=deidentify).deidentify

    assert said(True) == Deidentify()
    assert said(False) is said(None) is None
    assert said({"keep": ["dates"]}) == Deidentify(keep=("dates",))
    with pytest.raises(ValidationError, match="patient_characteristics"):
        said({"keep": ["names"]})


def test_it_is_another_job_than_with_the_identity() -> None:
    """Its results have UIDs of their own: neither overwrites the other in the ledger, nor replaces its results."""
    specs = [
        JobSpec(Algorithm("a", "1"), "1.2", ("1.3",), ("1.4",), "r", deidentify=how)
        for how in (None, Deidentify(), Deidentify(keep=("dates",)))
    ]
    assert len({each.identity.job_id for each in specs}) == 3
    assert len({each.subject for each in specs}) == 3
    for spec in specs:
        assert JobSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec
    before = specs[0].as_json()
    del before["deidentify"]  # as a job was queued by an earlier version
    assert JobSpec.from_json(before) == specs[0]


def test_an_application_that_can_not_hide_it_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "app.yaml").write_text("application: {title: other, version: '1.0'}\n")
    (folder / "app.py").write_text("def application(task):\n    return object()\n")
    task = Run(Folder(tmp_path), Folder(tmp_path), deidentification=Deidentification(b"k" * 32))
    with pytest.raises(ConfigurationError, match=r"other 1\.0 can not be run de-identified"):
        runner.run(read_manifest(folder), task)
