"""What `isocenter doctor` looks at: each part that this needs, and what to do where one is missing."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from isocenter.catalog import Catalog
from isocenter.map_reference import is_package
from isocenter.maps.sandbox import ENGINES, works
from isocenter.pacs import Orthanc
from isocenter.peer import FolderPeer
from isocenter.route_models import missing_models
from isocenter.rules import refuse_wrong_rules
from isocenter.settings import Settings
from isocenter.stack import ports
from isocenter.stack.orthanc import configuration, orthanc_program
from isocenter.stack.tritonserver import TritonDistribution
from isocenter.worker import presence
from isocenter_operators.errors import ConfigurationError, IsocenterError

if TYPE_CHECKING:
    from isocenter_operators.inference.endpoint import Endpoint

__all__ = ["Finding", "examine"]

_DISK_GB = 5
_SHARED_MEMORY_MB = 512  # a volume of 300 slices in, its labels out, and room for another
_STACK_MB = 32


@dataclass(frozen=True)
class Finding:
    """One part: whether it is there, what was seen, and what to do where it is not."""

    what: str
    ok: bool
    seen: str
    advice: str = ""
    required: bool = True


def examine(settings: Settings, serving: Settings | None = None) -> list[Finding]:
    """Every finding, in the order in which a person would repair them.

    settings: what the next start will read. serving: those of a stack that runs already, as it has resolved them.
    """
    return [
        _python(),
        _holoscan(),
        *_orthanc(settings),
        *_triton(settings),
        _viewer(settings),
        _program("dciodvfy", "dicom3tools", "results are checked by Isocenter's own rules only"),
        _program("chromium", "chromium", "needed for the browser tests only"),
        _disk(settings),
        _shared_memory(),
        _stack_limit(),
        _applications(settings),
        _route_models(settings),
        _packages(settings),
        *_folder_peers(settings),
        *_other_peers(settings),
        *(_ports(settings) if serving is None else _service(serving)),
    ]


def _python() -> Finding:
    seen = sys.version.split()[0]
    return Finding("Python", (3, 11) <= sys.version_info < (3, 13), seen, "use Python 3.11 or 3.12")


def _holoscan() -> Finding:
    """In a process of its own: what it is linked to may be missing, and loading it takes a second."""
    program = "import holoscan.core, importlib.metadata as m; print(m.version('holoscan-cu13'))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False
    )
    seen = done.stdout.strip() or (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    return Finding("Holoscan", done.returncode == 0, seen, "run `make install` again")


def _orthanc(settings: Settings) -> Iterator[Finding]:
    if not settings.orthanc.embedded:
        yield _archive(settings)
        return
    yield _attempt("Orthanc", lambda: _version(orthanc_program(settings)))
    yield _attempt(
        "Orthanc's plugins",
        lambda: ", ".join(Path(plugin).name for plugin in configuration(settings)["Plugins"]),
    )


def _triton(settings: Settings) -> Iterator[Finding]:
    if not settings.triton.embedded:
        yield _attempt("Triton", lambda: _reach(settings.triton.endpoint))
        return
    yield _attempt("tritonserver", lambda: str(TritonDistribution.installed().program))
    yield _attempt("libpython", lambda: str(TritonDistribution.installed().library_folders[0]))
    with tempfile.TemporaryDirectory() as folder:
        yield _attempt(
            "Triton's Python stub",
            lambda: (
                TritonDistribution.installed().assemble_backends(Path(folder)).name and "fits this Python"
            ),
        )


def _viewer(settings: Settings) -> Finding:
    folder = settings.gateway.viewer
    there = (folder / "index.html").is_file()
    advice = (
        "run `make ohif` (needs npm, or the network once), or set gateway.ohif; all else works without it"
    )
    return Finding("OHIF", there, str(folder) if there else "not found", advice, required=False)


def _program(name: str, package: str, without: str) -> Finding:
    path = shutil.which(name)
    advice = f"apt-get install {package}; {without}"
    return Finding(name, path is not None, path or "not found", advice, required=False)


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir.resolve()
    while not folder.exists():
        folder = folder.parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    advice = f"{_DISK_GB} GB or more are needed where data_dir is: free some space, or set another data_dir"
    return Finding("free disk", free_gb >= _DISK_GB, f"{free_gb:.0f} GB", advice)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    free_mb = shutil.disk_usage(folder).free / 1e6 if folder.is_dir() else 0
    advice = "give the container more (--shm-size=1g): without, volumes go to Triton the slow way"
    return Finding("/dev/shm", free_mb >= _SHARED_MEMORY_MB, f"{free_mb:.0f} MB", advice, required=False)


def _stack_limit() -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    enough = hard == resource.RLIM_INFINITY or hard >= _STACK_MB * 2**20
    seen = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard / 2**20:.0f} MB"
    return Finding(
        "stack limit", enough, seen, f"Holoscan asks for {_STACK_MB} MB: raise `ulimit -Hs`", False
    )


def _applications(settings: Settings) -> Finding:
    def installed() -> str:
        catalog = Catalog.of(settings)
        refuse_wrong_rules(settings, settings.file, catalog)
        return ", ".join(f"{app.name} {app.version}" for app in catalog.all())

    return _attempt("applications and rules", installed)


def _route_models(settings: Settings) -> Finding:
    what = "the routes' models"
    try:
        missing = missing_models(settings)
    except IsocenterError as error:
        return Finding(what, False, "can not be asked", str(error))
    return Finding(what, not missing, f"{len(missing)} missing" if missing else "there", "; ".join(missing))


def _packages(settings: Settings) -> Finding:
    """What MONAI Application Packages are run by; needed where a route names one."""
    named = any(is_package(name) for route in settings.routes for name in route.applications)
    engines = ENGINES if settings.maps.engine is None else (settings.maps.engine,)
    engine = next((each for each in engines if works(each)), None)
    advice = "apt-get install bubblewrap, or start Docker or Podman; without, no package (MAP) can be run"
    return Finding(
        "packages", engine is not None, f"run by {engine}" if engine else "not usable", advice, named
    )


def _folder_peers(settings: Settings) -> Iterator[Finding]:
    for name, peer in settings.peers.items():
        if isinstance(peer, FolderPeer):
            advice = (
                f"make the folder, mount its disk, or correct peers.{name}.path: what is to go there waits"
            )
            there = peer.path.is_dir() and os.access(peer.path, os.W_OK)
            seen = str(peer.path) if there else f"{peer.path} is not there, or can not be written to"
            yield Finding(f"peer {name}", there, seen, advice)


def _other_peers(settings: Settings) -> Iterator[Finding]:
    """Asked from here; without it all else works, and what is to go there waits."""
    from isocenter.onward.reach import reach

    for name, peer in settings.peers.items():
        if isinstance(peer, FolderPeer):
            continue
        known = f", or have it know {settings.orthanc.aet} at this address" if peer.kind == "dicom" else ""
        advice = f"start it, let its firewall through, correct peers.{name}{known}: what is to go there waits"
        try:
            yield Finding(f"peer {name}", True, reach(peer, settings), required=False)
        except IsocenterError as error:
            yield Finding(f"peer {name}", False, str(error), advice, required=False)


def _ports(settings: Settings) -> Iterator[Finding]:
    for port in ports.needed(settings):
        advice = f"stop what uses it, set {port.variable}, or use `isocenter up --move-ports`"
        taken = ports.in_use(port)
        seen = f"{port.number} {'in use' if taken else 'free'}"
        yield Finding(f"port {port.section}.{port.key}", not taken, seen, advice)


def _service(settings: Settings) -> Iterator[Finding]:
    yield _archive(settings)
    yield _attempt("Triton serves", lambda: _reach(settings.triton.endpoint))
    missing = presence.missing(settings)
    yield Finding("worker", missing is None, missing or "takes jobs", "see logs/worker.log in data_dir")

    def gateway() -> str:
        httpx.get(f"{settings.gateway.url}/api/jobs?limit=1", timeout=2, trust_env=False).raise_for_status()
        return settings.gateway.url

    yield _attempt("gateway", gateway, "see logs/gateway.log in data_dir")


def _archive(settings: Settings) -> Finding:
    try:
        with Orthanc(settings.orthanc, timeout_s=2) as orthanc:
            missing = orthanc.ready()
            seen = missing or f"{settings.orthanc.rest_url}, Orthanc {orthanc.system()['Version']}"
    except ConfigurationError as error:
        return Finding("Orthanc serves", False, "not asked", str(error))
    return Finding("Orthanc serves", missing is None, seen, "start it, or correct orthanc.url")


def _reach(endpoint: Endpoint) -> str:
    from isocenter_operators.inference.self_test import self_test
    from isocenter_operators.inference.triton import TritonClient

    with TritonClient(endpoint, shared_memory=False, control_deadline_s=2.0) as client:
        report = self_test(client, deadline_s=2.0)
    return f"{endpoint}, torch {report.torch} on {report.device}"


def _attempt(what: str, look: Callable[[], str], advice: str = "") -> Finding:
    try:
        return Finding(what, True, look())
    except IsocenterError as error:
        return Finding(what, False, "not usable", advice or str(error))
    except httpx.HTTPError as error:
        return Finding(what, False, f"does not answer ({type(error).__name__})", advice)


def _version(program: Path) -> str:
    """The first line of `Orthanc --version` ends with it."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    first = said.stdout.splitlines()[0] if said.stdout else ""
    return f"{program}, version {first.split()[-1] if first else 'unknown'}"
