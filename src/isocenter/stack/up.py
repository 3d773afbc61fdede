"""The embedded stack put together: Orthanc, Triton, worker and gateway on one machine."""

from __future__ import annotations

import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from isocenter.catalog import Catalog
from isocenter.route_models import missing_models
from isocenter.rules import refuse_wrong_rules
from isocenter.secret_files import SUFFIX
from isocenter.settings import Settings
from isocenter.stack import ports
from isocenter.stack.child import Child
from isocenter.stack.orthanc import orthanc_child
from isocenter.stack.running import exclusively, write
from isocenter.stack.supervisor import Supervisor
from isocenter.stack.triton import triton_child
from isocenter.stack.triton_process import remove_leftovers
from isocenter.worker import presence
from isocenter_operators.errors import IsocenterError
from isocenter_operators.inference.shared_memory import remove_abandoned

__all__ = ["Stack", "addresses", "stack"]


@dataclass(frozen=True)
class Stack:
    """A stack that starts or runs, and the settings that are true for it."""

    settings: Settings
    supervisor: Supervisor


@contextmanager
def stack(settings: Settings, *, move_ports: bool = False, say: Callable[[str], None]) -> Iterator[Stack]:
    """Start the stack; at the end of the block all of it is stopped.

    The block begins at once: `supervisor.wait_until_ready()` waits. Raises ConfigurationError before anything is
    started when a rule, a port or a missing program forbids it.
    """
    catalog = Catalog.of(settings)
    refuse_wrong_rules(settings, settings.file, catalog)
    settings.orthanc.context()  # whose files must be there
    with exclusively(settings):
        settings = ports.moved(_absolute(settings)) if move_ports else _absolute(settings)
        ports.require_free(ports.needed(settings))
        for worker in _workers(settings):
            presence.withdraw(worker)
        config = write(settings)
        children = _children(settings, catalog.models, config)
        _tell_missing_models(
            settings, say
        )  # those that the embedded Triton can not start without were refused
        say(f"starting {', '.join(child.name for child in children)}")
        try:
            with Supervisor(children, environment=_environment(), say=say) as supervisor:
                yield Stack(settings, supervisor)
        finally:
            _give_back_shared_memory()


def addresses(settings: Settings) -> Mapping[str, str]:
    """Where what can be reached, for a person."""
    orthanc = settings.orthanc
    found = {"viewer": f"{settings.gateway.url}/", "jobs": f"{settings.gateway.url}/status"}
    if orthanc.embedded:
        found["DICOM"] = f"{orthanc.aet}@{orthanc.host}:{orthanc.dicom_port}"
    return {**found, "Orthanc": orthanc.rest_url, "Triton": settings.triton.grpc_url}


def wait(supervisor: Supervisor, stop: threading.Event) -> None:
    """Until `stop` is set. Raises what made the supervisor give up."""
    while not stop.wait(0.5):
        if supervisor.failure is not None:
            raise supervisor.failure


def _tell_missing_models(settings: Settings, say: Callable[[str], None]) -> None:
    """Before the first study does. What the other routes need is there, so nothing is kept from starting."""
    try:
        for each in missing_models(settings):
            say(each)
    except IsocenterError as error:  # a Triton elsewhere may come up later
        say(f"which models the routes have can not be asked: {error}")


def _give_back_shared_memory() -> None:
    """A child that is ended at once can not give its regions back itself."""
    remove_leftovers()
    for _ in remove_abandoned():
        pass


def _absolute(settings: Settings) -> Settings:
    """The children and later commands may stand in another folder."""
    triton = settings.triton.model_copy(
        update={"model_repository": settings.triton.model_repository.resolve()}
    )
    program, tls = settings.orthanc.program, settings.orthanc.tls
    orthanc = settings.orthanc.model_copy(
        update={"program": program and program.absolute(), "tls": tls and tls.absolute()}
    )
    return settings.model_copy(
        update={
            "data_dir": settings.data_dir.resolve(),
            "apps_dir": settings.apps_dir.resolve(),
            "orthanc": orthanc,
            "triton": triton,
        }
    )


def _environment() -> dict[str, str]:
    """Ours, without the settings in it: the children's file holds the ones that are true."""
    sections = {f"ISOCENTER_{name.upper()}" for name in Settings.model_fields}
    ours = {
        name: value
        for name, value in os.environ.items()
        if name.upper().removesuffix(SUFFIX).split("__")[0] not in sections
    }
    # Jobs that end with the whole stack have not killed their worker.
    return {**ours, "ISOCENTER_STACK": uuid.uuid4().hex}


def _children(settings: Settings, models: tuple[str, ...], config: Path) -> list[Child]:
    children = []
    if settings.orthanc.embedded:
        children.append(orthanc_child(settings))
    if settings.triton.embedded:
        children.append(triton_child(settings, models, wanted=lambda: Catalog.of(settings).models))
    workers = [_worker_child(each, config) for each in _workers(settings)]
    return [*children, *workers, _gateway_child(settings, config)]


def _workers(settings: Settings) -> list[Settings]:
    """The settings of each worker process: they differ by its name."""
    worker = settings.worker
    if worker.processes == 1:
        return [settings]
    names = [f"{worker.name}-{number}" for number in range(1, worker.processes + 1)]
    return [
        settings.model_copy(update={"worker": worker.model_copy(update={"name": name})}) for name in names
    ]


def _worker_child(settings: Settings, config: Path) -> Child:
    name = settings.worker.name
    return Child(
        name="worker" if settings.worker.processes == 1 else name,
        argv=(sys.executable, "-m", "isocenter.worker", "--config", str(config), "--name", name),
        # What goes wrong in a graph arrives as an exception; its own log would fill the disk.
        environment={"HOLOSCAN_LOG_LEVEL": "WARN", "HOLOSCAN_EXECUTOR_LOG_LEVEL": "OFF"},
        log=settings.data_dir / "logs" / ("worker.log" if settings.worker.processes == 1 else f"{name}.log"),
        ready=lambda: presence.missing(settings),
        address=name,
        stop_within_s=5.0,
    )


def _gateway_child(settings: Settings, config: Path) -> Child:
    return Child(
        name="gateway",
        argv=(sys.executable, "-m", "isocenter.gateway", "--config", str(config)),
        environment={},
        log=settings.data_dir / "logs" / "gateway.log",
        ready=lambda: _gateway_missing(settings),
        address=settings.gateway.url,
    )


def _gateway_missing(settings: Settings) -> str | None:
    try:
        # What /healthz says of the others is theirs to answer for.
        httpx.get(f"{settings.gateway.url}/api/jobs?limit=1", timeout=1.5, trust_env=False)
    except httpx.HTTPError:
        return f"the gateway does not answer at {settings.gateway.url}"
    return None
