"""A package run on a folder of images: confined, within its limits, by the best means that this machine has.

The input can be read, the output be written, and beside them only memory that is forgotten: /tmp, /run and the working
directory. There is no network but the loopback, unless it is granted, and nothing of the host's files.
"""

from __future__ import annotations

import os
import platform
import posixpath
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from uuid import uuid4

from isocenter.maps import bubblewrap, container, gpu, namespaces
from isocenter.maps.cell import Cell
from isocenter.maps.container import Container
from isocenter.maps.execution import Command, Execution, execute
from isocenter.maps.inspection import Needs
from isocenter.maps.limits import Limits
from isocenter.maps.manifest_findings import GPU_LABEL
from isocenter.maps.mounts import host_system, mounts_over
from isocenter.maps.package import Package
from isocenter.maps.path_findings import environment_of
from isocenter.maps.reference import has_image
from isocenter.maps.standby import STANDBY_LABEL, STANDBY_VALUE, Standby
from isocenter.maps.unpacked import in_use, unpacked
from isocenter.maps.user import UnknownUser, User, user_of
from isocenter_operators.errors import ConfigurationError, InputError
from isocenter_operators.standby import VARIABLE

__all__ = [
    "ENGINES",
    "Engine",
    "Folders",
    "Report",
    "Wish",
    "chosen_engine",
    "limits_of",
    "run_package",
    "standby_engine",
    "works",
]

Engine = Literal["docker", "podman", "bubblewrap", "namespaces"]
ENGINES: tuple[Engine, ...] = ("docker", "podman", "bubblewrap", "namespaces")

_OF_IMAGES = ("docker", "podman")
_SANDBOXES: tuple[Engine, ...] = ("bubblewrap", "namespaces")
_ANYBODY = User(1000, 1000)
_NOT_APPLICABLE = "not applicable: "  # isocenter_operators.command
_REASON_AT_MOST = 300  # characters
_SCRATCH = ("/tmp", "/var/tmp", "/run")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_MIB = 1 << 20
_SEVERAL = re.compile(r"[:,\"\x00-\x1f\x7f]")  # by which engines tell the parts of a mount from one another


@dataclass(frozen=True)
class Wish:
    """What whoever runs a package asks for, over what it declares. Sizes in bytes; None: as it declares."""

    engine: Engine | None = None  # None: the first that works here
    network: bool = False
    gpus: bool = False
    memory: int | None = None
    cpu: float | None = None
    shared_memory: int | None = None
    time_s: float | None = None
    output: int | None = None  # None: a default, for no manifest states it


@dataclass(frozen=True)
class Folders:
    """read: the images. write: an empty one for the results. work: an empty one of this run; `log.txt` is left in it.
    cache: where images are unpacked, once for each digest."""

    read: Path
    write: Path
    work: Path
    cache: Path


@dataclass(frozen=True)
class Report:
    """How a run went. `notes`: what a person should know of how it was run."""

    engine: Engine
    limits: Limits
    execution: Execution
    notes: tuple[str, ...]

    @property
    def not_started(self) -> bool:
        """As shells and engines tell it."""
        return self.execution.ending == "ended" and self.execution.exit_code in (125, 126, 127)

    @property
    def not_applicable(self) -> str | None:
        """What an application of ours says where the images are not what it is for; None where it says nothing.

        A line of plain text. Anybody's package may say so: whether that is believed is for the caller to know.
        """
        said = [line for line in self.execution.tail if line.startswith(_NOT_APPLICABLE)]
        if not said or self.reason is not None:
            return None
        text = said[-1].removeprefix(_NOT_APPLICABLE)[:_REASON_AT_MOST]
        return " ".join("".join(each if each.isprintable() else " " for each in text).split())

    @property
    def reason(self) -> str | None:
        """Why it failed, and what to do; None where it did what it was to do. What the package said is not in it."""
        execution, limits = self.execution, self.limits
        if execution.ending == "timed out":
            return (
                f"it did not end within {limits.time_s:g} s and was ended; give it longer, or find out from its log "
                "where it hangs"
            )
        if execution.ending == "out of memory":
            whose = (
                "it may take"
                if limits.declared
                else "the specification assumes where a package declares none"
            )
            return f"it took more memory than the {limits.memory // _MIB} MiB that {whose}; give it more"
        if execution.ending == "wrote too much":
            return (
                f"it wrote more than the {limits.output // _MIB} MiB that it may (a folder that nobody can look into "
                "counts as more); allow it more, or find out what it writes"
            )
        if execution.ending == "never begun":
            return "it ended before it was let begin"
        if self.not_started:
            return f"its command could not be started (exit code {execution.exit_code}): see its log"
        return (
            None
            if execution.exit_code == 0
            else (f"it ended with exit code {execution.exit_code}; its log says more")
        )


