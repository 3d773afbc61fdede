"""A shadow's call that does not end, on a real Triton: it is loaded again beside the version that serves."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from patient_model import SMALL, settings_with, wait_until

from isocenter.hung_shadows import HungShadows
from isocenter.job import JobSpec
from isocenter.serving import Serving, Servings
from isocenter.settings import Settings
from isocenter.shadows import Shadows
from isocenter.stack.triton import running_triton
from isocenter.worker import shadowing
from isocenter.worker.hung_shadow import HungShadow
from isocenter.worker.model_process import Server
from isocenter.worker.shadowing import Shadowing
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import InferenceUnavailable
from isocenter_operators.inference.triton import TritonClient

pytestmark = pytest.mark.integration

MODEL = "stuck"
LATE_S = 1.5
POLICY = "version_policy: { specific: { versions: [ 1, 2 ] } }\n"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A model with an active version and a shadow, which was imported as far as Triton sees."""
    settings = settings_with(tmp_path, MODEL)
    imported = settings.data_dir / "models" / MODEL
    imported.parent.mkdir(parents=True)
    shutil.move(settings.triton.model_repository / MODEL, imported)
    shutil.copytree(imported / "1", imported / "2")
    with (imported / "config.pbtxt").open("a") as config:
        config.write(POLICY)
    Servings(settings.data_dir).write(MODEL, Serving(active="1", shadow="2"))
    with running_triton(settings, [MODEL]):
        yield settings


@pytest.fixture
def client(settings: Settings) -> Iterator[TritonClient]:
    with TritonClient(settings.triton.grpc_url) as client:
        yield client


def call(client: TritonClient, version: str, **told: Any) -> None:
    sent = np.arange(SMALL, dtype=np.uint8)
    deadline_s = LATE_S if "hang" in told else 60.0
    answer = client.infer(
        MODEL,
        {"bytes": sent},
        outputs={"bytes": SMALL},
        deadline_s=deadline_s,
        version=version,
        parameters=told,
    )
    np.testing.assert_array_equal(answer["bytes"], ~sent)


def shadowed(settings: Settings, client: TritonClient, number: int) -> Shadowing:
    """The shadow of one job."""
    spec = JobSpec(
        algorithm=Algorithm("patience", "1.0", {MODEL: "1"}),
        study_uid=f"1.2.{number}",
        series_uids=(f"1.2.{number}.1",),
        sop_instance_uids=(f"1.2.{number}.1.1",),
        route="all",
    )
    return Shadowing(settings, client, spec, MODEL, "2", {"state": "done"})


def process_ids(settings: Settings, version: str) -> set[int]:
    server = Server.running(settings)
    assert server is not None
    return {each.process.pid for each in server.of(MODEL, version)}


def hang(
    settings: Settings, client: TritonClient, number: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the shadow of a job hang, which the worker notes."""
    monkeypatch.setattr(Shadowing, "_run", lambda *_: call(client, "2", hang=how))
    assert shadowed(settings, client, number).run() == "failed"
    found = HungShadows(settings.data_dir).of(MODEL, "2")
    assert found is not None
    assert found.state == "refuses"


def test_it_is_loaded_again_beside_the_version_that_serves_and_the_third_time_switched_off(
    settings: Settings, client: TritonClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, config = HungShadows(settings.data_dir), settings.data_dir / "models" / MODEL / "config.pbtxt"
    for number, how in enumerate(("sleep", "c")):  # interrupted, and killed
        before = process_ids(settings, "2")
        hang(settings, client, number, how, monkeypatch)
        with pytest.raises(InferenceUnavailable):
            call(client, "2")
        (told,) = hung.told()
        assert "it refuses every call, and is loaded again as soon as no job runs" in told
        text = config.read_text()

        refused, stop = list[str](), threading.Event()
        asking = threading.Thread(target=_ask, args=(client, refused, stop))
        asking.start()
        shadowed(settings, client, number).hung.see_to()
        stop.set()
        asking.join()

        assert refused == []  # jobs were served all the while
        call(client, "2")
        assert not process_ids(settings, "2") & before
        assert not any(psutil.pid_exists(pid) and _lives(pid) for pid in before)
        assert config.read_text() == text
        (told,) = hung.told()
        assert "and was loaded again; after 3 times it is switched off" in told

    hang(settings, client, 3, "sleep", monkeypatch)
    shadowed(settings, client, 3).hung.see_to()
    (told,) = hung.told()
    assert "(3 times since it was switched on), and was switched off: `isocenter models report stuck`" in told
    assert Servings(settings.data_dir).of(MODEL) == Serving(active="1")
    wait_until(lambda: not process_ids(settings, "2"))
    call(client, "1")
    assert shadowed(settings, client, 4).run() == "not wanted any more"
    assert [each.shadow.state for each in Shadows(settings.data_dir).of(MODEL, "2")] == ["failed"] * 3


def test_one_that_crashes_or_does_not_load_any_more_is_seen_to_as_well(
    settings: Settings, client: TritonClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadowing, "_PAUSE_S", 0.0)
    hung = HungShadows(settings.data_dir)
    hang(settings, client, 1, "die", monkeypatch)
    assert "crashed at" in hung.told()[0]
    HungShadow(settings, MODEL, "2").look()
    assert "it refuses every call" in hung.told()[0]  # nobody has loaded it since
    model = settings.data_dir / "models" / MODEL / "2" / "model.py"
    model.write_text("import no_such_package\n")
    HungShadow(settings, MODEL, "2").see_to()
    (told,) = hung.told()
    assert "and was switched off (it could not be loaded again: " in told
    assert "no_such_package" in told
    assert Servings(settings.data_dir).of(MODEL) == Serving(active="1")
    call(client, "1")


def test_what_others_have_loaded_meanwhile_is_left_as_it_is(
    settings: Settings, client: TritonClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, there = HungShadows(settings.data_dir), HungShadow(settings, MODEL, "2")
    hang(settings, client, 1, "sleep", monkeypatch)
    servings = Servings(settings.data_dir)
    with servings.changing(MODEL):  # somebody's command
        there.see_to()
    assert there.refuses
    servings.write(MODEL, Serving(active="1"))
    there.see_to()
    assert servings.of(MODEL) == Serving(active="1")
    servings.write(MODEL, Serving(active="1", shadow="2"))
    there.see_to()
    processes = process_ids(settings, "2")
    again = hung.of(MODEL, "2")
    assert again is not None
    hung.write(MODEL, "2", again.model_copy(update={"state": "refuses"}))
    there.look()
    assert not there.refuses
    assert process_ids(settings, "2") == processes

    # The version before the active one may be a shadow too, and is loaded for jobs besides.
    servings.write(MODEL, Serving(active="1", earlier=("2",), shadow="2"))
    for number in (2, 3):
        hang(settings, client, number, "sleep", monkeypatch)
        there.see_to()
        call(client, "2")
    assert servings.of(MODEL) == Serving(active="1", earlier=("2",))
    assert "and was switched off" in hung.told()[0]


def _ask(client: TritonClient, refused: list[str], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            call(client, "1")
        except Exception as error:  # noqa: BLE001 - shown by the test
            refused.append(str(error))
        stop.wait(0.02)


def _lives(pid: int) -> bool:
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
