"""Trains the demonstration network of `bundles/thorax_organs`: the organs of the thorax phantom, from drawings alone.

    python training/thorax_organs.py            # the weights, and what they were measured to do
    python training/thorax_organs.py --measure  # the second alone, of the weights that are there

Network and preprocessing are the bundle's own (configs/inference.json), so that what is trained is what is run. The
same seed gives the same weights on the same machine, PyTorch and number of threads; elsewhere sums round differently.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.losses import DiceCELoss
from monai.transforms import (
    ClassesToIndicesd,
    Compose,
    RandAffined,
    RandCropByLabelClassesd,
    RandGaussianNoised,
    RandShiftIntensityd,
    ResampleToMatch,
    SpatialPadd,
)
from monai.utils import set_determinism
from numpy.typing import NDArray

_ROOT = Path(__file__).resolve().parents[1]
_ENGINE = _ROOT / "triton_models" / "monai_bundle" / "1"
sys.path.insert(0, str(_ENGINE))

from bundle_engine import Plan, analyse, workflow_of  # noqa: E402

from isocenter.bundles.bundle import opened  # noqa: E402
from isocenter.bundles.description import description_of  # noqa: E402
from isocenter.bundles.installing import install  # noqa: E402
from isocenter.bundles.plan import plan_of  # noqa: E402
from isocenter_operators.testing import Organ, ThoraxPhantom, thorax_phantom  # noqa: E402

__all__ = ["Course", "drawn", "held_out", "install_beside", "main", "measured", "trained"]

_BUNDLE = _ROOT / "bundles" / "thorax_organs"
_CLASSES = len(Organ) + 1  # with the background
_ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "SI"))
    for letters in itertools.product(*axes)
]  # all 48
_COUNTED_ML = (
    10.0  # of an organ that the edge of the image cuts off: less tells nothing of how well it is found
)
_TRAINING, _HELD_OUT = 1, 2  # streams of random numbers that have nothing in common


@dataclass(frozen=True)
class Course:
    """How the network is trained. `patch`: voxels (x, y, z) of the bundle's grid."""

    seed: int = 0
    phantoms: int = 36
    steps: int = 700
    batch: int = 2
    patch: tuple[int, int, int] = (64, 64, 64)
    learning_rate: float = 4e-3
    device: torch.device = field(
        default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )


def drawn(stream: int, seed: int, number: int) -> dict[str, Any]:
    """The parameters of one phantom, by chance: what `thorax_phantom` takes."""
    rng = np.random.default_rng((stream, seed, number))
    orientation = str(rng.choice(_ORIENTATIONS))
    spacing_mm = {"L": rng.uniform(1.6, 3.2), "P": rng.uniform(1.6, 3.2), "S": rng.uniform(1.5, 5.0)}
    field_mm = {"L": rng.uniform(330, 400), "P": rng.uniform(250, 360), "S": rng.uniform(220, 330)}
    axes = [letter if letter in "LPS" else "LPS"["RAI".index(letter)] for letter in orientation]
    return {
        "size": tuple(int(field_mm[axis] / spacing_mm[axis]) for axis in axes),
        "spacing_mm": tuple(float(spacing_mm[axis]) for axis in axes),
        "orientation": orientation,
        "oblique_deg": float(rng.uniform(-12, 12)),
        "centre_mm": (float(rng.uniform(-12, 12)), float(rng.uniform(-12, 12)), float(rng.uniform(-45, 35))),
        "emphysema_fraction": float(rng.uniform(0, 0.4)),
        "noise_hu": float(rng.uniform(5, 45)),
        "nodule_diameter_mm": float(rng.uniform(0, 30)),
        "stature": float(rng.uniform(0.85, 1.12)),
        "seed": int(rng.integers(1 << 31)),
    }


def held_out(count: int = 12, seed: int = 0) -> Iterator[ThoraxPhantom]:
    """Phantoms that no training sees: sizes, spacings, places, orientations, statures and noise of their own."""
    return (thorax_phantom(**drawn(_HELD_OUT, seed, number)) for number in range(count))


def trained(course: Course) -> torch.nn.Module:
    """The bundle's network after the course, on the CPU. Tells how it goes."""
    set_determinism(course.seed)
    parser = _parser()
    network: torch.nn.Module = parser.get_parsed_content("network_def").to(course.device)
    items = [_item(parser, drawn(_TRAINING, course.seed, number)) for number in range(course.phantoms)]
    change = _change(course)
    change.set_random_state(course.seed)
    order = np.random.default_rng(course.seed)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=course.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=course.learning_rate, total_steps=course.steps, pct_start=0.15
    )
    lately = 0.0
    for step in range(course.steps):
        images, labels = _batch(items, change, course, order)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(network(images), labels)
        loss.backward()
        optimizer.step()
        schedule.step()
        lately = loss.item() if step == 0 else 0.95 * lately + 0.05 * loss.item()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {course.steps}: loss {lately:.3f}", flush=True)
    return network.cpu().eval()


def _parser() -> ConfigParser:
    """The bundle's configuration, for images that are in memory already."""
    config = ConfigParser.load_config_file(str(_BUNDLE / "configs" / "inference.json"))
    config["preprocessing"]["transforms"] = config["preprocessing"]["transforms"][1:]
    return ConfigParser(config)


