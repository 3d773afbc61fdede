"""A call of a model that does not end: it is ended, on a real Triton, and the next one is served."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from patient_model import LARGE, SMALL, call, settings_with, wait_until, waiting

from isocenter.settings import Settings, TritonSettings
from isocenter.stack.triton import running_triton
from isocenter.worker import stuck_model
from isocenter.worker.model_process import Server
from isocenter.worker.stuck_model import end_stuck_call
from isocenter_operators.errors import DeadlineExceeded, InferenceUnavailable, ModelCrashed, OutOfMemory
from isocenter_operators.inference.shared_memory import PREFIX, SHARED_MEMORY
from isocenter_operators.inference.triton import TritonClient

pytestmark = pytest.mark.integration

# A little more than the application's deadline, so that a call which hangs is seen to be stuck at the first look.
LATE_S = 2.5


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = settings_with(tmp_path, "stuck", "other")
    with running_triton(settings, ["stuck", "other"]):
        prefix = _server(settings).region_prefix
        assert _regions(prefix)
        yield settings
    assert not _regions(prefix)


@pytest.fixture
def client(settings: Settings) -> Iterator[TritonClient]:
    with TritonClient(settings.triton.grpc_url) as client:
        yield client
    assert not _lent()


def _server(settings: Settings) -> Server:
    server = Server.running(settings)
    assert server is not None
    return server


def _regions(prefix: str) -> set[str]:
    """The shared memory of the models' processes."""
    return {path.name for path in SHARED_MEMORY.glob(f"{prefix}*") if path.suffix != ".lock"}


def _lent() -> set[str]:
    """The client's shared memory."""
    return {path.name for path in SHARED_MEMORY.glob(f"{PREFIX}{os.getpid()}.*")}


def _process_ids(settings: Settings, model: str) -> set[int]:
    return {each.process.pid for each in _server(settings).of(model)}


def _is_served_again(client: TritonClient, model: str = "stuck") -> bool:
    try:
        call(client, model)
    except InferenceUnavailable:
        return False
    return True


@pytest.mark.parametrize(("hang", "size"), [("sleep", LARGE), ("regex", SMALL)])
def test_a_call_that_hangs_in_python_is_interrupted(
    settings: Settings, client: TritonClient, hang: str, size: int, tmp_path: Path
) -> None:
    server = _server(settings)
    regions, other = len(_regions(server.region_prefix)), _process_ids(settings, "other")
    end = tmp_path / "end"
    with ThreadPoolExecutor(2) as threads:
        living = threads.submit(call, client, "other", until=str(end))
        with pytest.raises(DeadlineExceeded) as late:
            call(client, "stuck", size, deadline_s=LATE_S, hang=hang)
        behind = threads.submit(call, client, "stuck")
        wait_until(lambda: waiting(settings, "stuck") == 1)

        said = end_stuck_call(settings, late.value.model).said

        assert said == "a call of model 'stuck' was stuck: it was interrupted, and the model was loaded again"
        with pytest.raises(
            InferenceUnavailable, match="is being loaded again, after a call that did not end"
        ):
            behind.result()
        call(client, "stuck", size)
        end.touch()
        living.result()  # of the other model, all the while
    assert _process_ids(settings, "other") == other
    assert len(_regions(server.region_prefix)) == regions
    assert not [each for each in server.process.children() if each.status() == psutil.STATUS_ZOMBIE]
    assert server.abandoned_bytes() == 0


