"""`isocenter models optimise`: what computes a model's network fastest here, and still finds the same.

It becomes a version of the model, which is tried, promoted and taken back as any other.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from isocenter.cli import options
from isocenter.cli.output import print_json, print_lines, say, table
from isocenter_operators.errors import ConfigurationError

if TYPE_CHECKING:
    from isocenter.bundles.variants import Measured
    from isocenter.settings import Settings
    from isocenter.stack.versions import ModelVersions

__all__ = ["command"]

_PHANTOM = {"size": (160, 128, 64), "spacing_mm": (2.2, 2.2, 5.0)}  # (x, y, z)
_BUDGET = re.compile(r'key:\s*"gpu_memory_mb"\s*value:\s*\{\s*string_value:\s*"(\d+)"')
_WORTH_IT = 0.95  # of the seconds of the network as it is: two runs of the same differ by less


@click.command("optimise")
@click.argument("name")
@click.argument("studies", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[SERIES]...")
@click.option("--version", help="Of the model; by default the active one.")
@click.option(
    "--bound",
    type=click.FloatRange(50, 100),
    default=99.5,
    show_default=True,
    help="How well a variant has to agree, in percent: of all voxels, and of each organ's Dice coefficient.",
)
@click.option("--variant", "names", multiple=True, help="Try only this one of the table; may be repeated.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@options.json_option
@click.pass_obj
def command(
    config: Path | None,
    name: str,
    studies: tuple[Path, ...],
    *,
    version: str | None,
    bound: float,
    names: tuple[str, ...],
    device: str,
    as_json: bool = False,
) -> int:
    """Measure what computes the imported model NAME fastest here, and make a version of what agrees.

    SERIES are folders with one series each, as the model gets them; without any, the phantom. What is measured stays as
    it is, and the new version does nothing until it is a shadow, a canary or promoted.
    """
    versions, folder = _versions(options.running_settings(config), name, version)
    with tempfile.TemporaryDirectory() as name_of_place:
        place = Path(name_of_place)
        found = _trials(folder, place, _volumes(studies), device=device, bound=bound, names=names)
        if not as_json:
            print_lines(_table(found))  # whatever happens then: it took long
        best = _fastest(found)
        kept, is_new = _kept(versions, folder, _measured(place, best, found, len(studies)))
    if as_json:
        told = {"measured": folder.name, "kept": best["variant"]["name"], "version": kept, "new": is_new}
        print_json({**told, "trials": list(found)})
    else:
        print_lines(["", *_told(versions, folder.name, best["variant"]["name"], kept, is_new)])
    return 0


def _versions(settings: Settings, name: str, version: str | None) -> tuple[ModelVersions, Path]:
    """The model's, and the folder of the one to measure. Raises ConfigurationError where that was not imported."""
    from isocenter.bundles.variants import variant_of
    from isocenter.stack.versions import ModelVersions

    versions = ModelVersions(settings, name)
    chosen = version or versions.serving.active
    folder = settings.data_dir / "models" / name / chosen
    if chosen not in versions.there or not (folder / "plan.json").is_file():
        raise ConfigurationError(
            f"{folder}: there is no imported model there; see `isocenter models`. Installed ones are run as they are"
        )
    plan = json.loads((folder / "plan.json").read_text())
    if plan["output"] not in ("labels", "masks") or plan["channels"] != 1:
        raise ConfigurationError(
            f"{name}: only models that segment one series are optimised; of others it is not known what agreeing means"
        )
    if variant_of(folder) is not None:
        say(f"version {chosen} of {name} is optimised: what is measured is its network as it is")
    return versions, folder


def _volumes(studies: Sequence[Path]) -> list[tuple[Any, Any]]:
    from isocenter_operators.dicom.series.geometry import volume_of
    from isocenter_operators.dicom.series.read import read_folder
    from isocenter_operators.testing import thorax_phantom

    if not studies:
        say(
            "no series is given: measured on the phantom, which says little about how well patients would agree"
        )
        phantom = thorax_phantom(**_PHANTOM)  # type: ignore[arg-type]
        return [(np.ascontiguousarray(phantom.hu, np.int16), phantom.affine)]
    volumes = [volume_of(read_folder(study)) for study in studies]
    return [(volume.voxels, volume.affine) for volume in volumes]


