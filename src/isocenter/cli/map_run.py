"""`isocenter map run`."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from isocenter.cli import options
from isocenter.cli.output import counted, print_json, print_lines, say
from isocenter.cli.validate import lines_of
from isocenter_operators.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from isocenter.maps.package import Package
    from isocenter.maps.sandbox import Folders, Report, Wish
    from isocenter.maps.written import Written

__all__ = ["command"]

_ENGINES = ("docker", "podman", "bubblewrap", "namespaces")
_MIB = 1 << 20


class _Size(click.ParamType[int]):
    """A size of memory, in bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from isocenter.maps.manifests import memory_bytes

        try:
            return memory_bytes(value)
        except ValueError as wrong:
            self.fail(str(wrong), param, ctx)


@click.command("run")
@click.argument("source", metavar="MAP")
@click.option(
    "-i", "--input", "read", required=True, type=options.existing_folder, help="The folder of images."
)
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=click.Path(path_type=Path),
    help="An empty or new folder for the results.",
)
@click.option("--gpus", is_flag=True, help="Give it the GPUs of this machine.")
@click.option("--network", is_flag=True, help="Let it reach the network; else it has its own loopback alone.")
@click.option(
    "--timeout", "time_s", type=click.FloatRange(min=0, min_open=True), help="Seconds; else its manifest's."
)
@click.option(
    "--memory", type=_Size(), help="As in 8Gi; else what it declares, or 1Gi where it declares none."
)
@click.option("--shared-memory", type=_Size(), help="As in 1Gi; else what it declares, or 64Mi.")
@click.option(
    "--cpus", type=click.FloatRange(min=0, min_open=True), help="Cores; else what it declares, or 1."
)
@click.option("--output-size", type=_Size(), help="What it may write, as in 8Gi; else 4Gi.")
@click.option(
    "--engine", type=click.Choice(_ENGINES), help="By which means; else the first of these that works here."
)
@click.option("--quiet", is_flag=True, help="Do not show what it says; its log is kept all the same.")
@options.json_option
def command(source: str, read: Path, out: Path, quiet: bool, as_json: bool, **asked: Any) -> int:
    """Run a MONAI Application Package on the DICOM files below a folder, and check what it wrote.

    It can read the input, write the output and a little memory, and nothing else of this machine. 1 when it fails,
    writes nothing, or writes DICOM that is wrong by the standard; the files stay in the output either way.
    """
    from isocenter.maps.reference import opened
    from isocenter.maps.sandbox import Wish
    from isocenter.maps.unpacked import forget_old
    from isocenter.maps.written import discard

    _require(read, out)
    forget_old(_cache())
    wish = Wish(
        engine=asked["engine"],
        network=asked["network"],
        gpus=asked["gpus"],
        memory=asked["memory"],
        cpu=asked["cpus"],
        shared_memory=asked["shared_memory"],
        time_s=asked["time_s"],
        output=asked["output_size"],
    )
    with (
        opened(source) as package,
        _ended_by_signals(),
        TemporaryDirectory(prefix=".map-", dir=out) as folder,
    ):
        folders = _folders(read, out, Path(folder))
        try:
            done = _run(package, folders, out, wish, None if quiet else lambda line: say(f"| {line}"))
        finally:
            discard(folders.write)
    document = {"map": source, "digest": package.digest, **_document(done)}
    if as_json:
        print_json(document)
    else:
        print_lines(_summary(document, done, out))
    return 1 if done.reason else 0


@dataclass(frozen=True)
class _Done:
    report: Report
    written: Sequence[Written]
    log: Path

    @property
    def reason(self) -> str | None:
        """Why it failed; None where it did not."""
        if not self.written and self.report.not_applicable is not None:
            return None
        return self.report.reason or _wrong(self.written)

    @property
    def status(self) -> str:
        """As of `isocenter run`: that it is not applicable is an outcome, and no fault."""
        if self.reason:
            return "failed"
        return "done" if self.written else "not_applicable"