def works(engine: Engine) -> bool:
    """Whether packages can be run here by this means."""
    if engine == "bubblewrap":
        return bubblewrap.available()
    return namespaces.available() if engine == "namespaces" else container.available(engine)


def chosen_engine(wish: Wish, package: Package) -> Engine:
    """By which means it is run. Raises ConfigurationError where there is none, or not the one that is wished for."""
    folder = package.image is None
    for engine in ENGINES if wish.engine is None else (wish.engine,):
        if not (folder and engine in _OF_IMAGES) and works(engine):
            return engine
    if wish.engine is not None:
        why = " for a package that is a folder" if folder and wish.engine in _OF_IMAGES else " here"
        raise ConfigurationError(f"{wish.engine} does not work{why}")
    remedy = "install bubblewrap (apt-get install bubblewrap)"
    if shutil.which("bwrap") is not None:
        remedy = "let this user make them, or this container (docker/packages.yaml does)"
    raise ConfigurationError(
        "nothing here can run a package: Docker and Podman do not answer, and neither bubblewrap nor unshare may make "
        f"namespaces; {remedy}"
    )


def standby_engine(package: Package, wish: Wish) -> Engine | None:
    """By which means it can be started in advance; None where it can not wait, or an engine of images runs it."""
    if package.image is None or package.labels.get(STANDBY_LABEL) != STANDBY_VALUE:
        return None
    engine = chosen_engine(wish, package)
    return engine if engine in _SANDBOXES else None


def run_package(
    package: Package,
    folders: Folders,
    wish: Wish,
    *,
    say: Callable[[str], None] | None = None,
    checkpoint: Callable[[], None] | None = None,
    standby: Standby | None = None,
) -> Report:
    """Run it once. say, checkpoint, standby: see `Command`; the last for the `standby_engine` alone.

    Raises InputError for a package that can not be run, and ConfigurationError for a machine that can not run it.
    """
    _same_machine(package)
    _require_plain(package)
    engine = chosen_engine(wish, package)
    log = folders.work / "log.txt"
    command = Command((), log, output=folders.write, say=say, checkpoint=checkpoint, standby=standby)
    if engine not in _OF_IMAGES:
        return _by_sandbox(engine, package, folders, wish, command)
    if standby is not None:
        raise ConfigurationError(f"{engine} starts nothing in advance")
    report = _by_container(engine, package, folders, wish, command)
    other: Engine | None = next((each for each in _SANDBOXES if works(each)), None)
    if wish.engine is not None or other is None or (report is not None and _ran(report, folders)):
        if report is None:
            raise ConfigurationError(f"{engine} does not take {package.source}; try another --engine")
        return report
    if report is not None and report.limits.time_s is not None:
        wish = replace(wish, time_s=max(1.0, report.limits.time_s - report.execution.seconds))
    # An engine may answer and yet not be able to start anything, as in a container that lets it do too little.
    report = _by_sandbox(other, package, folders, wish, command)
    return replace(report, notes=(f"{engine} could not start it, so {other} ran it", *report.notes))


def _ran(report: Report, folders: Folders) -> bool:
    """Also what ended as if it could not be started has run, where it wrote something: no second run adds to that."""
    return not report.not_started or any(folders.write.iterdir())


