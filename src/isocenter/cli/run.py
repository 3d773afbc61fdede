"""`isocenter run`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, NoReturn

import click

from isocenter.cli import options
from isocenter.cli.interruption import attended
from isocenter.cli.output import groups_table, print_json, print_lines, quiet_stdout, say
from isocenter_operators.errors import ConfigurationError, UnreadableInput

if TYPE_CHECKING:
    from isocenter.settings import Settings
    from isocenter_operators.inference.endpoint import Endpoint
    from isocenter_operators.manifest import AppManifest
    from isocenter_operators.run import Outcome

__all__ = ["command", "quiet_libraries", "run_on_folder", "serves", "triton_for"]


@click.command()
@click.argument("app")
@click.argument("path", type=options.existing_path)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder for the results.")
@options.config
@options.json_option
def command(app: str, path: Path, out: Path, config: Path | None, as_json: bool) -> int:
    """Run the application APP on the DICOM files below PATH, without an archive."""
    from isocenter.catalog import Catalog
    from isocenter.worker import runner

    settings = options.running_settings(config)
    installed = attended(lambda: Catalog.weighed(settings)).get(app)
    _require_files(path)
    _require_room(out)
    try:
        with quiet_stdout():
            outcome = _run(installed, settings, path, out)
    except KeyboardInterrupt:
        _leave(out, as_json)
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
    if path.is_dir() and not any(each.is_file() for each in path.rglob("*")):
        raise UnreadableInput(f"{path} is empty: there are no DICOM files to read", path=str(path))


def _leave(out: Path, as_json: bool) -> NoReturn:
    """The graph's thread still runs: nothing that it writes after this moment counts."""
    from isocenter_operators.inference.shared_memory import remove_own

    remove_own()
    for unfinished in out.glob("*.part"):
        unfinished.unlink(missing_ok=True)
    if as_json:
        print_json({"status": "failed", "reason": "interrupted"})
    say("interrupted")
    sys.stdout.flush()
    os._exit(130)


def _run(app: AppManifest, settings: Settings, path: Path, out: Path) -> Outcome:
    quiet_libraries()
    with triton_for(settings, app) as address:
        return attended(lambda: run_on_folder(app, settings, path, out, address))


def run_on_folder(
    app: AppManifest, settings: Settings, path: Path, out: Path, address: Callable[[], str | Endpoint]
) -> Outcome:
    """Import MONAI Deploy while Triton starts, seconds each; then run."""
    from isocenter.worker import runner
    from isocenter_operators.run import Folder, Run

    runner.load(app)
    task = Run(
        source=Folder(path),
        sink=Folder(out),
        triton_url=address(),
        deadline_s=app.deadline_s,
        rejected=out / "rejected",
        form=settings.result_form(),
        algorithm=app.algorithm,
    )
    return runner.run(app, task)


@contextmanager
def triton_for(settings: Settings, app: AppManifest) -> Iterator[Callable[[], str | Endpoint]]:
    """The address of a server that is there already, or of an embedded one for this run only, once it serves."""
    from isocenter.model_loading import load_missing
    from isocenter.stack.ports import any_for_triton
    from isocenter.stack.triton import starting_triton

    load_missing(settings, app.models)
    if not app.models or not settings.triton.embedded or serves(settings, app.models):
        yield lambda: settings.triton.endpoint
        return
    say("starting Triton for this run")
    with starting_triton(any_for_triton(settings), tuple(app.models)) as address:
        yield address


def serves(settings: Settings, models: Mapping[str, str]) -> bool:
    """Whether a stack runs that has these models loaded, each in its version; one that was imported since is not."""
    from isocenter.stack.running import running
    from isocenter_operators.inference.triton import TritonClient

    if running(settings) is None:
        return False
    with TritonClient(settings.triton.endpoint, shared_memory=False) as client:
        return all(client.ready(model, version) for model, version in models.items())


def quiet_libraries() -> None:
    """MONAI Deploy and Holoscan tell much that nobody asked for."""
    for variable in ("HOLOSCAN_LOG_LEVEL", "HOLOSCAN_EXECUTOR_LOG_LEVEL"):
        os.environ.setdefault(variable, "OFF")  # what goes wrong arrives as an exception
    os.environ.setdefault("MONAI_ENVCHECK", "false")
    logging.basicConfig(level=logging.ERROR)


def _require_room(out: Path) -> None:
    """Find out now, not after minutes, that nothing can be written. Raises ConfigurationError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigurationError(f"--out: {out} can not be written: {error.strerror}") from error


def _summary(document: dict[str, Any], outcome: Outcome) -> list[str]:
    if outcome.status == "not_applicable":
        return [f"not applicable: {outcome.reason}"]
    files = [f"{stored.modality:<4} {stored.path or stored.sop_instance_uid}" for stored in outcome.results]
    notes = [f"note: {note}" for note in outcome.notes]
    seconds = ", ".join(f"{name} {value:.2f}" for name, value in outcome.seconds.items())
    return [*groups_table(document["groups"]), *notes, "", *files, "", f"seconds: {seconds}"]