def _trials(
    folder: Path,
    place: Path,
    volumes: Sequence[tuple[Any, Any]],
    *,
    device: str,
    bound: float,
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """In processes of their own: a bundle's code runs in no other, and a compiler may take it along."""
    arrays: dict[str, Any] = {}
    for number, (voxels, affine) in enumerate(volumes):
        arrays |= {f"volume_{number}": voxels, f"affine_{number}": affine}
    np.savez(place / "volumes.npz", **arrays)
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "bundle_engine.optimising"),
            *(
                str(folder.resolve()),
                str(place),
                _device(device),
                str(bound),
                str(_budget_mb(folder)),
                *names,
            ),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not found or found[0]["seconds"] is None:
        said = (found[0]["reason"] if found else "") or (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise ConfigurationError(f"{folder}: the network as it is can not be measured: {said}")
    tried = {each["variant"]["name"] for each in found}
    if not tried.issuperset(names):
        unknown = sorted(set(names) - tried)[0]
        raise ConfigurationError(f"--variant {unknown!r}: there is none of this name for this device")
    return found


def _budget_mb(folder: Path) -> int:
    """Of GPU memory: what is kept has to do with as much."""
    config = folder.parent / "config.pbtxt"
    said = _BUDGET.search(config.read_text()) if config.is_file() else None
    return int(said[1]) if said else 0


def _device(wanted: str) -> str:
    import torch

    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ConfigurationError("--device cuda: torch finds no CUDA device")
    return "cuda" if available and wanted != "cpu" else "cpu"


def _fastest(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of those that agree; the network as it is, the first, where none is faster by more than chance may make it."""
    agreeing = [each for each in found if each["agrees"]] or [found[0]]
    fastest = min(agreeing, key=lambda each: float(each["seconds"]))
    return fastest if fastest["seconds"] < _WORTH_IT * found[0]["seconds"] else found[0]


def _measured(place: Path, best: dict[str, Any], found: Sequence[dict[str, Any]], series: int) -> Measured:
    from isocenter.bundles.variants import Measured

    figures = {
        "seconds": best["seconds"],
        "seconds_as_it_is": found[0]["seconds"],
        "agreement_percent": best["agreement_percent"],
        "least_dice_percent": best["least_dice_percent"],
        "series": series,
    }
    variant = None if best is found[0] else best["variant"]
    return Measured(variant, place / best["variant"]["name"], figures)


def _kept(versions: ModelVersions, folder: Path, measured: Measured) -> tuple[str, bool]:
    """The version that is computed so, and whether it is new."""
    from isocenter.bundles.variants import add_variant, version_with
    from isocenter.serving import Servings

    # What took minutes to measure is not lost because a version is being loaded just now.
    with Servings(versions.settings.data_dir).changing(versions.model, waits=True):
        there = version_with(measured, folder)
        if there is not None:
            return there, False
        app = versions.settings.imported_apps_dir / versions.model
        return add_variant(measured, folder, app=app, loaded=versions.serving.versions).version, True


def _table(found: Sequence[dict[str, Any]]) -> list[str]:
    rows = [
        [
            each["variant"]["name"],
            "" if each["seconds"] is None else f"{each['seconds']:.2f}",
            "" if each["agreement_percent"] is None else f"{each['agreement_percent']:.3f}",
            "" if each["least_dice_percent"] is None else f"{each['least_dice_percent']:.2f}",
            each["reason"] or ("" if each["agrees"] else "agrees too little"),
        ]
        for each in found
    ]
    return table(["variant", "seconds", "equal voxels (%)", "least Dice (%)", ""], rows)


def _told(versions: ModelVersions, measured: str, variant: str, kept: str, is_new: bool) -> list[str]:
    name = versions.model
    if kept == measured:
        return [f"version {kept} of {name} is computed so already ({variant}): nothing is added"]
    what = f"version {measured} of {name}, computed so: {variant}"
    if is_new:
        lines = [f"version {kept} is {what}; it does nothing yet"]
    else:
        lines = [f"version {kept} is {what}, which was kept before: nothing is added"]
    if "active" not in versions.serving.roles(kept):
        lines += [
            "",
            f"try it   isocenter models shadow {name} {kept}: on every study, and nobody is shown what it finds",
            f"use it   isocenter models promote {name} {kept}",
        ]
    return lines