def _by_container(
    engine: Engine, package: Package, folders: Folders, wish: Wish, command: Command
) -> Report | None:
    """None where the engine does not take the image."""
    image = _loaded(engine, package)
    if image is None:
        return None
    limits = limits_of(package, wish)
    made = _container(package, image, folders, limits, wish)
    container.note(folders.work, engine, made.name)
    execution = execute(_in_container(engine, made, limits, command), limits)
    return Report(engine, limits, execution, _notes(package, wish))


def _by_sandbox(engine: Engine, package: Package, folders: Folders, wish: Wish, command: Command) -> Report:
    with in_use(package, folders.cache):
        package = unpacked(package, folders.cache)
        limits = limits_of(package, wish)
        cell = _cell(engine, package, folders, limits, wish)
        if command.standby is not None:
            cell = replace(cell, environment={**cell.environment, VARIABLE: "1"})
        words = (
            bubblewrap.command_of(cell, folders.work)
            if engine == "bubblewrap"
            else namespaces.command_of(cell, folders.work)
        )
        return Report(engine, limits, execute(replace(command, words=words), limits), _notes(package, wish))


def _in_container(engine: Engine, made: Container, limits: Limits, command: Command) -> Command:
    since = time.time()
    return replace(
        command,
        words=container.command_of(engine, made, limits),
        engine_limits=True,
        end=lambda: container.end(engine, made.name),
        memory_exceeded=lambda: container.memory_exceeded(engine, made.name, since),
    )


def limits_of(package: Package, wish: Wish) -> Limits:
    """What a run of it may take."""
    return Limits.of(
        Needs.of(package),
        memory=wish.memory,
        cpu=wish.cpu,
        shared_memory=wish.shared_memory,
        time_s=wish.time_s,
        output=wish.output,
    )


def _same_machine(package: Package) -> None:
    here = _MACHINES.get(platform.machine(), platform.machine())
    if package.image is not None and (package.config.os, package.config.architecture) != ("linux", here):
        raise InputError(
            f"{package.source}: it is built for {package.config.os}/{package.config.architecture}, and this machine is "
            f"linux/{here}",
            path=package.source,
        )


def _require_plain(package: Package) -> None:
    """Where a relative path leads depends on where it is asked from, and that may be outside of the sandbox. Of one
    with a colon engines take the first half for a folder of the host's."""
    application, layout = package.application, package.layout
    paths = {
        "working directory": application.working_directory_in(layout),
        "input": application.input_path(layout),
        "output": application.output_path(layout),
    }
    for what, path in paths.items():
        if not posixpath.isabs(path):
            raise InputError(
                f"{package.source}: its {what} {path!r} is no absolute path: its maker has to begin it with /",
                path=package.source,
            )
        if _SEVERAL.search(path):
            raise InputError(
                f"{package.source}: its {what} {path!r} has a colon, a comma, a quote or a control character in it, by "
                "which engines tell folders apart: its maker has to name another",
                path=package.source,
            )


def _notes(package: Package, wish: Wish) -> tuple[str, ...]:
    needs, notes = Needs.of(package), []
    if needs.gpu and not wish.gpus and package.labels.get(GPU_LABEL) != "optional":
        notes.append(f"it asks for {needs.gpu:g} GPU and was given none")
    if wish.gpus and not gpu.devices():
        raise ConfigurationError("there is no NVIDIA GPU on this machine to give it")
    root = Path(package.source)
    if package.image is None and host_system(root):
        notes.append("it has no system of its own: it ran on this machine's programs and libraries")
    return tuple(notes)


def _loaded(engine: Engine, package: Package) -> str | None:
    """What the engine calls the image, after it was given it; None where it does not take it."""
    image = package.image
    assert image is not None
    if not Path(package.source).exists() and has_image(engine, package.source):
        return package.source
    if has_image(engine, image.config_digest):
        return image.config_digest
    image.verify()
    return container.load(engine, image)