def test_a_call_that_hangs_outside_python_is_killed(
    settings: Settings, client: TritonClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, end = _server(settings), tmp_path / "end"
    with ThreadPoolExecutor(1) as thread:
        living = thread.submit(call, client, "other", until=str(end))
        with pytest.raises(DeadlineExceeded):
            call(client, "stuck", deadline_s=LATE_S, hang="c")
        said = end_stuck_call(settings, "stuck").said
        assert said == "a call of model 'stuck' was stuck: it was killed, and the model was loaded again"
        call(client, "stuck")
        end.touch()
        living.result()
    assert 0 < server.abandoned_bytes() < 10e6  # this server keeps it until its end
    assert server.process.is_running()

    # As on a machine where what was left does not fit any more: the server ends, and takes it along.
    with pytest.raises(DeadlineExceeded):
        call(client, "stuck", deadline_s=LATE_S, hang="c")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert (
        "Triton was ended as a whole, because calls that were killed"
        in end_stuck_call(settings, "stuck").said
    )
    wait_until(lambda: Server.running(settings) is None)
    assert (
        end_stuck_call(settings, "stuck").said
        == "Triton is not running on this machine, so no call is stuck there"
    )


def test_a_model_at_work_is_left_alone(
    settings: Settings, client: TritonClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, end = tmp_path / "order", tmp_path / "end"
    processes = _process_ids(settings, "stuck")
    call(client, "stuck")
    (tmp_path / "no apps").mkdir()
    said = end_stuck_call(settings.model_copy(update={"apps_dir": tmp_path / "no apps"}), "stuck").said
    assert "at work, it ended a call or was loaded" in said  # of 300 s, as no application says how long

    def within(limit_s: float, true: Callable[[], bool]) -> bool:
        end.touch()
        return watched(limit_s, true)

    watched = stuck_model._within
    monkeypatch.setattr(stuck_model, "_within", within)
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(call, client, "stuck", order=str(order), tag="slow", until=str(end))
        wait_until(order.exists)
        with pytest.raises(DeadlineExceeded):
            call(client, "stuck", deadline_s=LATE_S)
        assert "has answered meanwhile" in end_stuck_call(settings, "stuck").said
        slow.result()
    assert _process_ids(settings, "stuck") == processes


def test_two_jobs_that_waited_for_the_same_call_end_it_once(
    settings: Settings, client: TritonClient, tmp_path: Path
) -> None:
    order = tmp_path / "order"
    with ThreadPoolExecutor(2) as threads:
        hangs: dict[str, Any] = {"order": str(order), "tag": "hangs", "hang": "sleep"}
        calls = [threads.submit(call, client, "stuck", deadline_s=LATE_S, **hangs)]
        wait_until(order.exists)
        calls.append(threads.submit(call, client, "stuck", deadline_s=LATE_S))
        for each in calls:
            with pytest.raises(DeadlineExceeded):
                each.result()
        ended = [threads.submit(end_stuck_call, settings, "stuck") for _ in range(2)]
        said = sorted(each.result().said for each in ended)
    assert "was interrupted" in said[0]
    assert said[1].startswith("model 'stuck' was loaded again meanwhile, for another job")
    call(client, "stuck")


@pytest.mark.parametrize("during_a_call", [True, False])
def test_a_model_whose_process_died_is_loaded_again(
    settings: Settings, client: TritonClient, during_a_call: bool
) -> None:
    if not during_a_call:
        (process,) = _server(settings).of("stuck")
        process.process.send_signal(signal.SIGKILL)
    with pytest.raises(ModelCrashed, match=r"process of model 'stuck' .* has ended .*loaded again"):
        call(client, "stuck", hang="die")
    with pytest.raises(ModelCrashed):  # Triton does nothing about it by itself
        call(client, "stuck")
    assert (
        end_stuck_call(settings, "stuck").said
        == "the process of model 'stuck' had ended; it was loaded again"
    )
    call(client, "stuck")


def test_every_instance_of_a_model_that_gives_no_answer_is_ended(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "stuck", instances=2)
    with (
        running_triton(settings, ["stuck"]),
        TritonClient(settings.triton.grpc_url) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        hanging = [
            threads.submit(call, client, "stuck", deadline_s=LATE_S, hang=hang) for hang in ("sleep", "c")
        ]
        for each in hanging:
            with pytest.raises(DeadlineExceeded):
                each.result()
        said = end_stuck_call(settings, "stuck").said
        assert said.startswith("a call of 2 instances of model 'stuck' was stuck: it was killed")
        call(client, "stuck")
        assert len(_process_ids(settings, "stuck")) == 2


def test_a_model_that_can_not_be_loaded_again_ends_the_server(
    settings: Settings, client: TritonClient
) -> None:
    with pytest.raises(DeadlineExceeded):
        call(client, "stuck", deadline_s=LATE_S, hang="sleep")
    (settings.triton.model_repository / "stuck" / "1" / "model.py").write_text("import no_such_package\n")
    said = end_stuck_call(settings, "stuck").said
    assert said.startswith("a call of model 'stuck' was stuck; as it could not be loaded again (")
    assert said.endswith("Triton was ended as a whole")
    wait_until(lambda: Server.running(settings) is None)


def test_on_another_machine_the_model_is_loaded_beside_the_call(
    settings: Settings, client: TritonClient, tmp_path: Path
) -> None:
    remote = settings.model_copy(update={"triton": TritonSettings(url=settings.triton.grpc_url)})
    with pytest.raises(DeadlineExceeded):
        call(client, "stuck", deadline_s=LATE_S, hang="sleep")
    said = end_stuck_call(remote, "stuck").said
    assert (
        "was loaded again; the call that is stuck keeps its memory there until that server is restarted"
        in said
    )
    call(client, "stuck")
    assert "restart that server" not in end_stuck_call(remote, "other").said
    away = TritonSettings(url="127.0.0.1:1")
    assert (
        "could not be ended: Triton does not answer"
        in end_stuck_call(settings.model_copy(update={"triton": away}), "stuck").said
    )
    assert "not known" in end_stuck_call(remote, None).said


def test_a_model_without_memory_says_so(settings: Settings, client: TritonClient) -> None:
    for text in (
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to",
        "Unable to allocate 3.00 GiB for an array with shape (805306368,)",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ):
        with pytest.raises(OutOfMemory, match=r"model 'stuck' .*had not enough memory"):
            call(client, "stuck", fail=text)
    with pytest.raises(InferenceUnavailable, match="the weights are missing") as other:
        call(client, "stuck", fail="the weights are missing")
    assert type(other.value) is InferenceUnavailable
