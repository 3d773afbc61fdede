"""A real PostgreSQL server for tests: Debian's package `postgresql`, in a folder of its own, on loopback.

A test module that wants the fixtures says `pytest_plugins = ["postgres"]`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psycopg
import pytest
from ports import free_port

_WITHIN_S = 60.0
_USER = "postgres"


class NoPostgres(Exception):
    """PostgreSQL is not installed here."""


class Server:
    """One PostgreSQL server. `stop`, `kill` and `start` are there for tests of what happens meanwhile."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self._folder / "log"

    @property
    def programs(self) -> Path:
        """Where `pg_dump` and its kin of the same release are."""
        return self._programs

    def url(self, database: str) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a database with nothing in it."""
        name = f"isocenter_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')  # a name of ours
        return self.url(name)

    def initialise(self) -> None:
        programs, data = self._programs, self._folder / "data"
        with self.log.open("ab") as log:
            command = [
                programs / "initdb",
                "-D",
                data,
                "-U",
                _USER,
                "--auth=trust",
                "--no-sync",
                "-E",
                "UTF8",
            ]
            _popen([str(each) for each in command], self._folder, log).wait(_WITHIN_S)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        said = ["listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories=", "fsync=off"]
        options = [part for each in (*said, "max_connections=300") for part in ("-c", each)]
        with self.log.open("ab") as log:
            program = str(self._programs / "postgres")
            self._process = _popen([program, "-D", str(self._folder / "data"), *options], self._folder, log)
        give_up = time.monotonic() + _WITHIN_S
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (
                    f"PostgreSQL ended while starting:\n{self.log.read_text()}"
                )
                assert time.monotonic() < give_up, f"PostgreSQL did not start:\n{self.log.read_text()}"
                time.sleep(0.1)

    def stop(self) -> None:
        """End it in order; whoever is connected is disconnected."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_WITHIN_S)
        self._process = None


@contextmanager
def running_postgres() -> Iterator[Server]:
    """A server with an empty cluster, ended and removed with the block.

    Where PostgreSQL is not installed a test is skipped, and a program is told by NoPostgres.
    """
    programs = _programs_or_skip()
    # Not pytest's own folder: the server runs as another user, who may not look into that.
    with tempfile.TemporaryDirectory(prefix="isocenter-postgres-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, _USER)
        server = Server(programs, folder)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()


def postgres_programs() -> Path:
    """The folder of the newest server here. Raises NoPostgres."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda file: float(file.parts[4]))
    if found and (os.geteuid() != 0 or _is_user(_USER)):
        return found[-1].parent
    raise NoPostgres("PostgreSQL is not installed: apt-get install postgresql")


def _programs_or_skip() -> Path:
    try:
        return postgres_programs()
    except NoPostgres as error:
        if "PYTEST_CURRENT_TEST" not in os.environ:
            raise
        if os.environ.get("ISOCENTER_REQUIRE_POSTGRES") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


def _is_user(name: str) -> bool:
    try:
        return pwd.getpwnam(name) is not None
    except KeyError:
        return False


def _popen(command: list[str], folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """PostgreSQL refuses to run as root."""
    who = _USER if os.geteuid() == 0 else None
    return subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        user=who,
        group=who,
        extra_groups=[] if who else None,
        process_group=0,  # Ctrl-C ends the test, which ends the server
    )


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One server for all tests that leave it running."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Server]:
    """A server of the test's own, which it may stop and kill."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: Server) -> str:
    """The URL of an empty database, as `database_url` takes it."""
    return postgres_server.new_database()