def _folders(read: Path, out: Path, folder: Path) -> Folders:
    from isocenter.maps.sandbox import Folders

    made = Folders(
        read=read.resolve(), write=folder.resolve() / "output", work=folder.resolve() / "work", cache=_cache()
    )
    made.write.mkdir()
    made.work.mkdir()
    made.write.chmod(0o777)  # in a folder that is its owner's alone: an engine's user has to write here
    return made


def _run(
    package: Package, folders: Folders, out: Path, wish: Wish, listen: Callable[[str], None] | None
) -> _Done:
    from isocenter.maps.sandbox import run_package
    from isocenter.maps.written import check_written, collect, headers_below

    try:
        report = run_package(package, folders, wish, say=listen)
    finally:
        own = folders.work / "log.txt"
        # A package may have written a file of that name itself.
        log = out / ("map.run.log" if (folders.write / "map.log").exists() else "map.log")
        if own.exists():
            shutil.move(own, log)
    files = collect(folders.write, out)
    return _Done(report, check_written(files, headers_below(folders.read) if files else {}), log)


def _require(read: Path, out: Path) -> None:
    if not any(each.is_file() for each in read.rglob("*")):
        raise InputError(f"-i: {read} is empty: there is nothing to run it on", path=str(read))
    try:
        out.mkdir(parents=True, exist_ok=True)
        occupied = any(out.iterdir())
    except OSError as error:
        raise ConfigurationError(f"-o: {out} can not be written: {error.strerror}") from error
    if occupied:
        raise ConfigurationError(
            f"-o: {out} is not empty: name a new folder, so that nobody takes old results for these"
        )


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A request to end is as good as Ctrl-C: the package is ended too, and its folder removed."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "isocenter" / "maps"


def _wrong(written: Sequence[Written]) -> str | None:
    if not written:
        return "it wrote nothing: look into map.log, and at whether the images are of the kind that it takes"
    if all(each.sop_class_uid is None for each in written):
        return f"it wrote {counted(len(written), 'file')}, and none of them is DICOM"
    invalid = [each for each in written if not each.valid]
    if invalid:
        return f"{counted(len(invalid), 'file')} of what it wrote can not be right by the standard"
    return None


def _document(done: _Done) -> dict[str, Any]:
    execution, limits = done.report.execution, done.report.limits
    return {
        "status": done.status,
        "reason": done.reason or (None if done.written else done.report.not_applicable),
        "engine": done.report.engine,
        "exit_code": execution.exit_code,
        "seconds": round(execution.seconds, 2),
        "memory": {
            "limit_mib": limits.memory // _MIB,
            "peak_mib": None if execution.memory_peak is None else execution.memory_peak // _MIB,
            "kept_by": execution.memory_guard,
        },
        "notes": list(done.report.notes),
        "log": str(done.log),
        "results": [
            {
                "path": str(each.path),
                "sop_class_uid": each.sop_class_uid,
                "modality": each.modality,
                "size": each.size,
                "problems": [asdict(problem) for problem in each.problems],
            }
            for each in done.written
        ],
    }


def _summary(document: dict[str, Any], done: _Done, out: Path) -> Iterator[str]:
    memory = document["memory"]
    peak = "" if memory["peak_mib"] is None else f"{memory['peak_mib']} of "
    yield (
        f"{document['engine']}: {document['seconds']} s, {peak}{memory['limit_mib']} MiB of memory (kept by "
        f"{memory['kept_by']})"
    )
    yield from (f"note: {note}" for note in document["notes"])
    for each in done.written:
        yield f"{each.modality or 'file':<4} {each.path.relative_to(out)}"
        yield from lines_of(each.problems)
    if document["status"] == "done":
        yield "done: every DICOM object is right by our rules"
    else:
        yield f"{document['status'].replace('_', ' ')}: {document['reason']}"
    yield f"log: {document['log']}"
