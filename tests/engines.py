"""Docker and Podman for tests: real ones, started here for the test alone, with folders of their own.

They are this machine's, or what scripts/fetch_engines.sh has put into .cache/engines. Docker's daemon lives in
namespaces of its own: its bridge, its mounts and its containers are not this machine's, and are gone with it. Its
containers reach nothing beyond the bridge, unless it is asked for a way out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from commands import ROOT

__all__ = [
    "COMPOSE",
    "ENGINES",
    "MIRROR",
    "command",
    "end",
    "require_containers",
    "running_compose",
    "running_engine",
]

ENGINES = ("docker", "podman")
COMPOSE = ROOT / ".cache" / "compose"
# Where a Docker with Compose looks for Docker Hub's images first: tests/registry.py may be there.
MIRROR = "127.0.0.1:5000"
_UNPACKED = ROOT / ".cache" / "engines"
_STARTS_WITHIN_S = 60.0
_ENDS_WITHIN_S = 20.0
_CGROUPS = Path("/sys/fs/cgroup")


@contextmanager
def running_engine(name: str) -> Iterator[None]:
    """One that all commands find by the environment; skips the test where none can be had."""
    # Podman takes no longer path of its files than 50 characters, a socket none of more than 107.
    with (
        TemporaryDirectory(prefix="isocenter-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as to,
    ):
        _find(to)
        if os.geteuid() != 0:
            pytest.skip(f"{name} is started by root only in these tests")
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed, nor in {_UNPACKED}: scripts/fetch_engines.sh")
        with _docker(Path(folder), to) if name == "docker" else _podman(Path(folder), to):
            yield


def command(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """One of the engine's own commands."""
    options = os.environ[f"ISOCENTER_{name.upper()}"].split()
    return subprocess.run([name, *options, *words], capture_output=True, text=True, check=False)


def require_containers(name: str, image: Path, program: list[str]) -> None:
    """Skips the test, with what the engine says, where it can not start a container of the image in this file."""
    loaded = command(name, "load", "--input", str(image))
    tag = loaded.stdout.strip().rpartition(": ")[2]
    started = command(name, "run", "--rm", "--network=none", f"--entrypoint={program[0]}", tag, *program[1:])
    if loaded.returncode != 0 or started.returncode != 0:
        said = (loaded.stderr if loaded.returncode else started.stderr).strip().splitlines()
        pytest.skip(f"{name} can start no container here: {said[-1] if said else 'it does not say why'}")
    command(name, "rmi", "--force", tag)


def _find(to: pytest.MonkeyPatch) -> None:
    unpacked = [str(_UNPACKED / "usr" / each) for each in ("bin", "sbin")]
    to.setenv("PATH", os.pathsep.join((*unpacked, os.environ["PATH"], "/usr/sbin")))
    libraries = [str(each) for each in _UNPACKED.glob("usr/lib/*-linux-gnu")]
    if libraries:
        to.setenv(
            "LD_LIBRARY_PATH",
            os.pathsep.join((*libraries, os.environ.get("LD_LIBRARY_PATH", ""))).rstrip(":"),
        )


