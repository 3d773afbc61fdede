"""`isocenter map add`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from isocenter.cli import options
from isocenter.cli.output import counted, print_json, print_lines, say
from isocenter_operators.errors import ConfigurationError

if TYPE_CHECKING:
    from isocenter.maps.package import Package
    from isocenter.maps.store import MapStore
    from isocenter.settings import Settings

__all__ = ["command"]


@click.command("add")
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option("--name", help="What routes name it by, beside its digest; else its tag's, or its title.")
@click.option(
    "--signature",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file with the signature over its digest; needed where maps.trusted_keys is set.",
)
@click.option(
    "--vouch",
    is_flag=True,
    help="It is an application of Isocenter, from who can be trusted: where it answers `not applicable`, believe it.",
)
@options.config
@options.json_option
def command(
    file: Path, name: str | None, signature: Path | None, config: Path | None, *, vouch: bool, as_json: bool
) -> int:
    """Take a package in, so that routes may name it: an image in a file, or an OCI layout. Prints what a route says.

    The image is compared with its digests, unpacked for the first run, and looked at as by `isocenter map lint`.
    """
    from isocenter.maps.linting import lint_package
    from isocenter.maps.store import MapStore

    settings = options.running_settings(config)
    store = MapStore(settings.maps_dir, settings.maps.trusted_keys)
    signed = signature.read_bytes() if signature else None
    stored = store.add(file, name=name, signature=signed, vouched=vouch)
    package = _as_it_is_run(settings, store, store.open(stored))
    if stored.ours:
        say(_believed(stored.vouched, store.believed(stored)))
    errors = sum(finding.severity == "error" for finding in lint_package(package))
    if errors:
        say(f"isocenter map lint finds {counted(errors, 'error')} in it: look before a route names it")
    if as_json:
        print_json({**stored.model_dump(mode="json"), "application": stored.reference})
    else:
        print_lines([stored.reference])
    return 0


def _as_it_is_run(settings: Settings, store: MapStore, package: Package) -> Package:
    """Unpacked, where it will be for its first run. It may be taken in where it is not run: that is told."""
    from isocenter.maps.sandbox import Wish, chosen_engine
    from isocenter.maps.unpacked import unpacked

    try:
        engine = chosen_engine(Wish(engine=settings.maps.engine), package)
    except ConfigurationError as error:
        say(f"taken in, but not to be run here: {error}")
        return package
    return unpacked(package, store.cache) if engine in ("bubblewrap", "namespaces") else package


def _believed(vouched: bool, believed: bool) -> str:
    if believed:
        why = "is vouched for" if vouched else "is signed with a trusted key"
        return f"it {why}: where it answers `not applicable`, that is believed"
    return (
        "it says that it is an application of Isocenter, and nobody vouches for it: where it answers `not applicable`, "
        "the job has failed; add it with --vouch to have it believed"
    )
