"""`isocenter map build`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from isocenter.cli import options
from isocenter.cli.map_base import cache_option, default_base, names
from isocenter.cli.output import counted, print_json, print_lines, say
from isocenter_operators.errors import ConfigurationError

if TYPE_CHECKING:
    from isocenter.maps.app_folder import AppFolder
    from isocenter.maps.building import Parts
    from isocenter.maps.engine import Engine
    from isocenter.maps.layer import Compression

__all__ = ["command"]

_PLATFORMS = ("cpu", "gpu", "x86_64", "x64-workstation")  # the SDK's names too
_path = click.Path(path_type=Path)


@dataclass(frozen=True)
class _Asked:
    """What was asked for on the command line."""

    app: Path
    config: Path | None
    models: Path | None
    requirements: Path | None
    dependencies: Any
    wheels: Path | None
    base: str | None
    engine: str
    gpu: bool
    system_packages: tuple[str, ...]
    offline: bool
    compression: Compression
    tag: str
    cache: Path


@click.command("build")
@click.argument("app", type=_path)
@click.option(
    "-o", "--output", type=_path, help="The image: an archive (.oci, .tar), or a folder for its layout."
)
@click.option("-t", "--tag", help="Name and tag; the application's own name and version if not given.")
@click.option("-c", "--config", type=_path, help="Instead of the folder's app.yaml.")
@click.option(
    "-m",
    "--models",
    type=_path,
    help="A folder of models; those that app.yaml names are looked for here first.",
)
@click.option(
    "--base", help="An OCI layout or archive, a root file system; with an engine, the name of an image too."
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "docker", "podman", "buildah", "none"]),
    default="auto",
    show_default=True,
    help="What builds it; auto: the first that is there and works, else none is needed.",
)
@click.option(
    "--platform",
    type=click.Choice(_PLATFORMS),
    default="cpu",
    show_default=True,
    help="gpu: with what CUDA needs.",
)
@click.option("--gpu", is_flag=True, help="As --platform gpu.")
@click.option("--requirements", type=_path, help="Instead of the folder's requirements.txt.")
@click.option(
    "--dependencies",
    type=click.Choice(["installed", "wheels", "index"]),
    default="installed",
    show_default=True,
    help="Python packages: as they are installed here, from --wheels alone, or as pip fetches them.",
)
@click.option("--wheels", type=_path, help="A folder of wheels, which win over what is installed.")
@click.option(
    "--system-packages", default="", help="Debian packages that the application needs, with commas."
)
@click.option("--offline", is_flag=True, help="Fetch nothing: only what is here is used.")
@click.option("--compress", type=click.Choice(["none", "gzip"]), default="none", show_default=True)
@click.option(
    "--dockerfile-only",
    type=_path,
    help="Write the Dockerfile, and what it needs, to this folder only.",
)
@cache_option
@options.json_option
def command(output: Path | None, dockerfile_only: Path | None, *, as_json: bool, **given: Any) -> int:
    """Make a MONAI Application Package from the folder APP: app.yaml, __main__.py, requirements.txt.

    The same input gives the same image, byte for byte, where no engine is used (--engine none).
    """
    asked = _asked(**given)
    if (output is None) == (dockerfile_only is None):
        raise click.UsageError("give -o FILE for the image, or --dockerfile-only FOLDER")
    place = output or dockerfile_only or Path()
    place.parent.mkdir(parents=True, exist_ok=True)
    from isocenter.maps.engine import engine_named

    # Beside the image: what is made on the way is as large as that.
    with TemporaryDirectory(prefix=".map-", dir=place.parent) as work:
        parts = _parts(asked, Path(work))
        for note in parts.closure.notes:
            say(f"note: {note}")
        if dockerfile_only is not None:
            document = _context(asked, parts, dockerfile_only)
        else:
            document = _built(engine_named(asked.engine), asked, parts, place, Path(work))
    if as_json:
        print_json(document)
    else:
        print_lines(_lines(document))
    return 0


def _asked(
    *, platform: str, gpu: bool, system_packages: str, compress: Any, tag: str | None, **rest: Any
) -> _Asked:
    return _Asked(
        gpu=gpu or platform == "gpu",
        system_packages=names(system_packages),
        compression=compress,
        tag=tag or "",
        **rest,
    )


def _parts(asked: _Asked, work: Path) -> Parts:
    from isocenter.maps.app_folder import read_app
    from isocenter.maps.building import Parts
    from isocenter.maps.dependencies import Dependencies
    from isocenter.maps.models import models_of
    from isocenter.settings import Settings

    app = read_app(asked.app, asked.config, asked.requirements)
    settings = Settings.load(secrets=()) if app.models else None
    models = models_of(app, asked.models, settings.model_repositories if settings else ())
    for path in _secrets(app):
        say(f"note: {path} looks like a secret, and whoever has the image will have it: leave it out")
    say(f"{app.application.title} {app.application.version}: collecting what it needs")
    dependencies = Dependencies(
        origin=asked.dependencies, folder=work, wheels=asked.wheels, offline=asked.offline, gpu=asked.gpu
    )
    return Parts(
        app=app,
        closure=dependencies.closure(app.requirements),
        models=models,
        tag=asked.tag or f"{app.name}:{app.application.version}",
        gpu=asked.gpu,
        minor=f"{sys.version_info.major}.{sys.version_info.minor}",
    )


def _secrets(app: AppFolder) -> list[Path]:
    """What lies in the application's folder, goes into the image, and should not."""
    from isocenter.maps.content_findings import is_secret

    files = [each for each in app.files().values() if isinstance(each, Path)]
    return [each for each in files if is_secret(each.as_posix(), each.stat().st_size, each.read_bytes)]


