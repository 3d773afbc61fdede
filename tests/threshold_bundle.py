"""A MONAI bundle whose answer anybody can compute: each voxel above a number of Hounsfield units is its one segment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = ["compute_without_monai", "threshold_bundle"]

_SCALE_HU = 1000.0
_MODEL = """
import json
from pathlib import Path

import numpy
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        (Path(__file__).parent / "bundle" / "models" / "model.pt").read_bytes()
        self._memory = numpy.ones(150 << 20, numpy.uint8)  # as a network would hold

    def execute(self, requests):
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        volume = numpy.from_dlpack(pb_utils.get_input_tensor_by_name(request, "volume"))
        findings = numpy.frombuffer(bytearray(json.dumps({{"notes": []}}).encode()), numpy.uint8)
        labels = (volume > {above_hu}).astype(numpy.uint8) if {label} == 1 else numpy.full(volume.shape, {label}, "u1")
        tensors = {{"labels": labels, "findings": findings}}
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack(*each) for each in tensors.items()])
"""


def threshold_bundle(
    folder: Path,
    above_hu: float,
    *,
    version: str = "1.0.0",
    title: str = "Above a threshold",
    label: str = "bone",
    modality: str = "CT",
    accepts: Mapping[str, Any] | None = None,
    broken: bool = False,
    window: Sequence[int] = (),
) -> Path:
    """Write the bundle and give its folder. `broken`: it answers with a label that it has not said the meaning of.

    `window`: of a sliding one, (x, y, z); without it the network sees the whole volume.
    """
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    classes = 3 if broken else 2
    inference = {
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {
                    "_target_": "ScaleIntensityRanged",
                    "keys": "image",
                    "a_min": 0.0,
                    "a_max": _SCALE_HU,
                    "b_min": 0.0,
                    "b_max": 1.0,
                },
            ],
        },
        "network": {
            "_target_": "torch.nn.Conv3d",
            "in_channels": 1,
            "out_channels": classes,
            "kernel_size": 1,
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [*window], "sw_batch_size": 2}
        if window
        else {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            ],
        },
    }
    metadata = {
        "name": title,
        "version": version,
        "network_data_format": {
            "inputs": {"image": {"modality": modality, "num_channels": 1}},
            "outputs": {"pred": {"channel_def": {"0": "background", "1": label}}},
        },
        **({"isocenter": {"accepts": accepts}} if accepts else {}),
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    weight, bias = torch.zeros(classes, 1, 1, 1, 1), torch.zeros(classes)
    weight[1], bias[1] = 1.0, -above_hu / _SCALE_HU
    if broken:
        bias[2] = 100.0
    torch.save({"weight": weight, "bias": bias}, folder / "models" / "model.pt")
    return folder


def compute_without_monai(version: Path, above_hu: float, *, broken: bool = False) -> None:
    """Let an imported version find the same in its process with NumPy alone, which starts in a tenth of the time.

    For tests of what happens to versions, where it does not matter what they are computed by.
    """
    model = _MODEL.format(above_hu=above_hu, label=2 if broken else 1)
    (version / "model.py").write_text(model)