def _item(parser: ConfigParser, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A phantom as the network sees it, with its labels on the same grid, and where each of them is."""
    phantom = thorax_phantom(**parameters)
    seen = parser.get_parsed_content("preprocessing")({"image": _ras(phantom.hu, phantom.affine)})["image"]
    labels = _ras(phantom.organs, phantom.affine)[None]
    item = {"image": seen, "label": ResampleToMatch(mode="nearest")(labels, img_dst=seen)}
    found: dict[str, Any] = ClassesToIndicesd("label", num_classes=_CLASSES)(item)
    return found


def _ras(voxels: NDArray[Any], affine: NDArray[np.float64]) -> MetaTensor:
    """(Z, Y, X) in LPS as MONAI reads it from a file: float32 (X, Y, Z) in RAS."""
    values = torch.from_numpy(np.ascontiguousarray(voxels.transpose(2, 1, 0), np.float32))
    ras = torch.from_numpy(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    return MetaTensor(values, meta={"affine": ras, "original_channel_dim": float("nan"), "space": "RAS"})


def _change(course: Course) -> Compose:
    """A patch around a voxel of some organ, in a patient of another shape, with more noise and another calibration."""
    keys = ("image", "label")
    return Compose(
        [
            SpatialPadd(keys, course.patch, mode=("replicate", "constant")),
            RandCropByLabelClassesd(
                keys, "label", course.patch, num_classes=_CLASSES, indices_key="label_cls_indices", warn=False
            ),
            RandAffined(
                keys,
                prob=0.4,
                rotate_range=(0.1,) * 3,
                scale_range=(0.1,) * 3,
                shear_range=(0.05,) * 6,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            RandGaussianNoised("image", prob=0.3, std=0.03),
            RandShiftIntensityd("image", 0.02, prob=0.3),
        ]
    )


def _batch(
    items: list[dict[str, Any]], change: Compose, course: Course, order: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = [change(items[number])[0] for number in order.integers(len(items), size=course.batch)]
    images, labels = (
        torch.stack([each[key].as_tensor() for each in chosen]).to(course.device)
        for key in ("image", "label")
    )
    return images, labels


@torch.inference_mode()
def measured(phantoms: Iterator[ThoraxPhantom]) -> dict[str, list[float]]:
    """The Dice coefficient of each organ in each phantom that shows 10 mL of it, of the bundle as it is served."""
    with opened(_BUNDLE) as bundle:
        plan, _ = plan_of(bundle)
    workflow = workflow_of(_BUNDLE, Plan(**plan.model_dump()), torch.device("cpu"))
    dice: dict[str, list[float]] = {organ.name.lower(): [] for organ in Organ}
    for phantom in phantoms:
        answer = analyse(workflow, torch.from_numpy(phantom.hu), torch.from_numpy(phantom.affine))
        found = answer.values.numpy()
        voxel_ml = abs(float(np.linalg.det(phantom.affine[:3, :3]))) / 1000
        for organ in Organ:
            true, said = phantom.organs == organ, found == organ
            if int(true.sum()) * voxel_ml >= _COUNTED_ML:
                dice[organ.name.lower()].append(2 * int((true & said).sum()) / int(true.sum() + said.sum()))
    return dice


def _note(dice: Mapping[str, list[float]]) -> None:
    """What was measured, into the bundle's metadata and the pages that tell it."""
    rows = {name: {"mean": float(np.mean(each)), "least": min(each)} for name, each in dice.items()}
    mean = float(np.mean([row["mean"] for row in rows.values()]))
    file = _BUNDLE / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata["eval_metrics"] = {
        "mean_dice": round(mean, 3),
        "dice": {name: {key: round(value, 3) for key, value in row.items()} for name, row in rows.items()},
        "phantoms": max(map(len, dice.values())),
    }
    file.write_text(json.dumps(metadata, indent=4) + "\n")
    lines = [
        f"| {name.replace('_', ' ')} | {row['mean']:.3f} | {row['least']:.3f} |" for name, row in rows.items()
    ]
    table = "\n".join(["| organ | mean | least |", "|---|---|---|", *lines, f"| all | {mean:.3f} | |"])
    for page in (_BUNDLE / "docs" / "README.md", _ROOT / "docs" / "models.md"):
        before, _, rest = page.read_text().partition("| organ |")
        _, _, after = rest.partition("\n\n")
        page.write_text(f"{before}{table}\n\n{after}")
    print(table)


def install_beside(bundle: Path, root: Path) -> None:
    """Into `root`, what an import makes of the bundle: apps/NAME and triton_models/NAME.

    Of what the repository has already, the model holds links: the engine and the bundle.
    """
    name = bundle.name
    with TemporaryDirectory() as folder, opened(bundle) as read:
        place = Path(folder)
        (place / "engine").mkdir()
        (place / "engine" / "monai_bundle").symlink_to(_ENGINE.parent)
        plan, _ = plan_of(read)
        description = description_of(read, plan)
        imported = install(
            read,
            plan,
            description,
            name=name,
            models=place / "models",
            apps=place / "apps",
            installed=place / "engine",
        )
        for each in ("bundle", "bundle_engine", "model.py"):
            made = imported.model / "1" / each
            shutil.rmtree(made) if made.is_dir() else made.unlink()
            made.symlink_to(
                Path("../../../bundles", name) if each == "bundle" else Path("../../monai_bundle/1", each)
            )
        for kind, made in (("apps", imported.app), ("triton_models", imported.model)):
            shutil.rmtree(root / kind / name, ignore_errors=True)
            shutil.copytree(made, root / kind / name, symlinks=True)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--measure", action="store_true", help="train nothing")
    arguments.add_argument("--seed", type=int, default=Course.seed)
    arguments.add_argument("--steps", type=int, default=Course.steps)
    arguments.add_argument("--threads", type=int, default=1)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    begun = time.monotonic()
    if not given.measure:
        network = trained(Course(seed=given.seed, steps=given.steps))
        (_BUNDLE / "models").mkdir(exist_ok=True)
        torch.save(network.state_dict(), _BUNDLE / "models" / "model.pt")
        print(f"trained in {time.monotonic() - begun:.0f} s")
    _note(measured(held_out()))
    install_beside(_BUNDLE, _ROOT)
    print(f"all in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
