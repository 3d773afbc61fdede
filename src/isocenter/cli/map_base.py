"""`isocenter map base`."""

from __future__ import annotations

from pathlib import Path

import click

from isocenter.cli import options
from isocenter.cli.output import print_json, print_lines, say
from isocenter_operators.errors import ConfigurationError

__all__ = ["cache_option", "command", "default_base", "names"]

cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".cache/maps"),
    show_default=True,
    help="Where bases are kept.",
)


@click.command("base")
@click.option("--system-packages", default="", help="Debian packages that are to be in it too, with commas.")
@click.option("--mirror", default="", help="Of Debian, instead of debootstrap's own choice.")
@click.option(
    "--security-mirror", default="", help="Of its security updates; else debian-security beside the mirror."
)
@click.option("--anew", is_flag=True, help="Also where there is one: with today's versions of its packages.")
@cache_option
@options.json_option
def command(
    system_packages: str, mirror: str, security_mirror: str, cache: Path, *, anew: bool, as_json: bool
) -> int:
    """Make the base that packages stand on where neither --base nor a container engine is given: Debian 12 with Python,
    by debootstrap, as root, with its updates of today. It takes a minute or two, once."""
    from isocenter.maps.oci import open_image

    packages = names(system_packages)
    file = default_base(packages, cache, mirror=mirror, security=security_mirror, anew=anew)
    digest = open_image(file).digest
    if as_json:
        print_json({"image": str(file), "digest": digest})
    else:
        print_lines([str(file), digest])
    return 0


def default_base(
    packages: tuple[str, ...],
    cache: Path,
    *,
    mirror: str = "",
    security: str = "",
    anew: bool = False,
    offline: bool = False,
) -> Path:
    """The base of this machine, made where it is not there. Raises as `debian_base` does, and ConfigurationError where
    it would have to be fetched and `offline` forbids it."""
    from isocenter.maps.debian import Recipe, debian_base

    recipe = Recipe.for_running_python(packages, mirror, security)
    if offline and not recipe.file(cache).is_file():
        raise ConfigurationError(
            f"--offline: there is no {recipe.file(cache)}; bring one that `isocenter map base` made elsewhere, or give "
            "--base"
        )
    return debian_base(recipe, cache, lambda step: say(f"base: {step}"), anew=anew)


def names(given: str) -> tuple[str, ...]:
    """`a,b c` as ("a", "b", "c")."""
    return tuple(given.replace(",", " ").split())