@contextmanager
def running_compose(
    data: Path | None = None, runtime: Path | None = None, *, way_out: bool
) -> Iterator[list[str]]:
    """Docker with Compose; its images are in `data`, or gone with it. `runtime` is run in the place of runc.

    With a way out it reaches what this machine reaches, by slirp4netns, and so do its containers; without one it is a
    machine with no network. Yields the words before a command that is to run in its network, where its published ports
    are; skips the test where it can not be had.
    """
    with (
        TemporaryDirectory(prefix="isocenter-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as to,
    ):
        _find(to)
        if os.geteuid() != 0:
            pytest.skip("docker is started by root only in these tests")
        if not COMPOSE.exists():
            pytest.skip(f"there is no {COMPOSE}: scripts/fetch_compose.sh")
        to.setenv("DOCKER_CONFIG", str(COMPOSE))
        with _docker(Path(folder), to, data, runtime, published=True) as process:
            inside = str(psutil.Process(process.pid).children()[0].pid)
            with _slirp(inside, Path(folder) / "slirp.log") if way_out else nullcontext():
                yield ["nsenter", "--net", f"--target={inside}"]


@contextmanager
def _slirp(inside: str, log: Path) -> Iterator[None]:
    """A way from the network namespace of that process to what this machine reaches, but not to its loopback."""
    words = ["--configure", "--mtu=1500", "--disable-host-loopback", inside, "tap0"]
    libraries = os.pathsep.join((str(COMPOSE / "bin"), os.environ.get("LD_LIBRARY_PATH", "")))
    with log.open("wb") as written:
        process = subprocess.Popen(
            [COMPOSE / "bin" / "slirp4netns", *words],
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        time.sleep(1)
        if process.poll() is not None:
            pytest.skip(f"slirp4netns does not start here: {log.read_text(errors='replace')[-300:]}")
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _docker(
    folder: Path,
    to: pytest.MonkeyPatch,
    data: Path | None = None,
    runtime: Path | None = None,
    *,
    published: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    if shutil.which("dockerd") is None:
        pytest.skip("there is no dockerd here, nor in .cache/engines: scripts/fetch_engines.sh")
    group = folder.name
    namespaces = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation=slave",
    ]
    daemon = [
        "dockerd",
        f"--host=unix://{folder}/socket",
        f"--data-root={data or folder / 'data'}",
        f"--exec-root={folder}/exec",
    ]
    daemon += [
        f"--pidfile={folder}/pid",
        f"--cgroup-parent=/{group}",
        "--exec-opt=native.cgroupdriver=cgroupfs",
    ]
    if runtime:
        daemon += [f"--add-runtime=given={runtime}", "--default-runtime=given"]
    if published:
        daemon += [f"--registry-mirror=http://{MIRROR}"]
        # The rules are the namespace's own, and so is loopback, on which ports are published.
        daemon = ["sh", "-c", 'ip link set lo up && exec "$@"', "dockerd", *daemon]
    else:
        daemon += ["--iptables=false"]  # so nothing is reached beyond the bridge
    to.setenv("ISOCENTER_DOCKER", f"--host=unix://{folder}/socket")
    to.setenv("DOCKER_HOST", f"unix://{folder}/socket")  # for others' programs
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*namespaces, *daemon], stdout=log, stderr=subprocess.STDOUT)
    try:
        _await_docker(process, folder / "log")
        yield process
    finally:
        end(process)
        _remove_groups(group)


def _await_docker(process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + _STARTS_WITHIN_S
    while command("docker", "version").returncode != 0:
        if process.poll() is not None or time.monotonic() > give_up:
            said = log.read_text(errors="replace").strip().splitlines()
            pytest.skip(f"dockerd does not start here: {said[-1] if said else 'it does not say why'}")
        time.sleep(0.2)


def end(process: subprocess.Popen[bytes]) -> None:
    """What is the first process of a namespace of its own is the child: when it is gone, so is all that it started."""
    with suppress(psutil.NoSuchProcess):
        for each in psutil.Process(process.pid).children() or [psutil.Process(process.pid)]:
            each.terminate()
    try:
        process.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _podman(folder: Path, to: pytest.MonkeyPatch) -> Iterator[None]:
    options = [f"--root={folder}/root", f"--runroot={folder}/run", f"--tmpdir={folder}/tmp"]
    to.setenv("ISOCENTER_PODMAN", " ".join(options))
    to.setenv("CONTAINERS_CONF", str(folder / "containers.conf"))
    # By itself it asks for higher limits than root may have in a container, and for crun, which knows one of the
    # kernel's two interfaces of control groups, or the other, and not both at once.
    (folder / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nlock_type = "file"\n'
        f'[engine.runtimes]\nrunc = ["{shutil.which("runc") or "runc"}"]\n'
    )
    told = command("podman", "info")
    if told.returncode != 0:
        pytest.skip(f"podman does not work here: {told.stderr.strip()[-300:]}")
    try:
        yield
    finally:
        command("podman", "rm", "--all", "--force", "--time=0")
        for mounted in sorted(each.mountpoint for each in psutil.disk_partitions(all=True)):
            if mounted.startswith(f"{folder}/"):
                subprocess.run(["umount", "--lazy", mounted], capture_output=True, check=False)
        _remove_groups("libpod_parent")


def _remove_groups(name: str) -> None:
    """Control groups that no process is in any more."""
    for top in (_CGROUPS, *_CGROUPS.glob("*")):
        for place, _, _ in os.walk(top / name, topdown=False):
            with suppress(OSError):
                Path(place).rmdir()
