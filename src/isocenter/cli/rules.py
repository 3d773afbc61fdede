"""`isocenter rules`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isocenter.cli import options
from isocenter.cli.output import counted, print_json, print_lines, say
from isocenter.cli.rules_apply import apply, noted
from isocenter_operators.errors import ConfigurationError, Unavailable, UnreadableInput

if TYPE_CHECKING:
    from isocenter.arrivals import Arrival
    from isocenter.rules import RouteVerdict, Series
    from isocenter.settings import Settings

__all__ = ["command"]


@click.group()
@options.config
@click.pass_context
def command(context: click.Context, config: Path | None) -> None:
    """The rules that choose applications for series and studies: check, explain PATH, apply."""
    context.obj = config


@command.command()
@options.json_option
@click.pass_obj
def check(config: Path | None, as_json: bool) -> int:
    """Are the rules themselves right?"""
    from isocenter.catalog import Catalog
    from isocenter.rules import located, problems
    from isocenter.settings import Settings

    settings = Settings.load(config, secrets=())  # the file as it is now, whatever a stack was started with
    found = problems(settings.routes, Catalog.of(settings).names)
    lines = located(found, settings.file)
    if as_json:
        routes = [route.model_dump(mode="json") for route in settings.routes]
        told = [{"where": where, "place": list(each.place), "message": str(each)} for each, where in lines]
        print_json({"routes": routes, "problems": told})
    elif found:
        raise ConfigurationError("\n".join(f"{where}: {problem}" for problem, where in lines))
    else:
        print_lines([f"{counted(len(settings.routes), 'rule')}: nothing is wrong"])
    return 2 if found else 0


command.add_command(apply)


@command.command()
@click.argument("path", type=options.existing_path)
@options.json_option
@click.pass_obj
def explain(config: Path | None, path: Path, as_json: bool) -> int:
    """Which rules fire for the series and studies below PATH, and why each other one does not.

    Where one fires for what was decided on before: which job it made, or why it makes none by itself.
    """
    from isocenter.catalog import Catalog
    from isocenter.routing.past import explained
    from isocenter.rules import explain as ask
    from isocenter.rules import refuse_wrong_rules
    from isocenter.settings import Settings

    settings = Settings.load(config, secrets=())  # the file as it is now, whatever a stack was started with
    refuse_wrong_rules(settings, settings.file, Catalog.of(settings))
    studies = _studies(path)
    known = _known(settings, studies)
    if as_json:
        told = [explained(settings.routes, study, known[study_uid]) for study_uid, study in studies.items()]
        print_json([entry for study in told for entry in _entries(study)])
        return 0
    for study_uid, study in studies.items():
        verdicts = [(each, _lines(each, study_uid, known[study_uid])) for each in ask(settings.routes, study)]
        for series in study:
            print_lines([f"series {series.series_uid} ({counted(series.instances, 'instance')})"])
            for each, lines in verdicts:
                print_lines(lines if each.series_uid == series.series_uid else [])
        of_study = [line for each, lines in verdicts if each.scope == "study" for line in lines]
        if of_study:
            print_lines([f"study {study_uid} ({counted(len(study), 'series', 'series')})", *of_study])
    return 0


def _known(settings: Settings, study_uids: Iterable[str]) -> dict[str, list[Arrival]]:
    """What was decided about each study before; the rules are explained without a database too, which is said."""
    from isocenter.database import is_made

    try:
        if not is_made(settings):
            return {uid: [] for uid in study_uids}
        with noted(settings) as arrivals:
            return {uid: arrivals.of_study(uid) for uid in study_uids}
    except Unavailable as error:
        say(f"whether anything was decided about it before is not known: {error}")
        return {uid: [] for uid in study_uids}


def _entries(study: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One entry for each series, and one for the study where a route is about studies."""
    for series in study["series"]:
        yield {"study_uid": study["study_uid"], **series}
    if study["routes"]:
        instances = sum(series["instances"] for series in study["series"])
        yield {
            "study_uid": study["study_uid"],
            "series_uid": None,
            "instances": instances,
            "routes": study["routes"],
        }


def _lines(verdict: RouteVerdict, study_uid: str, known: Sequence[Arrival]) -> list[str]:
    """What one rule says, and why no job follows where the study was decided on before."""
    from isocenter.routing.past import decided

    lines = [f"  {_told(verdict)}"]
    for each in decided(verdict, known):
        name = f"{each.application}: " if len(verdict.applications) > 1 else ""
        at = f" on {each.moment}" if each.moment else ""
        if each.job_id:
            lines.append(f"    {name}decided{at}: job {each.job_id[:12]}")
        else:
            lines.append(
                f"    {name}decided{at}, without a job: {each.reason}; by itself it makes none now, "
                f"`isocenter rules apply --study {study_uid}` does"
            )
    return lines


def _told(verdict: RouteVerdict) -> str:
    """What one rule says, in a line."""
    if not verdict.wanted:
        return f"{verdict.route}: not wanted: {verdict.reason}"
    parts = [f"{verdict.route}: goes to {', '.join(verdict.applications)}", verdict.priority]
    if verdict.scope == "study":
        parts.append(f"made of {counted(len(verdict.series_uids), 'series', 'series')}")
    if verdict.hours:
        days = f" on {', '.join(verdict.hours.days)}" if verdict.hours.days else ""
        parts.append(f"from {verdict.hours.start:%H:%M} to {verdict.hours.end:%H:%M}{days}")
    if verdict.destinations:
        parts.append(f"results also to {', '.join(verdict.destinations)}")
    return "; ".join(parts)


def _studies(path: Path) -> dict[str, list[Series]]:
    """The series below the path by study. Raises UnreadableInput when there is none."""
    from isocenter.rules import Series, place_in_series

    headers: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for header in _headers(path):
        uids = str(header["StudyInstanceUID"]), str(header["SeriesInstanceUID"])
        headers.setdefault(uids, []).append(header)
    if not headers:
        raise UnreadableInput(f"no DICOM images in {path}", path=str(path))
    found: dict[str, list[Series]] = {}
    for (study_uid, uid), each in headers.items():
        first = min(
            each,
            key=lambda one: place_in_series(one.get("InstanceNumber"), str(one.get("SOPInstanceUID", ""))),
        )
        series = Series(study_uid, uid, len(each), first, lambda each=each: each)  # type: ignore[misc]
        found.setdefault(study_uid, []).append(series)
    return found


def _headers(path: Path) -> Iterator[Mapping[str, Any]]:
    """The attributes of each instance below the path, in the order of the files' names."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    from isocenter.rules import attributes_of

    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        try:
            header = attributes_of(dcmread(file, stop_before_pixels=True))
        except (InvalidDicomError, IsADirectoryError, EOFError, AttributeError):
            continue
        if header.get("StudyInstanceUID") and header.get("SeriesInstanceUID"):
            yield header
