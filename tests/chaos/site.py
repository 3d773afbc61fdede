"""A whole service as separate processes, with faulty connections between them and disks that can be filled."""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import yaml
from ports import free_port

from chaos.disk import Disk, mounted
from chaos.installation import ROUTES, install
from chaos.parts import Part
from chaos.proxy import FaultProxy
from isocenter.settings import Settings
from isocenter.stack.orthanc import orthanc_child
from isocenter.stack.triton import triton_child
from isocenter.stack.triton_process import remove_leftovers
from isocenter.worker import presence
from isocenter_operators.inference.shared_memory import remove_abandoned

if TYPE_CHECKING:
    from postgres import Server

__all__ = ["LOST_AFTER_S", "Site", "running_site"]

LOST_AFTER_S = 6.0  # of a worker on PostgreSQL
_FREE_DISK_MB = 24
_DISK_MB = 256


@dataclass
class Site:
    """Everything that runs. `archive_*` reach Orthanc itself, past the proxy."""

    settings: Settings  # as the service has them: its Orthanc is the proxy
    config: Path
    journal: Path  # when each fault began, and was mended
    archive_url: str
    archive_dicom_port: int
    orthanc: Part
    triton: Part
    workers: list[Part]
    gateway: Part
    to_orthanc: FaultProxy  # from router and workers
    to_gateway: FaultProxy  # from Orthanc's plugin
    service_disk: Disk | None
    archive_disk: Disk | None
    postgres: Server | None
    environment: dict[str, str] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)  # IDs of the jobs that a person has cancelled or run again
    another_study: Callable[[], None] = lambda: (
        None
    )  # lets one more arrive, for a fault that nothing would meet

    @property
    def parts(self) -> list[Part]:
        return [self.orthanc, self.triton, *self.workers, self.gateway]

    @property
    def small_disks(self) -> bool:
        """Whether the service and the archive each have a disk that can be filled."""
        return self.service_disk is not None and self.archive_disk is not None

    @property
    def gateway_url(self) -> str:
        return self.settings.gateway.url

    def note(self, what: str) -> None:
        with self.journal.open("a") as file:
            file.write(f"{datetime.now():%H:%M:%S.%f} {what}\n")

    def new_life(self) -> None:
        """What starts from now on belongs to another start of the stack."""
        self.environment["ISOCENTER_STACK"] = uuid.uuid4().hex

    def start(self) -> None:
        for part in self.parts:
            part.start()
        for part in self.parts:
            part.wait()

    def kill(self) -> None:
        for part in self.parts:
            part.kill()

    def api(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request to the gateway. Raises httpx.HTTPError while it is away."""
        return httpx.request(method, f"{self.gateway_url}{path}", timeout=20, trust_env=False, **more)

    def mend(self) -> None:
        """Everything is there again, and nothing is in its way."""
        for proxy in (self.to_orthanc, self.to_gateway):
            if proxy.mode != "through":
                proxy.mode = "through"
        for disk in (self.service_disk, self.archive_disk):
            if disk is not None:
                disk.free()
        for part in self.parts:
            part.thaw()
            part.limit_files(None)
        self.start()


@contextmanager
def running_site(folder: Path, *, postgres: Server | None = None, workers: int = 1) -> Iterator[Site]:
    """Start it on SQLite with its own Orthanc, or on PostgreSQL with an Orthanc that is somebody else's; stop it at
    the end."""
    with ExitStack() as ending:
        service_disk = ending.enter_context(mounted(folder / "service", _DISK_MB))
        archive_disk = ending.enter_context(mounted(folder / "archive", _DISK_MB))
        site = _site(folder, postgres, workers, service_disk, archive_disk)
        ending.callback(_give_back_shared_memory)
        ending.callback(site.to_orthanc.close)
        ending.callback(site.to_gateway.close)
        ending.callback(site.kill)
        keeper = _Keeper(site)
        ending.callback(keeper.stop)
        site.orthanc.start()
        site.orthanc.wait()
        site.start()
        keeper.start()
        yield site


class _Keeper:
    """Starts again what ended by itself, as the supervisor does: a worker that a poisonous study has killed."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(0.5):
            for part in self._site.parts:
                if part.held.acquire(blocking=False):
                    try:
                        part.start()
                    finally:
                        part.held.release()


def _site(
    folder: Path, postgres: Server | None, workers: int, service_disk: Disk | None, archive_disk: Disk | None
) -> Site:
    gateway, rest, dicom = free_port(), free_port(), free_port()
    to_orthanc, to_gateway = FaultProxy(rest), FaultProxy(gateway)
    address = {"url": f"http://127.0.0.1:{to_orthanc.port}"} if postgres else {"http_port": to_orthanc.port}
    content = {
        "data_dir": folder / "service",
        "apps_dir": install(folder / "apps"),
        "database_url": postgres.new_database() if postgres else None,
        "gateway": {"port": gateway},
        "orthanc": address,
        "triton": {**_free_ports("http_port", "grpc_port", "metrics_port"), "device": "cpu"},
        "worker": {"retry_after_s": 0.2, "lost_after_s": LOST_AFTER_S},
        "routing": {"settle_s": 1.0, "stat_settle_s": 0.3, "reconcile_every_s": 2.0, "compare_every_s": 15.0},
        "limits": {"free_disk_mb": _FREE_DISK_MB if service_disk else 0},
        "routes": ROUTES,
    }
    settings = Settings.model_validate(content)
    config = folder / "isocenter.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True)))
    site = Site(
        settings=settings,
        config=config,
        journal=folder / "faults.log",
        archive_url=f"http://127.0.0.1:{rest}",
        archive_dicom_port=dicom,
        to_orthanc=to_orthanc,
        to_gateway=to_gateway,
        service_disk=service_disk,
        archive_disk=archive_disk,
        postgres=postgres,
        orthanc=_orthanc(folder, rest, dicom, to_gateway.port),
        triton=_triton(settings, folder),
        workers=[],
        gateway=_gateway(settings, folder, config),
    )
    site.new_life()
    names = ["worker"] if workers == 1 else [f"worker-{number}" for number in range(1, workers + 1)]
    site.workers = [_worker(site, folder, name) for name in names]
    return site


def _free_ports(*names: str) -> dict[str, int]:
    return {name: free_port() for name in names}


def _orthanc(folder: Path, rest: int, dicom: int, events: int) -> Part:
    ports = {"http_port": rest, "dicom_port": dicom}
    settings = Settings.model_validate(
        {"data_dir": folder / "archive", "gateway": {"port": events}, "orthanc": ports}
    )
    child = orthanc_child(settings)
    return Part("orthanc", child.argv, lambda: child.environment, folder / "orthanc.log", child.ready)


def _triton(settings: Settings, folder: Path) -> Part:
    elsewhere = settings.model_copy(update={"data_dir": folder / "inference"})
    child = triton_child(elsewhere, ["self_test"])
    return Part("triton", child.argv, lambda: child.environment, folder / "triton.log", child.ready)


def _worker(site: Site, folder: Path, name: str) -> Part:
    settings = site.settings
    named = settings.model_copy(update={"worker": settings.worker.model_copy(update={"name": name})})
    argv = (sys.executable, "-m", "isocenter.worker", "--config", str(site.config), "--name", name)

    def environment() -> Mapping[str, str]:
        return {**site.environment, "HOLOSCAN_LOG_LEVEL": "WARN", "HOLOSCAN_EXECUTOR_LOG_LEVEL": "OFF"}

    return Part(name, argv, environment, folder / f"{name}.log", lambda: presence.missing(named))


def _gateway(settings: Settings, folder: Path, config: Path) -> Part:
    def missing() -> str | None:
        try:
            httpx.get(f"{settings.gateway.url}/api/jobs?limit=1", timeout=5, trust_env=False)
        except httpx.HTTPError as error:
            return f"the gateway does not answer: {type(error).__name__}"
        return None

    argv = (sys.executable, "-m", "isocenter.gateway", "--config", str(config))
    return Part("gateway", argv, dict, folder / "gateway.log", missing)


def _give_back_shared_memory() -> None:
    remove_leftovers()
    for _ in remove_abandoned():
        pass
