"""`isocenter map inspect`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from isocenter.cli import options
from isocenter.cli.output import counted, print_json, print_lines, table

if TYPE_CHECKING:
    from isocenter.maps.inspection import Inspection, Needs

__all__ = ["command"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@click.command("inspect")
@click.argument("source", metavar="MAP")
@options.json_option
def command(source: str, as_json: bool) -> int:
    """What a MONAI Application Package says of itself, and what is in it: manifests, models, resources, layers.

    MAP is an image in a file (an OCI archive, what `docker save` writes) or a folder (an OCI layout, or the root of an
    unpacked package), or the name of an image that Docker, Podman or Buildah on this machine has.
    """
    from isocenter.maps.inspection import inspect_package
    from isocenter.maps.reference import opened

    with opened(source) as package:
        found = inspect_package(package)
    if as_json:
        print_json({**asdict(found), "source": source})
    else:
        print_lines(_lines(found, source))
    return 1 if found.problems else 0


def _lines(found: Inspection, source: str) -> Iterator[str]:
    yield f"{source}: {'a folder' if found.kind == 'folder' else found.digest}"
    yield ""
    yield from table(["", ""], [row for row in _facts(found) if row[1]])[1:]
    for title, content in (("app.json", found.application), ("pkg.json", found.package)):
        if content is not None:
            yield from ("", f"{title} ({found.layout})")
            yield from json.dumps(content, indent=2, ensure_ascii=False).splitlines()
    if found.models:
        models = [
            (each.name, each.path, _size(each.size), each.sha256 or "not in the package")
            for each in found.models
        ]
        yield from ("", *table(["model", "path", "size", "SHA-256"], models, right=[2]))
    if found.layers:
        rows = [
            (each.digest, _size(each.size) if each.size else "", each.created_by[:60])
            for each in found.layers
        ]
        yield from ("", *table(["layer", "size", "made by"], rows, right=[1]))
    if found.labels:
        yield from (
            "",
            *table(["label", "value"], [(name, value[:100]) for name, value in found.labels.items()]),
        )
    if found.problems:
        yield from ("", *(f"problem: {problem}" for problem in found.problems))


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    yield "tag", found.tag
    yield "platform", found.platform
    yield "created", found.created or ""
    yield "base", found.base or ""
    yield "user", found.user or ("root" if found.kind == "image" else "")
    yield "entrypoint", json.dumps(found.entrypoint) if found.entrypoint else ""
    yield "command", json.dumps(found.command) if found.command else ""
    yield "working directory", found.working_directory
    yield "needs", _needs(found.needs)
    yield "files", f"{counted(found.files, 'file')}, {_size(found.size)}"
    bills = (
        f"{each.path} ({each.format}, {counted(each.components, 'component')})"
        for each in found.bills_of_materials
    )
    yield "bill of materials", ", ".join(bills)


def _needs(needs: Needs) -> str:
    sizes: list[tuple[str, Any]] = [
        ("memory", needs.memory),
        ("shared memory", needs.shared_memory),
        ("GPU memory", needs.gpu_memory),
        ("at most, memory", needs.memory_limit),
    ]
    told: list[str] = [
        f"{needs.cpu:g} CPU" if needs.cpu else "",
        f"{needs.gpu:g} GPU" if needs.gpu else "no GPU",
    ]
    told += [f"{_size(size)} {name}" for name, size in sizes if size]
    told.append(f"{needs.timeout_s} s" if needs.timeout_s else "")
    return ", ".join(filter(None, told))


def _size(size: float) -> str:
    """Bytes in the unit that makes the number short."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 or size >= 100 else f"{size:.1f} {_UNITS[unit]}"
