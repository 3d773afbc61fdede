"""`isocenter validate-site`."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isocenter.cli import options
from isocenter.cli.interruption import attended
from isocenter.cli.output import print_json, print_lines, quiet_stdout, say
from isocenter.cli.site_cases import COLUMNS, Case, cases_below
from isocenter.cli.site_report import (
    Circumstances,
    not_as_expected,
    summary_of,
    summary_told,
    write_report,
)
from isocenter.cli.site_validation import CaseResult, examined
from isocenter_operators.errors import ConfigurationError
from isocenter_operators.inference.shared_memory import remove_own

if TYPE_CHECKING:
    from isocenter.settings import Settings
    from isocenter_operators.inference.endpoint import Endpoint
    from isocenter_operators.manifest import AppManifest

__all__ = ["command"]


@click.command()
@click.argument("cases", type=options.existing_folder, metavar="CASES")
@click.option("--app", required=True, help="The application.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder for the report.")
@click.option(
    "--expected",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"CSV: {','.join(COLUMNS)}.",
)
@click.option(
    "--label", "labels", multiple=True, metavar="REFERENCE=OURS", help="A segment's name in the references."
)
@click.option("--intended-use", default="", help="What the site uses it for: stands in the report.")
@options.config
@options.json_option
def command(
    *,
    cases: Path,
    app: str,
    out: Path,
    expected: Path | None,
    labels: tuple[str, ...],
    intended_use: str,
    config: Path | None,
    as_json: bool,
) -> int:
    """Run an application on a site's own cases and write a validation report.

    Each folder in CASES is a case: DICOM images, and where there is one a reference, a Segmentation or RT Structure
    Set, whose segments are compared by their names. 1 when any case did not end as it should, or is out of its
    tolerance.
    """
    from isocenter.catalog import Catalog

    settings = options.running_settings(config)
    installed = attended(lambda: Catalog.weighed(settings)).get(app)
    named = dict(map(_pair, labels))
    found = attended(lambda: cases_below(cases, expected))
    _make_new(out)
    try:
        with quiet_stdout():
            results, machine = _examined(settings, installed, found, out, named)
    except KeyboardInterrupt:
        # The graph's thread still runs, and no report says what only some of the cases gave.
        remove_own()
        say("interrupted: no report was written")
        os._exit(130)
    about = Circumstances(
        isocenter=version("isocenter"),
        application=installed.name,
        version=installed.version,
        models=dict(installed.models),
        weights={model: installed.weights.get(model) for model in installed.models},
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        cases_folder=str(cases.resolve()),
        expected_file=str(expected.resolve()) if expected else "",
        intended_use=intended_use,
    )
    document = write_report(out, about, results)
    if as_json:
        print_json(document)
    else:
        print_lines([*summary_told(summary_of(results)), "", f"the report is {out / 'report.html'}"])
    return 0 if all(result.as_expected for result in results) else 1


def _pair(label: str) -> tuple[str, str]:
    theirs, there, ours = label.partition("=")
    if not (theirs and there and ours):
        raise ConfigurationError(f"--label {label}: should be like 'Lung R=Right lung'")
    return theirs, ours


def _make_new(out: Path) -> None:
    """A report is evidence: none is written over."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ConfigurationError(f"--out: {out} is not empty: a report is written into a new folder")
    except OSError as error:
        raise ConfigurationError(f"--out: {out} can not be written: {error.strerror}") from error


def _examined(
    settings: Settings, app: AppManifest, cases: Iterable[Case], out: Path, labels: dict[str, str]
) -> tuple[list[CaseResult], dict[str, str]]:
    from isocenter.cli.run import quiet_libraries, run_on_folder, triton_for

    quiet_libraries()
    results = []
    with triton_for(settings, app) as address:
        for case in cases:
            folder = out / "results" / case.name
            folder.mkdir(parents=True)

            def one(case: Case = case, folder: Path = folder) -> CaseResult:
                return examined(
                    case, lambda images, to: run_on_folder(app, settings, images, to, address), folder, labels
                )

            results.append(attended(one))
            say(f"{case.name}: {results[-1].status}{': ' if results[-1].reason else ''}{results[-1].reason}")
            for sentence in not_as_expected(results[-1]):
                say(f"  {sentence}")
        machine = _machine(app, address)
    return results, machine


def _machine(app: AppManifest, address: Callable[[], str | Endpoint]) -> dict[str, str]:
    told = {
        "computer": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "MONAI Deploy App SDK": version("monai-deploy-app-sdk"),
    }
    if not app.models:
        return told
    from isocenter_operators.inference.self_test import self_test
    from isocenter_operators.inference.triton import TritonClient

    with TritonClient(address(), shared_memory=False) as client:
        report = self_test(client)
    device = f"{report.device} {report.device_name}".strip()
    return {
        **told,
        "models computed by": f"torch {report.torch} on {device}, SciPy {report.scipy}, Python {report.python}",
    }
