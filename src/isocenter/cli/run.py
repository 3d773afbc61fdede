"""`isocenter run`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isocenter.cli import options
from isocenter.cli.output import groups_table, print_json, print_lines, quiet_stdout, say
from isocenter_operators.errors import UnreadableInput

if TYPE_CHECKING:
    from isocenter.settings import Settings
    from isocenter_operators.manifest import AppManifest
    from isocenter_operators.run import Outcome

__all__ = ["command"]


@click.command()
@click.argument("app")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder for the results.")
@options.config
@options.json_option
def command(app: str, path: Path, out: Path, config: Path | None, as_json: bool) -> int:
    """Run the application APP on the DICOM files below PATH, without an archive."""
    from isocenter.catalog import Catalog
    from isocenter.worker import runner

    settings = options.running_settings(config)
    installed = Catalog(settings.apps_dir).get(app)
    _require_files(path)
    out.mkdir(parents=True, exist_ok=True)
    with quiet_stdout():
        outcome = _run(installed, settings, path, out)
    document = {
        "status": outcome.status,
        "application": installed.name,
        "version": installed.version,
        "reason": outcome.reason,
        **runner.as_json(outcome),
    }
    if as_json:
        print_json(document)
    else:
        print_lines(_summary(document, outcome))
    return 0


def _require_files(path: Path) -> None:
    """Find the commonest mistakes before Triton is started for nothing."""
    if not path.exists():
        raise UnreadableInput(f"{path} does not exist", path=str(path))
    if path.is_dir() and not any(each.is_file() for each in path.rglob("*")):
        raise UnreadableInput(f"{path} is empty: there are no DICOM files to read", path=str(path))


def _run(app: AppManifest, settings: Settings, path: Path, out: Path) -> Outcome:
    _quiet()
    from isocenter.worker import runner
    from isocenter_operators.run import Folder, Run

    with ThreadPoolExecutor(1) as beside:
        # Importing MONAI Deploy and starting Triton take seconds each, and neither waits for the other.
        loading = beside.submit(runner.load, app)
        with _triton(settings, app) as url:
            loading.result()
            task = Run(
                source=Folder(path),
                sink=Folder(out),
                triton_url=url,
                deadline_s=app.deadline_s,
                rejected=out / "rejected",
            )
            return runner.run(app, task)


@contextmanager
def _triton(settings: Settings, app: AppManifest) -> Iterator[str]:
    """A server that is there already, or an embedded one for this run only."""
    from isocenter.stack.ports import moved
    from isocenter.stack.running import running
    from isocenter.stack.triton import running_triton

    if not app.models or not settings.triton.embedded or running(settings) is not None:
        yield settings.triton.grpc_url
        return
    say("starting Triton for this run")
    with running_triton(moved(settings), tuple(app.models)) as url:
        yield url


def _quiet() -> None:
    """MONAI Deploy and Holoscan tell much that nobody asked for."""
    for variable in ("HOLOSCAN_LOG_LEVEL", "HOLOSCAN_EXECUTOR_LOG_LEVEL"):
        os.environ.setdefault(variable, "OFF")  # what goes wrong arrives as an exception
    os.environ.setdefault("MONAI_ENVCHECK", "false")
    logging.basicConfig(level=logging.ERROR)


def _summary(document: dict[str, Any], outcome: Outcome) -> list[str]:
    if outcome.status == "not_applicable":
        return [f"not applicable: {outcome.reason}"]
    files = [f"{stored.modality:<4} {stored.path or stored.sop_instance_uid}" for stored in outcome.results]
    notes = [f"note: {note}" for note in outcome.notes]
    seconds = ", ".join(f"{name} {value:.2f}" for name, value in outcome.seconds.items())
    return [*groups_table(document["groups"]), *notes, "", *files, "", f"seconds: {seconds}"]
