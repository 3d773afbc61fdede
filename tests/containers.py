"""The processes of compose.yaml's containers on this machine's loopback, each with that container's own environment.

What a container's engine would do stands here, and nothing else: other names, ports and folders, and the secrets.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx
import psycopg
from composed import ROOT, Here, orthanc_configuration, services
from ports import free_port

from isocenter.settings import OrthancSettings, Settings, TritonSettings
from isocenter.stack.child import end_group
from isocenter.stack.orthanc import configuration, orthanc_child
from isocenter.stack.triton import triton_child
from isocenter.stack.triton_process import remove_leftovers

if TYPE_CHECKING:
    from postgres import Server

__all__ = ["Containers", "running_containers"]

WORKERS = ("worker-a", "worker-b")  # what `hostname` says in each
_WITHIN_S = 300.0  # on a machine that has other things to do
_FOLLOWED_WITHIN_S = 60.0


@dataclass
class Containers:
    """What runs. `processes` by the name of the service, a worker by that of its container."""

    folder: Path
    here: Here
    ports: Mapping[str, int]
    postgres: Server
    database: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['gateway']}"

    @property
    def archive_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['orthanc']}"

    @property
    def storage(self) -> Path:
        return self.folder / "orthanc"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text().strip()

    def auth(self) -> tuple[str, str]:
        return "isocenter", self.secret("orthanc_password")

    def start(self, name: str) -> None:
        """Start one container's process. Those of workers differ by their host's name."""
        kind = "workers" if name in WORKERS else name
        profile = "scale" if kind == "workers" else "cpu"
        service = services(profile)[kind]
        start = {"orthanc": _orthanc, "triton": _triton}.get(kind, _ours)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = start(self, name, service, log)

    def stop(self, name: str) -> int:
        """As `docker compose stop` does: with SIGTERM, and the time that the service is given. Gives the exit code."""
        process = self.processes.pop(name)
        process.terminate()
        try:
            return process.wait(30)
        finally:
            end_group(process)

    def forget_database(self) -> None:
        """As if its volume were gone: an empty one of the same name."""
        with psycopg.connect(self.postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{self.database}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{self.database}" OWNER isocenter')

    def stop_all(self) -> None:
        for name in list(self.processes):
            process = self.processes.pop(name)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            end_group(process)
            process.wait()

    def wait(self, name: str) -> None:
        """Until the container's health check, as compose.yaml says it, is content."""
        kind = "workers" if name in WORKERS else name
        service = services("scale" if kind == "workers" else "cpu")[kind]
        give_up = time.monotonic() + _WITHIN_S
        while (missing := self._unwell(name, kind, service)) is not None:
            process = self.processes[name]
            assert process.poll() is None, (
                f"{name} ended with {process.returncode}:\n{self.log(name)[-3000:]}"
            )
            assert time.monotonic() < give_up, f"{name}: {missing}\n{self.log(name)[-3000:]}"
            time.sleep(1)  # a check is a process, which takes the time that the service needs to start

    def _unwell(self, name: str, kind: str, service: Mapping[str, Any]) -> str | None:
        if kind == "orthanc":  # its check is a script of the base image, which asks just this
            return _refused(f"{self.archive_url}/changes?last", self.auth())
        kind_of_test, *words = service["healthcheck"]["test"]
        words = ["/bin/sh", "-c", *words] if kind_of_test == "CMD-SHELL" else words
        environment = _environment(self, name, service) if "environment" in service else None
        done = subprocess.run(
            self.here.command(words),
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        return None if done.returncode == 0 else (done.stdout + done.stderr)[-500:]

    def isocenter(self, *words: str | Path, name: str = "gateway") -> Any:
        """`docker compose exec gateway isocenter ... --json`."""
        environment = _environment(self, name, services("cpu")[name])
        environment["ISOCENTER_ORTHANC__DICOM_PORT"] = str(self.ports["dicom"])
        done = subprocess.run(
            ["isocenter", *map(str, words), "--json"],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
        return json.loads(done.stdout)

    def job(
        self, study_uid: str, application: str = "ct_lung_density", within_s: float = 300
    ) -> dict[str, Any]:
        """The study's newest job by this application, once it is over.

        One that failed is given time to be followed by another: a loaded machine sends with pauses, which may be longer
        than a series that is whole is waited for.
        """
        began = time.monotonic()
        give_up = began + within_s
        while True:
            jobs = httpx.get(f"{self.url}/api/jobs").json()["jobs"]
            mine = [
                each for each in jobs if (each["study_uid"], each["application"]) == (study_uid, application)
            ]
            newest: dict[str, Any] | None = max(mine, key=lambda each: each["created"], default=None)
            followed = time.monotonic() < began + _FOLLOWED_WITHIN_S
            if newest and newest["ended"] and not (newest["state"] == "failed" and followed):
                return newest
            logs = "\n".join(self.log(name)[-1500:] for name in ("gateway", *WORKERS))
            assert time.monotonic() < give_up, f"{jobs}\n{logs}"
            time.sleep(0.2)

    def modalities(self, study_uid: str) -> list[str]:
        found = httpx.get(
            f"{self.url}/dicom-web/studies/{study_uid}/instances",
            params={"includefield": "00080060", "limit": "1000"},
        ).json()
        return sorted(one["00080060"]["Value"][0] for one in found)


@contextmanager
def running_containers(folder: Path, postgres: Server) -> Iterator[Containers]:
    """Everything that profile cpu starts, with the two first workers of profile scale in place of its one."""
    containers = prepared(folder, postgres)
    with ExitStack() as ending:
        ending.callback(remove_leftovers)
        ending.callback(containers.stop_all)
        names = ("orthanc", "triton", *WORKERS, "gateway")
        for name in names:
            containers.start(name)
        for name in names:
            containers.wait(name)
        yield containers


def prepared(folder: Path, postgres: Server) -> Containers:
    """Its folders, secrets and database, with nothing started yet."""
    ports = {name: free_port() for name in ("gateway", "orthanc", "dicom", "http", "grpc", "metrics")}
    here = Here(
        {
            "/run/secrets": str(folder / "secrets"),
            "/etc/isocenter": str(ROOT / "docker"),
            "/var/lib/isocenter": str(folder / "data"),
            "/var/lib/orthanc/db": str(folder / "orthanc"),
            "/opt/isocenter": str(ROOT),
            "/models/imported": str(folder / "data" / "models"),
            "http://orthanc:8042": f"http://127.0.0.1:{ports['orthanc']}",
            "http://gateway:8080": f"http://127.0.0.1:{ports['gateway']}",
            "triton:8001": f"127.0.0.1:{ports['grpc']}",
            "http://127.0.0.1:8000/": f"http://127.0.0.1:{ports['http']}/",
        }
    )
    for each in ("data/models", "orthanc", "hosts"):
        (folder / each).mkdir(parents=True)
    # What `isocenter` and `hostname` are in the containers.
    for name in ("gateway", *WORKERS):
        _program(folder / "hosts" / name / "hostname", f"echo {name}")
        _program(
            folder / "hosts" / name / "isocenter", f'exec {shlex.quote(sys.executable)} -m isocenter.cli "$@"'
        )
    subprocess.run(
        [ROOT / "docker" / "secrets.sh", folder / "secrets"], check=True, stdout=subprocess.DEVNULL
    )
    database = postgres.new_database()
    url = (folder / "secrets" / "database_url").read_text()
    password = (folder / "secrets" / "database_password").read_text().strip()
    with psycopg.connect(database, autocommit=True) as connection:
        _user(connection, password)
        connection.execute(f'ALTER DATABASE "{connection.info.dbname}" OWNER TO isocenter')
        connection.execute("GRANT ALL ON SCHEMA public TO isocenter")
        name = connection.info.dbname
    url = url.replace("@postgres:5432/isocenter", f"@127.0.0.1:{postgres.port}/{name}")
    (folder / "secrets" / "database_url").write_text(url)
    return Containers(folder, here, ports, postgres, name)


def _user(connection: psycopg.Connection[Any], password: str) -> None:
    there = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'isocenter'").fetchone()
    verb = "ALTER" if there else "CREATE"
    connection.execute(f"{verb} ROLE isocenter LOGIN PASSWORD '{password}'")


def _program(file: Path, line: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{line}\n")
    file.chmod(0o755)


def _environment(containers: Containers, name: str, service: Mapping[str, Any]) -> dict[str, str]:
    environment = containers.here.environment(service)
    environment["PATH"] = f"{containers.folder / 'hosts' / name}:{environment['PATH']}"
    if "ISOCENTER_GATEWAY__PORT" in environment:
        environment["ISOCENTER_GATEWAY__PORT"] = str(containers.ports["gateway"])
        environment["ISOCENTER_GATEWAY__HOST"] = (
            "127.0.0.1"  # every address of a container, no other of this machine
        )
    if name in ("gateway", *WORKERS):
        # Of the image: ENV of its target.
        environment |= {"ISOCENTER_APPS_DIR": str(ROOT / "apps"), "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"HOLOSCAN_LOG_LEVEL": "WARN", "HOLOSCAN_EXECUTOR_LOG_LEVEL": "OFF"}
    return environment


def _ours(
    containers: Containers, name: str, service: Mapping[str, Any], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    words = [*service.get("entrypoint", ["isocenter"]), *service.get("command", [])]
    return _popen(
        containers.here.command(words), _environment(containers, name, service), containers.folder, log
    )


def _orthanc(
    containers: Containers, name: str, service: Mapping[str, Any], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Debian's Orthanc, by the configuration that the image's start would make."""
    ports = containers.ports
    local = Settings(
        data_dir=containers.folder / "embedded",
        orthanc=OrthancSettings(http_port=ports["orthanc"], dicom_port=ports["dicom"]),
    )
    embedded = configuration(local)
    made = {
        **orthanc_configuration(containers.here.environment(service)),
        **json.loads((containers.folder / "secrets" / "orthanc_users.json").read_text()),
        # ENV of the image, and where this machine has them.
        "PythonScript": embedded["PythonScript"],
        "Plugins": embedded["Plugins"],
        "HttpPort": ports["orthanc"],
        "DicomPort": ports["dicom"],
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,  # an older Orthanc listens to other machines too
    }
    file = containers.folder / "orthanc.json"
    file.write_text(json.dumps(made))
    child = orthanc_child(local)
    tuned = {key: service["environment"][key] for key in ("TCP_NODELAY", "MALLOC_ARENA_MAX")}
    environment = {**containers.here.environment(service), **tuned, "PYTHONHOME": "", "PYTHONPATH": ""}
    return _popen([child.argv[0], str(file)], environment, containers.folder, log)


def _triton(
    containers: Containers, name: str, service: Mapping[str, Any], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """The wheel's server with the service's own options. Its release does not know the one about shared memory yet,
    which it allows unasked."""
    ports = containers.ports
    local = Settings(
        data_dir=containers.data,
        triton=TritonSettings(
            http_port=ports["http"],
            grpc_port=ports["grpc"],
            metrics_port=ports["metrics"],
            model_repository=ROOT / "triton_models",
        ),
    )
    child = triton_child(local, ())
    server = child.argv.index("isocenter.stack.triton_process") + 2
    words = [*child.argv[:server], *(each for each in child.argv if each.startswith("--backend-directory"))]
    words += [each for each in containers.here.command(service["command"]) if "client-shm" not in each]
    words += [each for each in child.argv if each.split("=")[0].endswith(("-address", "-port"))]
    return _popen(words, {**os.environ, **child.environment}, containers.folder, log)


def _popen(
    words: list[str], environment: Mapping[str, str], folder: Path, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        process_group=0,
    )


def _refused(url: str, auth: tuple[str, str]) -> str | None:
    try:
        answer = httpx.get(url, auth=auth, timeout=2, trust_env=False)
    except httpx.HTTPError as error:
        return type(error).__name__
    return None if answer.is_success else str(answer.status_code)
