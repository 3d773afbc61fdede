"""`isocenter models optimise`: what computes a model's network fastest here, and still finds the same."""

from __future__ import annotations

import json
import re
import shutil
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
    from isocenter.settings import Settings

__all__ = ["command"]

_PHANTOM = {"size": (160, 128, 64), "spacing_mm": (2.2, 2.2, 5.0)}  # (x, y, z)
_FILE = "variant.json"
_FILES = "variant.*"  # and what the variant is loaded from
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
@click.option("--off", is_flag=True, help="Compute the network as it is again.")
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
    off: bool,
    as_json: bool = False,
) -> int:
    """Measure what computes the imported model NAME fastest here, and keep it where it agrees.

    SERIES are folders with one series each, as the model gets them; without any, the phantom. Nothing is switched on
    that was not measured.
    """
    settings = options.running_settings(config)
    folder = _folder(settings, name, version)
    if off:
        _clear(folder)
        return _told([], None, folder, as_json)
    with tempfile.TemporaryDirectory() as name_of_place:
        place = Path(name_of_place)
        found = _trials(folder, place, _volumes(studies), device=device, bound=bound, names=names)
        kept = _fastest(found)
        _keep(folder, place, kept, found, studies)
    return _told(found, kept, folder, as_json)


def _folder(settings: Settings, name: str, version: str | None) -> Path:
    """Of the version. Raises ConfigurationError for a model that was not imported."""
    from isocenter.serving import Servings

    serving = Servings(settings.data_dir).of(name)
    chosen = version or (serving.active if serving else "1")
    folder = settings.data_dir / "models" / name / chosen
    if not (folder / "plan.json").is_file():
        raise ConfigurationError(
            f"{folder}: there is no imported model there; see `isocenter models`. Installed ones are run as they are"
        )
    plan = json.loads((folder / "plan.json").read_text())
    if plan["output"] not in ("labels", "masks") or plan["channels"] != 1:
        raise ConfigurationError(
            f"{name}: only models that segment one series are optimised; of others it is not known what agreeing means"
        )
    return folder


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


def _keep(
    folder: Path,
    place: Path,
    kept: dict[str, Any],
    found: Sequence[dict[str, Any]],
    studies: Sequence[Path],
) -> None:
    _clear(folder)
    if kept is found[0]:
        return
    measured = {
        "seconds": kept["seconds"],
        "seconds_as_it_is": found[0]["seconds"],
        "agreement_percent": kept["agreement_percent"],
        "least_dice_percent": kept["least_dice_percent"],
        "series": len(studies),
    }
    for file in (place / kept["variant"]["name"]).glob(_FILES):
        shutil.copyfile(file, folder / file.name)
    # Last: what it names is there.
    (folder / _FILE).write_text(
        json.dumps({"variant": kept["variant"], "measured": measured}, indent=2) + "\n"
    )


def _clear(folder: Path) -> None:
    (folder / _FILE).unlink(missing_ok=True)
    for file in folder.glob(_FILES):
        file.unlink()


def _told(found: Sequence[dict[str, Any]], kept: dict[str, Any] | None, folder: Path, as_json: bool) -> int:
    name = "as it is" if kept is None else str(kept["variant"]["name"])
    if as_json:
        print_json({"kept": name, "trials": list(found)})
        return 0
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
    if rows:
        print_lines(table(["variant", "seconds", "equal voxels (%)", "least Dice (%)", ""], rows))
    print_lines(["", f"the network is computed {name}"])
    if kept is None or kept is not found[0]:
        say(
            f"{folder}: that is another model, as other weights are: it counts from the next start of `isocenter up` on"
        )
    return 0
