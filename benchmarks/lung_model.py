"""The model `ct_lung_density` by itself, on a graphics card against the CPU, with equal results demanded.

    python benchmarks/lung_model.py        needs torch, scipy, pydicom and the project's folder; no Orthanc, no Triton

Without a card it times the CPU alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from comparison import Comparison, machine, side_by_side

_PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(_PROJECT / "triton_models" / "ct_lung_density" / "1"))


def compare(chest: Path) -> Iterator[Comparison]:
    from lung_density import analyse

    from isocenter_operators.dicom.series.geometry import volume_of
    from isocenter_operators.dicom.series.read import read_folder

    volume = volume_of(read_folder(chest))
    on_cpu = torch.from_numpy(volume.voxels)

    def cpu() -> object:
        return analyse(on_cpu, volume.affine)

    if not torch.cuda.is_available():
        alone = side_by_side("lung model, CPU", cpu, lambda: None, against="nobody", rounds=3)
        yield Comparison(alone.name, alone.ours, None, "s", "no GPU here", machine())
        return
    on_card = on_cpu.cuda()

    def card() -> object:
        answer = analyse(on_card, volume.affine)
        torch.cuda.synchronize()
        return answer

    ours, theirs = analyse(on_card, volume.affine), analyse(on_cpu, volume.affine)
    np.testing.assert_array_equal(torch.as_tensor(ours.labels).cpu(), torch.as_tensor(theirs.labels))
    np.testing.assert_array_equal(np.asarray(ours.measurements), np.asarray(theirs.measurements))
    yield side_by_side("lung model, GPU", card, cpu, against="the same on the CPU, equal results")


if __name__ == "__main__":
    from series import chest_ct

    with chest_ct() as folder:
        for comparison in compare(folder):
            print(comparison.name, comparison.as_json())
