"""`isocenter models promote`, `rollback`, `shadow`, `canary`, `report`, `scale`, `load` and `unload`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

import click

from isocenter.cli import options
from isocenter.cli.output import print_json, print_lines
from isocenter_operators.errors import ConfigurationError

if TYPE_CHECKING:
    from isocenter.job import Job
    from isocenter.serving import Serving
    from isocenter.settings import Settings
    from isocenter.stack.versions import Change, ModelVersions

__all__ = ["commands", "gpu_numbers", "remove_version"]

_OFF = "off"
_JOBS_LOOKED_AT = 10_000


@click.command("promote")
@click.argument("name")
@click.argument("version")
@options.json_option
@click.pass_obj
def promoting(config: Path | None, name: str, version: str, as_json: bool) -> int:
    """Make VERSION of the model NAME the active one: jobs that are made from now on are done by it."""
    _require_answering(_versions(config, name), version)
    return _changed(config, name, version, lambda serving: serving.promoted(version), as_json)


@click.command("rollback")
@click.argument("name")
@options.json_option
@click.pass_obj
def rolling_back(config: Path | None, name: str, as_json: bool) -> int:
    """Make the version active that was so before. Results of the present one stay in the archive."""
    versions = _versions(config, name)
    if versions.serving.before is not None:
        _require_answering(versions, versions.serving.before)
    return _changed(config, name, None, lambda serving: serving.rolled_back(), as_json)


@click.command("shadow")
@click.argument("name")
@click.argument("version", metavar="VERSION|off")
@options.json_option
@click.pass_obj
def shadowing(config: Path | None, name: str, version: str, as_json: bool) -> int:
    """Have VERSION run on every study beside the active one; nobody is shown what it finds, and both are compared."""
    from isocenter.hung_shadows import HungShadows

    wanted = None if version == _OFF else version
    versions = _versions(config, name)
    before = versions.serving.shadow
    code = _changed(config, name, wanted, lambda serving: serving.with_shadow(wanted), as_json)
    for each in {before, wanted} - {None} if before != wanted else ():
        HungShadows(versions.settings.data_dir).forget(name, str(each))  # it is loaded anew, or not any more
    return code


@click.command("canary")
@click.argument("name")
@click.argument("version", metavar="VERSION|off")
@click.option(
    "--share", type=click.FloatRange(0, 100), help="Of how many studies, in percent; 0 loads it and no more."
)
@options.json_option
@click.pass_obj
def canary(config: Path | None, name: str, version: str, share: float | None, as_json: bool) -> int:
    """Have VERSION do the work of a share of the studies. Its results are those studies' results."""
    from isocenter.serving import Canary

    if (version == _OFF) != (share is None):
        raise click.UsageError(
            "--share says of how many studies a version is the canary, and goes with no `off`"
        )
    if share is None:
        return _changed(config, name, None, lambda serving: serving.with_canary(None), as_json)

    def changed(serving: Serving) -> Serving:
        return serving.with_canary(Canary(version=version, share_percent=share))

    return _changed(config, name, version, changed, as_json)


@click.command("scale")
@click.argument("name")
@click.argument("instances", type=click.IntRange(1, 64))
@click.option("--gpus", default="", help="On which GPUs, as 0,1; without it on each that Triton finds.")
@options.json_option
@click.pass_obj
def scaling(config: Path | None, name: str, instances: int, gpus: str, as_json: bool) -> int:
    """Have so many INSTANCES of the model NAME on each GPU, or on the CPU where there is none."""
    versions = _versions(config, name)
    change = versions.scale(instances, gpu_numbers(gpus))
    return _tell(name, change, as_json, f"{name} has {instances} of each version")


@click.command("unload")
@click.argument("name")
@click.option("--version", help="Only this one, which was active before: a rollback loads it again.")
@options.json_option
@click.pass_obj
def unloading(config: Path | None, name: str, version: str | None, as_json: bool) -> int:
    """Take the model NAME out of the server, which gives its memory back. Its jobs wait until it is loaded again."""
    versions = _versions(config, name)
    if version is None:
        return _tell(name, versions.take_out(), as_json, f"{name} is out of service, its jobs wait")
    change = versions.change(lambda serving: _without_earlier(serving, name, version))
    return _tell(name, change, as_json, f"version {version} of {name} is not kept loaded")


def _without_earlier(serving: Serving, name: str, version: str) -> Serving:
    roles = serving.roles(version)
    if roles != ("before",):
        held = f"is the {roles[0]}" if roles else "has nothing to do"
        raise ConfigurationError(
            f"version {version} of {name} {held}: only the one before the active one is kept"
        )
    return serving.model_copy(update={"keeps_earlier": False})


@click.command("load")
@click.argument("name")
@options.json_option
@click.pass_obj
def loading(config: Path | None, name: str, as_json: bool) -> int:
    """Load the model NAME, which was unloaded, again."""
    return _tell(name, _versions(config, name).put_back(), as_json, f"{name} is in service")


@click.command("report")
@click.argument("name")
@options.json_option
@click.pass_obj
def reporting(config: Path | None, name: str, as_json: bool) -> int:
    """How the versions of the model NAME compare: a shadow with what was shown, and versions that share the studies."""
    from isocenter.cli.shadow_report import shadow_report, shadow_told
    from isocenter.cli.version_report import arms_of, arms_told
    from isocenter.shadows import Shadows

    versions = _versions(config, name)
    shadows, serving = Shadows(versions.settings.data_dir), versions.serving
    reports = [shadow_report(each, shadows.of(name, each)) for each in shadows.versions(name)]
    roles = {each: ", ".join(serving.roles(each)) for each in versions.there}
    arms = arms_of(_jobs(versions.settings, versions.app.name), name, roles)
    if as_json:
        print_json(
            {
                "model": name,
                "shadows": [each.as_json() for each in reports],
                "versions": [each.as_json() for each in arms],
            }
        )
        return 0
    for report in reports:
        print_lines([*shadow_told(report), ""])
    print_lines(arms_told(arms) if arms else [f"no job of {versions.app.name} has ended yet"])
    return 0