def _built(engine: Engine | None, asked: _Asked, parts: Parts, out: Path, work: Path) -> dict[str, Any]:
    return (
        _without_engine(asked, parts, out, work)
        if engine is None
        else _by_engine(engine, asked, parts, out, work)
    )


def _without_engine(asked: _Asked, parts: Parts, out: Path, work: Path) -> dict[str, Any]:
    from isocenter.maps.base import open_base
    from isocenter.maps.building import build_image
    from isocenter.maps.layer import epoch_of

    epoch = epoch_of()
    base = open_base(_base_file(asked), work, epoch=epoch)
    say(f"building on {base.name} ({base.digest[:19]}...)")
    digest = build_image(parts, base, out, work, epoch=epoch, compression=asked.compression)
    return _document(parts, out, digest, {"name": base.name, "digest": base.digest}, "none")


def _base_file(asked: _Asked) -> Path:
    if asked.base is None:
        return default_base(asked.system_packages, asked.cache, offline=asked.offline)
    if asked.system_packages:
        raise ConfigurationError(
            "--system-packages: without an engine they can only go into the base that is made here: leave --base "
            "out, or give a base that has them"
        )
    return Path(asked.base)


def _by_engine(engine: Engine, asked: _Asked, parts: Parts, out: Path, work: Path) -> dict[str, Any]:
    from isocenter.maps.building import finish_image
    from isocenter.maps.engine import Order
    from isocenter.maps.layer import epoch_of

    context = _context(asked, parts, work / "context")
    name, digest = context["base"]["name"], context["base"]["digest"]
    file = Path(asked.base) if asked.base and Path(asked.base).exists() else None
    say(f"building with {engine.name} on {name}")
    saved = work / "saved.tar"
    engine.build(
        Order(Path(context["dockerfile"]), file or name, parts.tag, saved, offline=asked.offline), work, say
    )
    written = finish_image(parts, saved, (name, digest), out, work, epoch=epoch_of())
    return _document(parts, out, written, context["base"], engine.name)


def _context(asked: _Asked, parts: Parts, folder: Path) -> dict[str, Any]:
    from isocenter.maps.base import is_reference
    from isocenter.maps.dockerfile import BASE, write_context
    from isocenter.maps.layer import epoch_of
    from isocenter.maps.oci import open_image

    name = asked.base or BASE.format(minor=parts.minor)
    digest = name.partition("@")[2]
    if not Path(name).exists() and not is_reference(name):
        raise ConfigurationError(f"--base: {name} is neither a file here nor the name of an image")
    if Path(name).exists():
        image = open_image(Path(name))
        name, digest = image.tag or Path(name).name, image.digest
    file = write_context(
        parts, name, (name, digest), folder, epoch=epoch_of(), system_packages=asked.system_packages
    )
    base = {"name": name, "digest": digest}
    return {"dockerfile": str(file), "tag": parts.tag, "base": base, "notes": list(parts.closure.notes)}


def _document(parts: Parts, out: Path, digest: str, base: dict[str, str], engine: str) -> dict[str, Any]:
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    return {
        "image": str(out),
        "digest": digest,
        "tag": parts.tag,
        "engine": engine,
        "base": base,
        "size_mb": round(sum(path.stat().st_size for path in files) / 1e6),
        "distributions": len(parts.closure.distributions),
        "models": {model.name: model.sha256 for model in parts.models},
        "notes": list(parts.closure.notes),
    }


def _lines(document: dict[str, Any]) -> list[str]:
    if "dockerfile" in document:
        return [document["dockerfile"]]
    models = [f"model     {name} sha256:{digest}" for name, digest in document["models"].items()]
    return [
        f"image     {document['image']} ({document['size_mb']} MB)",
        f"tag       {document['tag']}",
        f"digest    {document['digest']}",
        f"base      {document['base']['name']} {document['base']['digest']}",
        f"Python    {counted(document['distributions'], 'package')}",
        *models,
    ]