def _container(package: Package, image: str, folders: Folders, limits: Limits, wish: Wish) -> Container:
    application, layout = package.application, package.layout
    entered = bool(package.config.config.entrypoint)
    return Container(
        image=image,
        name=f"isocenter-map-{uuid4().hex[:12]}",
        read={application.input_path(layout): _readable(folders)},
        write={application.output_path(layout): folders.write},
        scratch=_SCRATCH,
        scratch_size=limits.memory,
        working_directory=posixpath.normpath(application.working_directory_in(layout)),
        environment=_environment(package),
        user=_user(package),
        arguments=() if entered else application.arguments,
        network=wish.network,
        gpus=wish.gpus,
    )


def _readable(folders: Folders) -> Path:
    """The images for a user that an engine makes, who is another one than root: a copy where he may not read them."""
    if os.geteuid() != 0 or all(_open_to_all(path) for path in (folders.read, *folders.read.rglob("*"))):
        return folders.read
    copy = folders.work / "input"
    shutil.copytree(folders.read, copy, copy_function=shutil.copyfile)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


def _open_to_all(path: Path) -> bool:
    needed = 0o005 if path.is_dir() else 0o004
    return path.stat().st_mode & needed == needed


def _cell(engine: Engine, package: Package, folders: Folders, limits: Limits, wish: Wish) -> Cell:
    application, layout = package.application, package.layout
    assert package.unpacked is not None
    root, user = package.unpacked.folder.resolve(), _user(package)
    if engine == "namespaces" and user.uid == 0:
        user = _ANYBODY  # root could leave the folder that it is in
    working = application.working_directory_in(layout)
    own = {} if package.image else host_system(root)
    files = {"/etc/hosts": _hosts(folders.work)}
    if wish.network:
        files["/etc/resolv.conf"] = Path("/etc/resolv.conf").resolve()
    environment = _environment(package)
    if wish.gpus:
        files |= gpu.libraries()
        known = environment.get("LD_LIBRARY_PATH", "")
        environment["LD_LIBRARY_PATH"] = f"{gpu.LIBRARY_FOLDER}:{known}".rstrip(":")
    mounts = mounts_over(
        root,
        read={**own, **files, application.input_path(layout): folders.read},
        write={application.output_path(layout): folders.write},
        scratch=[*_SCRATCH, *((working,) if working != "/" else ())],
        scratch_size=limits.memory,
        shared_memory=limits.shared_memory,
    )
    return Cell(
        mounts=mounts,
        arguments=_arguments(package),
        environment=environment,
        directory=posixpath.normpath(working),
        user=user,
        network=wish.network,
        devices=gpu.devices() if wish.gpus else (),
    )


def _arguments(package: Package) -> tuple[str, ...]:
    """The image's own entrypoint, which may start a server of its own first; else the manifest's command.

    A command of the image without an entrypoint does not count: it is mostly the base's, and would start a shell.
    """
    started = package.config.config
    if started.entrypoint:
        return started.argv
    try:
        words = package.application.arguments
    except ValueError as wrong:
        raise InputError(f"{package.source}: the command of its manifest can not be read: {wrong}") from wrong
    if not words:
        raise InputError(f"{package.source}: it has neither an entrypoint nor a command")
    return words


def _environment(package: Package) -> dict[str, str]:
    application, layout = package.application, package.layout
    return {
        **environment_of(package),
        layout.input_variable: application.input_path(layout),
        layout.output_variable: application.output_path(layout),
        layout.working_directory_variable: application.working_directory_in(layout),
        "HOME": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",  # beside the code nothing can be written
    }


def _user(package: Package) -> User:
    if package.image is None:
        return _ANYBODY
    user = user_of(package)
    if isinstance(user, UnknownUser):
        raise InputError(f"{package.source}: it is to run as {user.name!r}, whom the image does not know")
    return user


def _hosts(work: Path) -> Path:
    """Images leave it to engines to say what localhost is."""
    file = work / "hosts"
    file.write_text("127.0.0.1 localhost map\n::1 localhost\n")
    return file
