"""The embedded Orthanc: its configuration, and how it is started and seen to be ready.

Works with Debian 12's Orthanc 1.10.1 (DICOMweb 1.7, Python plugin 4.0) and Debian 13's 1.12 (1.20, 5.0);
options that only one of them knows are ignored by the other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isocenter.pacs import Orthanc
from isocenter.settings import Settings
from isocenter.stack.child import Child
from isocenter_operators.errors import ArchiveUnavailable, ConfigurationError

__all__ = ["configuration", "orthanc_child", "orthanc_program", "running_orthanc"]

_PROGRAM_FOLDERS = "/usr/sbin:/usr/local/sbin"
_PREFIXES = (Path("/usr"), Path("/usr/local"))
_PLUGIN_FOLDERS = ("share/orthanc/plugins", "lib/orthanc")  # below the prefix
_SCRIPT = Path("orthanc") / "isocenter_plugin.py"
_SOURCE_TREE = Path(__file__).resolve().parents[3]


def configuration(settings: Settings) -> dict[str, Any]:
    """Orthanc's configuration for these settings, as its JSON file holds it.

    Raises ConfigurationError when a plugin is missing, naming the Debian package.
    """
    folder = _folder(settings)
    plugins = (("libOrthancDicomWeb.so", "orthanc-dicomweb"), ("libOrthancPython.so", "orthanc-python"))
    return {
        "Name": "Isocenter",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "Plugins": [str(_plugin(settings, library, package)) for library, package in plugins],
        "PythonScript": str(_script()),
        "Isocenter": {"EventsUrl": f"{settings.gateway.url}/api/events/orthanc"},
        # A job's results carry UIDs derived from the job: storing them again must change nothing.
        "OverwriteInstances": False,
        "StableAge": 1,  # seconds
        "MaximumStorageCacheSize": 256,  # MB
        **_http(settings),
        **_dicom(settings),
        "DicomWeb": {
            "Enable": True,
            "Root": "/dicom-web/",
            "EnableWado": False,
            # OHIF places slices by attributes that Orthanc's index does not hold.
            "StudiesMetadata": "Full",
            "SeriesMetadata": "Full",
        },
    }


def orthanc_program(settings: Settings) -> Path:
    """The Orthanc that is started: `orthanc.program`, else the one in PATH or where Debian puts it.

    Raises ConfigurationError when it is not there.
    """
    given = settings.orthanc.program
    path = f"{os.environ.get('PATH', os.defpath)}:{_PROGRAM_FOLDERS}"
    found = shutil.which(given.absolute() if given else "Orthanc", path=path)
    if found is None and given:
        raise ConfigurationError(
            f"orthanc.program: there is no program {given}; name one, or none for Debian's"
        )
    if found is None:
        raise ConfigurationError(
            "Orthanc is not installed: install Debian's packages "
            "(apt-get install orthanc orthanc-dicomweb orthanc-python), "
            "or set orthanc.url to an Orthanc that runs"
        )
    return Path(found).absolute()


def _http(settings: Settings) -> dict[str, Any]:
    orthanc = settings.orthanc
    credentials = orthanc.credentials
    users = {credentials.username: credentials.password} if credentials else {}
    return {
        "HttpPort": orthanc.http_port,
        "RemoteAccessAllowed": False,
        "HttpBindAddresses": [orthanc.host],  # unknown to 1.12.7 and older, which listen everywhere
        "AuthenticationEnabled": bool(users),
        "RegisteredUsers": users,
        "HttpCompressionEnabled": False,  # compressing pixels costs ten times what it saves on one machine
        "KeepAlive": True,
        "KeepAliveTimeout": 30,  # seconds
        "TcpNoDelay": True,
        "HttpThreadsCount": 50,
        "HttpDescribeErrors": True,
        "OrthancExplorerEnabled": True,
        "WebDavEnabled": False,
        "ExecuteLuaEnabled": False,
        "MetricsEnabled": False,
    }


def _dicom(settings: Settings) -> dict[str, Any]:
    return {
        "DicomAet": settings.orthanc.aet,
        "DicomPort": settings.orthanc.dicom_port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": False,
        "DicomAlwaysAllowGet": False,
        "DicomAlwaysAllowMove": False,
        "AcceptedTransferSyntaxes": ["1.2.840.10008.1.*"],
        "UnknownSopClassAccepted": True,
        "DicomScpTimeout": 30,  # seconds
    }


def orthanc_child(settings: Settings) -> Child:
    """Write the configuration below `settings.data_dir` and say how Orthanc is started.

    Raises ConfigurationError when Orthanc or a plugin of it is missing.
    """
    program = orthanc_program(settings)
    content = json.dumps(configuration(settings), indent=2)
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "orthanc.json"
    file.touch(mode=0o600)  # it may hold the password
    file.write_text(content)
    return Child(
        name="orthanc",
        argv=(str(program), str(file)),
        environment={
            "TCP_NODELAY": "1",  # DCMTK's network layer: C-STORE about five times as fast
            "MALLOC_ARENA_MAX": "4",  # else glibc keeps eight heaps for each core, each as large as it ever was
            # The script runs in the interpreter of Debian's plugin, not in the environment that started us.
            "PYTHONHOME": "",
            "PYTHONPATH": "",
        },
        log=folder / "orthanc.log",
        ready=lambda: _missing(settings),
        address=settings.orthanc.rest_url,
    )


@contextmanager
def running_orthanc(settings: Settings) -> Iterator[Settings]:
    """Start the embedded Orthanc without a supervisor, wait until it serves, and stop it at the end.

    Raises ArchiveUnavailable when it does not come up.
    """
    child = orthanc_child(settings)
    with child.log.open("ab") as log:
        process = subprocess.Popen(
            child.argv, env={**os.environ, **child.environment}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _wait(child, process)
        yield settings
    finally:
        process.terminate()
        try:
            process.wait(child.stop_within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(child: Child, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + child.ready_within_s
    while (missing := child.ready()) is not None:
        if process.poll() is not None:
            raise ArchiveUnavailable(
                f"Orthanc ended with code {process.returncode} at its start: see {child.log}"
            )
        if time.monotonic() > give_up:
            raise ArchiveUnavailable(
                f"Orthanc did not come up in {child.ready_within_s:.0f} s: {missing}; see {child.log}"
            )
        time.sleep(0.05)


def _missing(settings: Settings) -> str | None:
    with Orthanc(settings.orthanc, timeout_s=0.9) as orthanc:
        return orthanc.ready()


def _folder(settings: Settings) -> Path:
    return settings.data_dir.resolve() / "orthanc"


def _plugin(settings: Settings, library: str, package: str) -> Path:
    """Of a program that was named, the plugin beside it: another release's may not fit it."""
    program = orthanc_program(settings)
    beside = program.parent.parent
    for prefix in (beside,) if settings.orthanc.program else (beside, *_PREFIXES):
        for folder in _PLUGIN_FOLDERS:
            if (prefix / folder / library).exists():
                return prefix / folder / library
    if settings.orthanc.program:
        folders = " nor ".join(str(beside / folder) for folder in _PLUGIN_FOLDERS)
        raise ConfigurationError(
            f"Orthanc's plugin {library} is not there: {program} has to have it beside it, and it is neither in "
            f"{folders}"
        )
    raise ConfigurationError(
        f"Orthanc's plugin {library} is not installed: install Debian's package (apt-get install {package})"
    )


def _script() -> Path:
    for folder in (_SOURCE_TREE, Path.cwd()):
        if (folder / _SCRIPT).exists():
            return folder / _SCRIPT
    raise ConfigurationError(
        f"{_SCRIPT} is neither in {_SOURCE_TREE} nor in {Path.cwd()}: start from the project's folder"
    )
