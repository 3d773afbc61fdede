"""`isocenter models`."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isocenter.cli import model_optimise, model_versions, options
from isocenter.cli.output import print_json, print_lines, say, table
from isocenter_operators.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    from isocenter.bundles.bundle import Bundle
    from isocenter.bundles.description import Description
    from isocenter.bundles.installing import Imported
    from isocenter.bundles.plan import Plan
    from isocenter.settings import Settings
    from isocenter_operators.manifest import AppManifest

__all__ = ["command"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


@click.group(invoke_without_command=True)
@options.config
@options.json_option
@click.pass_context
def command(context: click.Context, config: Path | None, as_json: bool) -> None:
    """The models: list (what is done without a further word), import BUNDLE, check NAME, remove NAME; which version of
    one does the work: promote, rollback, shadow, canary, report; and how it is served: scale, load, unload."""
    context.obj = config
    if context.invoked_subcommand is None:
        context.invoke(listing, as_json=as_json)
    elif as_json:
        raise click.UsageError(f"--json stands behind {context.invoked_subcommand}", context)


for each in (*model_versions.commands, model_optimise.command):
    command.add_command(each)


@command.command("list")
@options.json_option
@click.pass_obj
def listing(config: Path | None, as_json: bool = False) -> int:
    """Which models there are, in which versions, what each is for, and its weights."""
    from isocenter.catalog import Catalog
    from isocenter.hung_shadows import HungShadows

    settings = options.running_settings(config)
    hung = list(HungShadows(settings.data_dir).all())
    rows = [
        row
        for app in Catalog.of(settings).sound()
        for model in app.models
        for row in _rows(settings, app, model)
    ]
    if as_json:
        hangs = [
            {"model": model, "version": version, **hang.model_dump(), "told": hang.said(model, version)}
            for model, version, hang in hung
        ]
        print_json({"models": rows, "hung_shadows": hangs})
    else:
        lines = [
            [
                row["model"],
                row["version"],
                ", ".join(row["roles"]) or "-",
                row["application"],
                f"{row['title']}, {row['variant']}" if row["variant"] else row["title"],
                row["application_version"],
                row["weights_sha256"][:12],
            ]
            for row in rows
        ]
        print_lines(table(["model", "version", "is", "application", "title", "of", "weights"], lines))
        print_lines(line for model, version, hang in hung for line in ("", hang.said(model, version)))
    return 0


@command.command("import")
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE")
@click.option("--name", help="Of the model and the application; by default, as its metadata.json names it.")
@click.option(
    "--as-version", is_flag=True, help="As another version of the model of this name, which is there."
)
@click.option(
    "--instances",
    type=click.IntRange(1, 64),
    help="How many of it on each GPU, or on the CPU; 1 if not given.",
)
@click.option("--gpus", default="", help="On which GPUs, as 0,1; without it on each that Triton finds.")
@click.option("--trust-code", is_flag=True, help="Let the bundle's own code run, inside the model's process.")
@options.json_option
@click.pass_obj
def importing(
    config: Path | None,
    path: Path,
    *,
    name: str | None,
    as_version: bool,
    instances: int | None,
    gpus: str,
    trust_code: bool,
    as_json: bool = False,
) -> int:
    """Make a model on Triton and an application out of a MONAI bundle: a folder, a zip, or a name in the Model Zoo.

    BUNDLE - is a zip on stdin: where this runs in a container, the bundle need not be.

    Nothing of the bundle is run for that. What of it is code is shown, and refused without --trust-code.
    """
    from isocenter.bundles.bundle import opened
    from isocenter.bundles.description import description_of
    from isocenter.bundles.plan import plan_of

    if as_version and (instances is not None or gpus):
        raise click.UsageError(
            "--instances and --gpus are for all versions of a model: `isocenter models scale`"
        )
    settings = options.running_settings(config)
    with _source(path, settings) as source, opened(source) as bundle:
        plan, code = plan_of(bundle)
        description = description_of(bundle, plan)
        _refuse_code(path, code, trust_code)
        imported = _installed(
            settings,
            bundle,
            plan,
            description,
            name=_named(name or description.title),
            as_version=as_version,
            instances=instances or 1,
            gpus=model_versions.gpu_numbers(gpus),
        )
    if as_json:
        print_json(
            {
                "name": imported.name,
                "version": imported.version,
                "model": str(imported.model),
                "application": str(imported.app),
                "plan": plan.model_dump(),
                "description": description.model_dump(mode="json"),
                "code": code,
            }
        )
    else:
        print_lines(_told(settings, imported, plan, description))
    return 0


def _installed(
    settings: Settings,
    bundle: Bundle,
    plan: Plan,
    description: Description,
    *,
    name: str,
    as_version: bool,
    instances: int,
    gpus: tuple[int, ...],
) -> Imported:
    from isocenter.bundles.installing import add_version, install
    from isocenter.catalog import Catalog
    from isocenter.serving import Servings

    places: dict[str, Any] = {
        "name": name,
        "models": settings.data_dir / "models",
        "apps": settings.imported_apps_dir,
        "installed": settings.triton.model_repository,
    }
    if as_version:
        with Servings(settings.data_dir).changing(name):  # else a promotion could be written over
            return add_version(bundle, plan, description, **places, loaded=_loaded(settings, name))
    taken = {app.name for app in Catalog.of(settings).sound()}
    return install(bundle, plan, description, **places, taken=taken, instances=instances, gpus=gpus)


def _refuse_code(path: Path, code: list[str], trusted: bool) -> None:
    if code:
        _show_code(code)
    if code and not trusted:
        raise ConfigurationError(
            f"{path}: the bundle brings code of its own, shown above; read it, and import it with --trust-code "
            "where you trust its makers. It runs inside the model's process",
            path=str(path),
        )


@command.command("remove")
@click.argument("name")
@click.option("--version", help="Only this one, which no study and no rollback needs.")
@options.json_option
@click.pass_obj
def removing(config: Path | None, name: str, version: str | None, as_json: bool = False) -> int:
    """Delete the imported model NAME and its application. What they have made stays in the archive."""
    from isocenter.bundles.installing import remove
    from isocenter.serving import Servings
    from isocenter.shadows import Shadows
    from isocenter.stack.versions import ModelVersions

    if version is not None:
        return model_versions.remove_version(config, name, version, as_json)
    settings = options.running_settings(config)
    models, apps = settings.data_dir / "models", settings.imported_apps_dir
    if not _NAME.fullmatch(name) or not any((each / name).is_dir() for each in (models, apps)):
        raise ConfigurationError(f"{name!r} was not imported: there is no {apps / name}")
    routes = [route.name for route in settings.routes if name in route.applications]
    if routes:
        raise ConfigurationError(
            f"route {routes[0]!r} names the application {name!r}: take it out there first"
        )
    try:
        versions: ModelVersions | None = ModelVersions(settings, name)
    except ConfigurationError:  # of what is half there or can not be read too: it is what remove is for
        versions = None
    held = False
    with suppress(Unavailable):
        held = versions is not None and versions.live
    remove(name, models=models, apps=apps)
    gone = False
    with suppress(Unavailable):
        if versions is not None and held:
            versions.unload()
            gone = True
    Servings(settings.data_dir).forget(name)
    Shadows(settings.data_dir).forget(name)
    if as_json:
        print_json({"removed": name})
    else:
        print_lines([f"{name} is removed; {_to_be_restarted(settings, told=gone)}"])
    return 0


def _to_be_restarted(settings: Settings, *, told: bool) -> str:
    """After a model is removed. `told`: Triton was, and does not hold it any more."""
    if settings.triton.embedded:
        return "restart `isocenter up` " + ("before another takes its name" if told else "where it runs")
    if told:
        return "restart the gateway and the workers before another takes its name"
    return (
        f"Triton at {settings.triton.endpoint} was not told, and may hold it still: restart it, the gateway and the "
        "workers before another takes its name"
    )


@command.command("check")
@click.argument("name")
@click.option("--version", help="Of the versions that are loaded; the active one if not given.")
@options.json_option
@click.pass_obj
def checking(config: Path | None, name: str, version: str | None, as_json: bool = False) -> int:
    """Run the model NAME on the phantom, twice: what goes in, what comes out, how long it takes, how much memory."""
    from isocenter.catalog import Catalog
    from isocenter.cli.model_check import checked

    settings = options.running_settings(config)
    apps = [app for app in Catalog.weighed(settings).sound() if name in app.models]
    if not apps:
        raise ConfigurationError(f"no application has a model {name!r}; see `isocenter models`")
    app = apps[0].with_model(name, version) if version else apps[0]
    found = checked(settings, app, name)
    if as_json:
        print_json(found.as_json())
        return 0 if found.same_twice else 1
    print_lines(
        [
            f"{found.model} version {found.version}",
            f"given     int16 {found.given} (Z, Y, X): the phantom",
            f"answered  {found.output} {found.answered}"
            + ("" if found.same_twice else ", and not the same again"),
            f"found     {', '.join(f'{label}: {count}' for label, count in found.found.items()) or 'nothing'}",
            *(
                f"box       {box.label}: {100 * box.score:.1f} % at {_millimetres(box.centre_mm, ', ')} (LPS), "
                f"{_millimetres(box.size_mm, ' x ')} mm"
                for box in found.boxes
            ),
            *(f"note      {note}" for note in found.notes),
            f"time      {found.first_s:.2f} s the first time, {found.again_s:.2f} s again",
            *([f"memory    {found.peak_mb} MB at most"] if found.peak_mb is not None else []),
        ]
    )
    return 0 if found.same_twice else 1


@contextmanager
def _source(path: Path, settings: Settings) -> Iterator[Path]:
    """The folder or zip itself; what is only a name is fetched, and - is a zip on stdin."""
    from isocenter.bundles.model_zoo import fetched, is_zoo_name

    if path == Path("-"):
        with _stdin(settings.data_dir) as given:
            yield given
        return
    if not is_zoo_name(path):
        yield path
        return
    if settings.model_zoo is not None:
        say(f"there is no folder or zip {path} here: looking in {settings.model_zoo}")
    with fetched(str(path), settings.model_zoo) as there:
        yield there


@contextmanager
def _stdin(place: Path) -> Iterator[Path]:
    """What is on stdin, in a file below `place`: /tmp may be memory, and what is unpacked lies there already.

    Raises ConfigurationError where stdin is a keyboard, or there is no room.
    """
    if sys.stdin.isatty():
        raise ConfigurationError(
            "-: a zip is expected on stdin, as in `isocenter models import - < BUNDLE.zip`"
        )
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".stdin-", dir=place) as folder:
        given = Path(folder, "bundle.zip")
        try:
            with given.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        except OSError as error:
            raise ConfigurationError(f"-: {given} can not be written: {error.strerror}") from error
        yield given


def _millimetres(values: tuple[float, float, float], between: str) -> str:
    return between.join(f"{each:.1f}" for each in values)


def _rows(settings: Settings, app: AppManifest, model: str) -> list[dict[str, Any]]:
    """One for each version that was imported; of any other model, one for the version that its application names."""
    from isocenter.bundles.installing import versions_of
    from isocenter.bundles.variants import variant_of
    from isocenter.catalog import Catalog
    from isocenter.serving import Serving, Servings

    catalog = Catalog.weighed(settings)
    serving = Servings(settings.data_dir).of(model) or Serving(active=app.models[model])
    folder = settings.data_dir / "models" / model
    imported = versions_of(folder)
    return [
        {
            "model": model,
            "version": version,
            "roles": list(serving.roles(version)),
            "loaded": serving.loaded and version in serving.versions,
            "application": app.name,
            "title": described.title,
            "variant": (variant_of(folder / version) or {}).get("name", ""),
            "application_version": described.version,
            "weights_sha256": described.weights.get(model, ""),
        }
        for version in imported or (app.models[model],)
        for described in (catalog.with_version(app.name, model, version),)
    ]


def _loaded(settings: Settings, model: str) -> tuple[str, ...]:
    from isocenter.serving import Servings

    serving = Servings(settings.data_dir).of(model)
    return ("1",) if serving is None else serving.versions


def _named(name: str) -> str:
    found = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_")
    if not _NAME.fullmatch(found):
        raise ConfigurationError(
            f"{name!r} can not name a model: give --name, of lower-case letters, digits and _"
        )
    return found


def _show_code(code: list[str]) -> None:
    say("code in this bundle:")
    for line in code:
        say(f"  {line}")


def _told(settings: Settings, imported: Imported, plan: Plan, description: Description) -> list[str]:
    name, version = imported.name, imported.version
    what = {
        "labels": "a label map",
        "masks": "masks that may overlap",
        "boxes": "boxes",
        "classes": "probabilities of classes" if plan.activation else "a decision between classes",
        "values": "numbers",
    }[plan.output]
    is_first = version == "1"
    restart = "restart `isocenter up`" if settings.triton.embedded else "restart the gateway and the workers"
    last = [
        f"try it   isocenter run {name} DICOM --out RESULTS",
        f"use it   a route with `application: {name}` in isocenter.yaml; {restart}",
    ]
    if not is_first:
        last = [
            f"try it   isocenter models shadow {name} {version}: on every study, and nobody is shown what it finds",
            f"use it   isocenter models promote {name} {version}",
        ]
    return [
        f"{description.title} {description.version} is "
        + (f"the application {name}" if is_first else f"version {version} of {name}"),
        f"takes    {description.modality}"
        + (f": {', '.join(rule.name for rule in description.sequences)}" if description.sequences else ""),
        f"gives    {what} of {len(description.labels)}: {', '.join(list(description.labels.values())[:8])}"
        + (" ..." if len(description.labels) > 8 else ""),
        f"weights  {plan.weights}",
        *(f"note     {note}" for note in description.notes),
        "",
        *last,
    ]
