"""Phantoms: CT volumes that are known exactly.

`thorax_phantom` is the measure of what an application finds; `head_phantom` and `abdomen_phantom` hold no lung
and are for applications that should say so.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.errors import InputError
from isocenter_operators.testing.emphysema import emphysema
from isocenter_operators.testing.grid import Field, Grid
from isocenter_operators.testing.solids import Triple, coverage, ellipsoid
from isocenter_operators.testing.thorax import LEFT, RIGHT, Organ, parenchyma_hu, sample
from isocenter_operators.testing.truth import ThoraxTruth, measure
from isocenter_operators.testing.tubes import AIRWAYS, WALL_MM, fill, vessel_trees

__all__ = ["Phantom", "ThoraxPhantom", "abdomen_phantom", "head_phantom", "thorax_phantom"]

_Mask = NDArray[np.bool_]

_LUMEN_HU, _WALL_HU, _VESSEL_HU, _NODULE_HU, _EMPHYSEMA_HU = -990, 25, 30, 60, -980
_NODULE_CENTRE_MM = (-88.0, 8.0, 4.0)
_NODULE_LARGEST_MM = 40.0  # a larger one would leave the lung


@dataclass(frozen=True)
class Phantom:
    """A CT volume and where it lies.

    hu: int16 (Z, Y, X), Hounsfield units.
    affine: float64 (4, 4), index (x, y, z, 1) to LPS millimetres.
    body_part: as in BodyPartExamined (PS3.16, Annex L).
    digest: 64 hexadecimal digits, the same for the same parameters.
    """

    hu: NDArray[np.int16]  # (Z, Y, X)
    affine: NDArray[np.float64]  # (x, y, z, 1) -> LPS, mm
    body_part: str
    digest: str


@dataclass(frozen=True)
class ThoraxPhantom(Phantom):
    """A thorax and its truth, all on the grid of `hu`.

    labels: uint8, 0 background, 1 right lung, 2 left lung. Vessels and nodule belong to the lung; trachea,
        bronchi and their walls do not.
    airways: the lumen of trachea and bronchi.
    nodule, emphysema: both inside the lungs.
    organs: uint8, which `Organ` each voxel is of, by the formulas that drew it: 1 and 2 are the lungs as in `labels`.
    truth: the numbers of each lung.
    """

    labels: NDArray[np.uint8]  # (Z, Y, X)
    airways: _Mask  # (Z, Y, X)
    nodule: _Mask  # (Z, Y, X)
    emphysema: _Mask  # (Z, Y, X)
    organs: NDArray[np.uint8]  # (Z, Y, X)
    truth: ThoraxTruth


def thorax_phantom(
    *,
    size: tuple[int, int, int] = (256, 256, 120),
    spacing_mm: tuple[float, float, float] = (1.4, 1.4, 2.5),
    orientation: str = "LPS",
    oblique_deg: float = 0.0,
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    emphysema_fraction: float = 0.08,
    noise_hu: float = 20.0,
    nodule_diameter_mm: float = 12.0,
    stature: float = 1.0,
    seed: int = 0,
) -> ThoraxPhantom:
    """A CT of a thorax, from the neck to below the diaphragm, with every voxel's truth.

    size: voxels along (x, y, z) = (column, row, slice); spacing_mm along the same axes.
    orientation: where column, row and slice index run to in the patient, such as "LPS" (axial) or "LIP" (coronal).
        The default size and spacing fit an axial image.
    oblique_deg: turns the image, not the patient.
    centre_mm: the point of the patient in the middle of the image; move it to cut the lungs off. The chest lies
        around (0, 0, 0).
    emphysema_fraction: share of the lungs' parenchyma at -980 HU, 0 to 1.
    noise_hu: standard deviation of Gaussian noise. Noise alone differs between orientations of one phantom.
    nodule_diameter_mm: of a solid nodule in the right lung, 0 to 40; 0 for none.
    stature: how large the patient is, 0.5 to 1.5: all of the anatomy, about (0, 0, 0), the nodule with it.
    seed: vessels, emphysema and noise.

    Raises GeometryError for a grid that makes no volume, InputError for another parameter out of its range.

        phantom = thorax_phantom(orientation="RAS", emphysema_fraction=0.15)
        write_series(phantom, Path("series"))
        print(phantom.truth.left.volume_mL)
    """
    grid = Grid(size, spacing_mm, orientation, oblique_deg, centre_mm)
    _check(emphysema_fraction, noise_hu, nodule_diameter_mm, stature)
    image, grid = grid, _seen_by(grid, stature)
    hu, labels, organs, pure = _solids(grid)
    lumen, wall, vessels = fill(grid, AIRWAYS), fill(grid, AIRWAYS, WALL_MM), fill(grid, vessel_trees(seed))
    nodule = _nodule(grid, nodule_diameter_mm)
    labels[wall > 0.5] = 0
    in_lung = labels > 0
    organs[wall > 0.5] = 0
    organs[lumen > 0.5] = Organ.AIRWAYS

    parenchyma = pure & in_lung & (vessels == 0) & (wall == 0) & (nodule == 0)
    diseased = emphysema(grid, parenchyma, emphysema_fraction, seed)
    hu[diseased] = _EMPHYSEMA_HU
    vessels[~in_lung] = 0
    for part, value in (
        (vessels, _VESSEL_HU),
        (nodule, _NODULE_HU),
        (wall, _WALL_HU),
        (lumen, _LUMEN_HU),
    ):
        _blend(hu, part, value)

    voxels = _digitised(hu, noise_hu, seed)
    voxel_mm3 = float(np.prod(spacing_mm))
    return ThoraxPhantom(
        hu=voxels,
        affine=image.affine,
        body_part="CHEST",
        digest=_digest("thorax", image, emphysema_fraction, noise_hu, nodule_diameter_mm, stature, seed),
        labels=labels,
        airways=lumen > 0.5,
        nodule=(nodule > 0.5) & in_lung,
        emphysema=diseased,
        organs=organs,
        truth=measure(voxels, labels, voxel_mm3),
    )


def _check(emphysema_fraction: float, noise_hu: float, nodule_diameter_mm: float, stature: float) -> None:
    if not 0 <= emphysema_fraction <= 1:
        raise InputError(f"emphysema_fraction {emphysema_fraction}: give a number from 0 to 1")
    if noise_hu < 0:
        raise InputError(f"noise_hu {noise_hu}: a standard deviation is not negative")
    if not 0 <= nodule_diameter_mm <= _NODULE_LARGEST_MM:
        raise InputError(f"nodule_diameter_mm {nodule_diameter_mm}: give 0 to {_NODULE_LARGEST_MM:g} mm")
    if not 0.5 <= stature <= 1.5:
        raise InputError(f"stature {stature}: give 0.5 to 1.5")


def _seen_by(grid: Grid, stature: float) -> Grid:
    """The grid in the millimetres of the drawing: a larger patient is the same one on a finer grid."""
    column_mm, row_mm, slice_mm = (part / stature for part in grid.spacing_mm)
    x, y, z = (part / stature for part in grid.centre_mm)
    return replace(grid, spacing_mm=(column_mm, row_mm, slice_mm), centre_mm=(x, y, z))


def _solids(grid: Grid) -> tuple[Field, NDArray[np.uint8], NDArray[np.uint8], _Mask]:
    """HU, labels, organs without airways, and which voxels are lung all through: each (Z, Y, X)."""
    columns, rows, slices = (slice(0, count) for count in grid.size)
    shape = grid.size[::-1]
    hu, pure = np.empty(shape, np.float32), np.empty(shape, np.bool_)
    labels, organs = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    width_mm = float(np.mean(grid.spacing_mm))
    for index in range(slices.stop):  # slice by slice: what it works on stays in the processor's cache
        points = grid.block(columns, rows, slice(index, index + 1))
        tissue_hu, organs[index], lung_mm = sample(points)
        lung = coverage(lung_mm, width_mm)
        hu[index] = tissue_hu + lung * (parenchyma_hu(points) - tissue_hu)
        labels[index] = np.where(lung_mm < 0, np.where(points.x < 0, RIGHT, LEFT), 0)
        pure[index] = lung == 1
    organs[labels > 0] = labels[labels > 0]
    return hu, labels, organs, pure


def _nodule(grid: Grid, diameter_mm: float) -> Field:
    """How much of each voxel the nodule fills, 0 to 1: (Z, Y, X)."""
    filled = np.zeros(grid.size[::-1], np.float32)
    if diameter_mm:
        radius = diameter_mm / 2
        centre = np.array([_NODULE_CENTRE_MM])
        columns, rows, slices = grid.box_around(centre, radius + max(grid.spacing_mm))
        distance = ellipsoid(grid.block(columns, rows, slices), _NODULE_CENTRE_MM, (radius, radius, radius))
        filled[slices, rows, columns] = coverage(distance, float(np.mean(grid.spacing_mm)))
    return filled


def _blend(hu: Field, part: Field, value: float) -> None:
    touched = part > 0
    hu[touched] += part[touched] * (value - hu[touched])


def _digitised(hu: Field, noise_hu: float, seed: int) -> NDArray[np.int16]:
    """With noise, in the 12 bits of a scanner: -1024 to 3071 HU."""
    rng = np.random.default_rng((seed, 3))
    voxels = np.empty(hu.shape, np.int16)
    for clean, digital in zip(hu, voxels, strict=True):
        noise = rng.standard_normal(clean.shape, np.float32) * np.float32(noise_hu)
        digital[:] = np.rint(clean + noise).clip(-1024, 3071)
    return voxels


def _digest(kind: str, grid: Grid, *parameters: float) -> str:
    what = json.dumps([kind, asdict(grid), parameters], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()


def head_phantom(
    *, size: tuple[int, int, int] = (64, 64, 24), spacing_mm: tuple[float, float, float] = (3.6, 3.6, 7.0)
) -> Phantom:
    """A head in air: skull, brain, and air in the sinuses."""
    layers: list[tuple[Triple, Triple, float]] = [
        ((0, 0, 0), (75, 95, 95), 40),  # scalp
        ((0, 0, 0), (69, 89, 89), 900),  # skull
        ((0, 0, 0), (62, 82, 82), 35),  # brain
        ((-14, -68, -25), (12, 12, 14), -980),  # the sinuses
        ((14, -68, -25), (12, 12, 14), -980),
        ((0, -45, -45), (20, 20, 16), -950),
    ]
    return _layered("HEAD", Grid(size, spacing_mm), layers)


def abdomen_phantom(
    *, size: tuple[int, int, int] = (96, 96, 40), spacing_mm: tuple[float, float, float] = (3.6, 3.6, 5.0)
) -> Phantom:
    """An abdomen below the lungs: liver, spine, and two flanks of bowel full of gas, as large as lung bases."""
    layers: list[tuple[Triple, Triple, float]] = [
        ((0, 0, 0), (162, 112, 900), -105),  # fat
        ((0, 0, 0), (145, 98, 900), 50),  # muscle and bowel
        ((-60, -5, 60), (75, 75, 90), 60),  # liver
        ((0, 62, 0), (22, 20, 900), 250),  # spine
        ((-95, 5, -60), (26, 34, 38), -990),  # gas in the colon
        ((98, -5, -20), (28, 38, 70), -990),
        ((10, -55, -20), (70, 20, 18), -960),
        ((30, -10, -65), (18, 18, 14), -700),  # stool
    ]
    return _layered("ABDOMEN", Grid(size, spacing_mm), layers)


def _layered(body_part: str, grid: Grid, layers: list[tuple[Triple, Triple, float]]) -> Phantom:
    """Ellipsoids (centre, semi-axes, HU) painted over each other in air."""
    points = grid.block(*(slice(0, count) for count in grid.size))
    hu = np.full(grid.size[::-1], -1000, np.float32)
    for centre_mm, semi_axes_mm, value in layers:
        hu[ellipsoid(points, centre_mm, semi_axes_mm) < 0] = value
    digest = _digest(body_part, grid)
    return Phantom(_digitised(hu, 15.0, 0), grid.affine, body_part, digest)
