"""A network of whole-body size on a graphics card: 512 x 512 x 400 voxels, 104 organs, from int16 to the label map.

    PYTHONPATH=src:operators python benchmarks/whole_body.py [--size 512 512 400] [--budget-mb 8192]

Needs torch, monai, pydicom, pydantic, PyYAML and the project's folder; no MONAI Deploy, no Orthanc, no Triton.
The engine is the one that serves every bundle; the bundle is made here, in the shape of the Model Zoo's wholeBody
bundle (SegResNet, 1.5 mm, windows of 96, mixed precision), with weights drawn by chance.

Written to results.json: seconds, how much of them the card was busy, the most memory, and how many voxels are those of
the CPU, of a small volume; once with all of the card's memory and once with 8 GB. The CPU computes in float32. So the
card is compared twice: as it serves, in mixed precision, and in float32. A network whose weights mean nothing is often
of two minds between two organs, so the first is the least that can be expected of a trained one.

Without a card it runs the small volume on the CPU, which shows that it runs; nothing is written, as nothing of it is
about a card.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from comparison import machine, write_results
from torch.profiler import ProfilerActivity, profile

_PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(_PROJECT / "triton_models" / "monai_bundle" / "1"))

from bundle_engine import Plan, Workflow, analyse_as_it_fits, limit_memory, workflow_of  # noqa: E402

from isocenter.bundles.bundle import opened  # noqa: E402
from isocenter.bundles.plan import plan_of  # noqa: E402
from isocenter_operators.testing import thorax_phantom  # noqa: E402

SIZE = (512, 512, 400)
SMALL = (192, 160, 72)  # without a card, and where the CPU is to answer too: four windows
BUDGET_MB = 8192
_CLASSES = 105
_SPACING_MM = (400 / 512, 400 / 512, 1.5)  # (x, y, z)
_ROUNDS = 3  # on a card
_NETWORK = {
    "_target_": "SegResNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": _CLASSES,
    "init_filters": 32,
    "blocks_down": [1, 2, 2, 4],
    "blocks_up": [1, 1, 1],
}


@dataclass(frozen=True)
class Measured:
    """`busy`: the part of the seconds in which the card computed; NaN on a CPU. `peak_mb`: on the card, 2^20 bytes."""

    seconds: float
    busy: float
    peak_mb: float
    notes: tuple[str, ...]
    labels: torch.Tensor


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=3, help="columns, rows, slices")
    parser.add_argument("--budget-mb", type=int, default=BUDGET_MB)
    given = parser.parse_args()
    card = torch.cuda.is_available()
    size = tuple(given.size) if given.size else SIZE if card else SMALL
    device = torch.device("cuda" if card else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        bundle = _bundle(Path(folder))
        results: dict[str, dict[str, Any]] = {}
        whole = measured(_workflow(bundle, device), size)
        results["whole body"] = _told(whole, size)
        if card:
            results["whole body"] |= _agreement(bundle)
            limit_memory(device, given.budget_mb)
            less = measured(_workflow(bundle, device), size)
            results[f"whole body, {given.budget_mb} MB"] = _told(less, size) | {
                "as_without_limit_percent": 100 * float((less.labels == whole.labels).float().mean())
            }
    if card:
        write_results(results)
    print(json.dumps(results, indent=2))


def measured(workflow: Workflow, size: tuple[int, ...]) -> Measured:
    volume, affine = _volume(size)
    analyse_as_it_fits(workflow, volume, affine)  # what is made only once
    _reset_peak(workflow)
    seconds = []
    for _ in range(_ROUNDS if workflow.device.type == "cuda" else 1):
        started = time.perf_counter()
        answer = analyse_as_it_fits(workflow, volume, affine)
        labels = answer.values.cpu()  # which waits for the card
        seconds.append(time.perf_counter() - started)
    peak_mb = torch.cuda.max_memory_reserved() / (1 << 20) if workflow.device.type == "cuda" else float("nan")
    taken = sorted(seconds)[len(seconds) // 2]
    return Measured(taken, _busy(workflow, volume, affine), peak_mb, answer.notes, labels)


def _busy(workflow: Workflow, volume: torch.Tensor, affine: torch.Tensor) -> float:
    if workflow.device.type != "cuda":
        return float("nan")
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        started = time.perf_counter()
        analyse_as_it_fits(workflow, volume, affine).values.cpu()
        seconds = time.perf_counter() - started
    on_card_s = sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6
    return on_card_s / seconds


def _reset_peak(workflow: Workflow) -> None:
    if workflow.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _agreement(bundle: Path) -> dict[str, float]:
    """Of a volume that a CPU can answer in a minute: how many voxels have the same label on both, in percent."""
    volume, affine = _volume(SMALL)
    mixed, cpu = (_workflow(bundle, torch.device(device)) for device in ("cuda", "cpu"))
    expected = analyse_as_it_fits(cpu, volume, affine).values
    found = {"as_the_cpu_percent": analyse_as_it_fits(mixed, volume, affine).values.cpu()}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # which keeps 10 bits of a number
        full = replace(mixed, plan=replace(mixed.plan, amp=False))
        found["as_the_cpu_in_float32_percent"] = analyse_as_it_fits(full, volume, affine).values.cpu()
    return {name: 100 * float((labels == expected).float().mean()) for name, labels in found.items()}


def _volume(size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    phantom = thorax_phantom(size=size, spacing_mm=_SPACING_MM)
    return torch.from_numpy(phantom.hu), torch.from_numpy(phantom.affine)


def _workflow(bundle: Path, device: torch.device) -> Workflow:
    with opened(bundle) as read:
        plan, _ = plan_of(read)
    return workflow_of(bundle, Plan(**plan.model_dump()), device)


def _bundle(folder: Path) -> Path:
    from monai.bundle import ConfigParser

    bundle = folder / "whole_body"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "models").mkdir()
    (bundle / "configs" / "inference.json").write_text(json.dumps(_configuration()))
    (bundle / "configs" / "metadata.json").write_text(json.dumps(_metadata()))
    torch.manual_seed(0)
    network = ConfigParser({"network": _NETWORK}).get_parsed_content("network")
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    return bundle


def _configuration() -> Mapping[str, Any]:
    before = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 1.5], "mode": "bilinear"},
        {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True},
    ]
    after = [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"}
        | {"nearest_interp": False},
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    ]
    return {
        "network_def": _NETWORK,
        "network": "@network_def",
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [96, 96, 96],
            "sw_batch_size": 4,
            "overlap": 0.25,
            "mode": "gaussian",
            "padding_mode": "replicate",
        },
        "postprocessing": {"_target_": "Compose", "transforms": after},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "amp": True,
        },
    }


def _metadata() -> Mapping[str, Any]:
    names = {"0": "background"} | {str(number): f"organ {number}" for number in range(1, _CLASSES)}
    return {
        "name": "whole body",
        "version": "0",
        "network_data_format": {
            "inputs": {"image": {"modality": "CT", "num_channels": 1, "channel_def": {"0": "image"}}},
            "outputs": {"pred": {"num_channels": _CLASSES, "channel_def": names}},
        },
    }


def _told(found: Measured, size: tuple[int, ...]) -> dict[str, Any]:
    return {
        "size": list(size),
        "classes": _CLASSES - 1,
        "seconds": round(found.seconds, 3),
        "busy_percent": None if found.busy != found.busy else round(100 * found.busy, 1),
        "peak_mb": None if found.peak_mb != found.peak_mb else round(found.peak_mb),
        "notes": list(found.notes),
        "labels_found": int(found.labels.unique().numel()),
        "machine": machine(),
    }


if __name__ == "__main__":
    main()
