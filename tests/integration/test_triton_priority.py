"""Which call of a model is served next, by a real Triton."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from patient_model import LARGE, SMALL, batching_of, call, settings_with, wait_until, waiting

from isocenter.settings import Settings
from isocenter.stack.triton import running_triton
from isocenter_operators.errors import DeadlineExceeded
from isocenter_operators.inference.triton import TritonClient

pytestmark = pytest.mark.integration

FREE_FOR_ALL = "dynamic_batching { default_queue_policy { allow_timeout_override: true } }"
PLAIN = ""  # no scheduler configured, as in most repositories


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """One instance with the shipped queue, one without priority levels, one without any scheduler."""
    folder = tmp_path_factory.mktemp("priority")
    settings = settings_with(folder, "levels", "no_levels", "plain")
    for name, batching in (("no_levels", FREE_FOR_ALL), ("plain", PLAIN)):
        config = folder / "models" / name / "config.pbtxt"
        config.write_text(config.read_text().replace(batching_of("self_test"), batching))
    with running_triton(settings, ["levels", "no_levels", "plain"]):
        yield settings


def _served(folder: Path) -> list[str]:
    order = folder / "order"
    return order.read_text().split() if order.exists() else []


def test_every_shipped_model_has_the_same_queue() -> None:
    assert batching_of("ct_lung_density") == batching_of("self_test")


@pytest.mark.parametrize(("shared", "size"), [(True, LARGE), (False, LARGE), (True, SMALL)])
def test_what_is_urgent_overtakes_what_waits(
    settings: Settings, tmp_path: Path, shared: bool, size: int
) -> None:
    order, end = str(tmp_path / "order"), tmp_path / "end"
    with (
        TritonClient(settings.triton.grpc_url, shared_memory=shared) as client,
        ThreadPoolExecutor(20) as threads,
    ):
        calls: list[Future[Any]] = []

        def later(tag: str, priority: int, **told: str) -> None:
            keywords: dict[str, Any] = {"priority": priority, "order": order, "tag": tag, **told}
            calls.append(threads.submit(call, client, "levels", size, **keywords))

        later("busy", 4, until=str(end))
        wait_until(lambda: _served(tmp_path) == ["busy"])
        for _ in range(6):
            later("batch", 4)
        later("default", 0)
        later("routine", 3)
        later("urgent", 2)
        wait_until(lambda: waiting(settings, "levels") == 9)
        later("STAT", 1)
        wait_until(lambda: waiting(settings, "levels") == 10)
        end.touch()
        for each in calls:
            each.result()
        transports = {(True, LARGE): "shared_memory", (False, LARGE): "grpc", (True, SMALL): None}
        assert client.transport == transports[shared, size]
    served = _served(tmp_path)
    assert served[:3] == ["busy", "STAT", "urgent"]
    assert sorted(served[3:5]) == ["default", "routine"]
    assert served[5:] == ["batch"] * 6


def test_what_nobody_waits_for_is_dropped_at_each_level(settings: Settings, tmp_path: Path) -> None:
    order, end = str(tmp_path / "order"), tmp_path / "end"
    with TritonClient(settings.triton.grpc_url) as client, ThreadPoolExecutor(5) as threads:
        busy = threads.submit(call, client, "levels", order=order, tag="busy", until=str(end))
        wait_until(lambda: _served(tmp_path) == ["busy"])
        late = [
            threads.submit(call, client, "levels", deadline_s=0.4, priority=level, order=order, tag="late")
            for level in (1, 2, 3, 4)
        ]
        for each in late:
            with pytest.raises(DeadlineExceeded):
                each.result()
        time.sleep(1.0)  # the server counts from when it got them, which on a busy machine is later
        end.touch()
        busy.result()
        call(client, "levels", order=order, tag="next", priority=4)
    assert _served(tmp_path) == ["busy", "next"]


@pytest.mark.parametrize("model", ["no_levels", "plain"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_model_without_levels_takes_any_priority(settings: Settings, model: str, shared: bool) -> None:
    with TritonClient(settings.triton.grpc_url, shared_memory=shared) as client:
        for priority in range(6):
            call(client, model, priority=priority)