commands = (promoting, rolling_back, shadowing, canary, scaling, unloading, loading, reporting)


def remove_version(config: Path | None, name: str, version: str, as_json: bool) -> int:
    """Delete one version of a model, where nothing needs it. Raises ConfigurationError where something does."""
    from isocenter.shadows import Shadows

    versions = _versions(config, name)
    versions.require(version)
    versions.serving.without(version)  # said before anything is asked of a database
    _require_unwanted(versions, version)
    size_mb = _size_mb(versions.folder / version)
    change = versions.remove(version)
    Shadows(versions.settings.data_dir).forget(name, version)
    if as_json:
        print_json({"removed": name, "version": version, "freed_mb": size_mb, "live": change.live})
        return 0
    print_lines([f"version {version} of {name} is removed, which gives {size_mb} MB back"])
    return 0


def _require_unwanted(versions: ModelVersions, version: str) -> None:
    """Of jobs that were made for it one that runs may be about to ask it, and one that waits counts on it."""
    from isocenter.jobs import Jobs

    jobs = Jobs(versions.settings)
    try:
        # All, for the oldest is the likeliest; one that begins in between is among those that run.
        open_jobs = [*jobs.list(sys.maxsize, "queued"), *jobs.list(sys.maxsize, "running")]
    finally:
        jobs.close()
    by_id = {job.id: job for job in open_jobs}
    wanting = [job for job in by_id.values() if job.models.get(versions.model) == version]
    if wanting:
        others = f" and {len(wanting) - 1} more" if len(wanting) > 1 else ""
        raise ConfigurationError(
            f"job {wanting[0].id[:12]}{others} {'is' if not others else 'are'} to be done by version {version} of "
            f"{versions.model}: wait until they have ended, or `isocenter jobs cancel` them"
        )


def _size_mb(folder: Path) -> float:
    """What goes with it: a variant's weights are the same files as those of the version that it is of."""
    there = [file.lstat() for file in folder.rglob("*")]
    return round(sum(each.st_size for each in there if S_ISREG(each.st_mode) and each.st_nlink == 1) / 1e6, 1)


def gpu_numbers(said: str) -> tuple[int, ...]:
    """`0,1` as numbers. Raises UsageError."""
    try:
        numbers = tuple(int(each) for each in said.split(",") if each.strip())
    except ValueError as error:
        raise click.UsageError(f"--gpus {said!r}: numbers are expected, as in 0,1") from error
    if any(number < 0 for number in numbers) or len(set(numbers)) != len(numbers):
        raise click.UsageError(f"--gpus {said!r}: each GPU is named once, from 0 on")
    return numbers


def _versions(config: Path | None, name: str) -> ModelVersions:
    from isocenter.stack.versions import ModelVersions

    return ModelVersions(options.running_settings(config), name)


def _changed(
    config: Path | None, name: str, version: str | None, how: Callable[[Serving], Serving], as_json: bool
) -> int:
    """`version`: the one that is to have a role, where there is one."""
    versions = _versions(config, name)
    if version is not None:
        versions.require(version)
    change = versions.change(how)
    return _tell(name, change, as_json, *_roles(change.serving))


def _require_answering(versions: ModelVersions, version: str) -> None:
    """Else jobs would be given to a version that is loaded, and refuses every call."""
    from isocenter.hung_shadows import HungShadows

    hang = HungShadows(versions.settings.data_dir).of(versions.model, version)
    if hang is not None and hang.state == "refuses" and versions.serving.shadow == version:
        raise ConfigurationError(hang.said(versions.model, version))


def _roles(serving: Serving) -> list[str]:
    lines = [f"active   version {serving.active}"]
    if serving.before is not None:
        kept = "loaded, so that a rollback is at once" if serving.keeps_earlier else "not loaded"
        lines.append(f"before   version {serving.before}, {kept}")
    if serving.shadow is not None:
        lines.append(f"shadow   version {serving.shadow}, on every study; `isocenter models report` compares")
    if serving.canary is not None:
        share = f"{serving.canary.share_percent:g} % of the studies"
        lines.append(f"canary   version {serving.canary.version}, {share}")
    return lines


def _tell(name: str, change: Change, as_json: bool, *lines: str) -> int:
    memory = None
    if change.before_mb is not None or change.after_mb is not None:
        memory = f"memory   {change.before_mb or 0} MB before, {change.after_mb or 0} MB after"
    if as_json:
        print_json(
            {
                "model": name,
                **change.serving.model_dump(mode="json"),
                "versions": list(change.serving.versions),
                "live": change.live,
                "served": change.served,
                "seconds": change.seconds,
                "memory_before_mb": change.before_mb,
                "memory_after_mb": change.after_mb,
            }
        )
        return 0
    print_lines([*lines, *([memory] if memory else []), f"served   {change.served}"])
    return 0


def _jobs(settings: Settings, application: str) -> list[Job]:
    from isocenter.jobs import Jobs

    jobs = Jobs(settings)
    try:
        return [job for job in jobs.list(limit=_JOBS_LOOKED_AT) if job.application == application]
    finally:
        jobs.close()
