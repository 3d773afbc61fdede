"""A volume that does not fit: first fewer windows at once, then the CPU; and it is said how it was done in the end."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from monai.inferers import SlidingWindowInferer

from bundle_engine.analysis import Answer, analyse
from bundle_engine.workflow import Workflow, workflow_of

__all__ = ["analyse_as_it_fits", "limit_memory"]

# As torch says it on a CPU, and ONNX Runtime anywhere; on CUDA torch has an error of its own.
_WORDS = ("can't allocate memory", "not enough memory", "bad_alloc", "failed to allocate memory")


def limit_memory(device: torch.device, budget_mb: int) -> None:
    """Let this process hold at most so much of the GPU, in 2^20 bytes; 0 is no limit. On a CPU it changes nothing."""
    if budget_mb and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (budget_mb << 20) / total), device)


def analyse_as_it_fits(workflow: Workflow, volume: torch.Tensor, affine: torch.Tensor) -> Answer:
    """The bundle's answer, by the first way that finds memory enough; every way gives the same voxels but for rounding.

    Raises what `analyse` raises, and MemoryError where no way found enough.
    """
    tried = []
    for way, changed in _ways(workflow):
        try:
            answer = analyse(changed, volume, affine)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            tried.append(way)
            error.__traceback__ = None  # its frames hold what did not fit
        else:
            return replace(answer, notes=(*answer.notes, *_notes(way, tried)))
        gc.collect()
        if workflow.device.type == "cuda":
            torch.cuda.empty_cache()
    raise MemoryError(f"out of memory: tried {', then '.join(tried)}")


def _ways(workflow: Workflow) -> Iterator[tuple[str, Workflow]]:
    where = "the GPU" if workflow.device.type == "cuda" else "the CPU"
    yield where, workflow
    one = _one_window(workflow)
    if one is not None:
        yield f"{where}, one window at a time", one
    if workflow.device.type == "cuda":
        # All of it anew: the parts may hold the device that they were made for.
        yield "the CPU", workflow_of(workflow.bundle, workflow.plan, torch.device("cpu"))


def _one_window(workflow: Workflow) -> Workflow | None:
    """The same with windows that are looked at one by one; None where they are already, or there are none."""
    detector, inferer = workflow.detector, workflow.inferer
    windows = inferer if detector is None else detector.inferer
    if not isinstance(windows, SlidingWindowInferer) or windows.sw_batch_size <= 1:
        return None
    one = copy.copy(windows)
    one.sw_batch_size = 1
    if detector is None:
        return replace(workflow, inferer=one)
    if vars(inferer).get("detector") is not detector:  # a bundle's own, which has it somewhere else
        return None
    changed, through = copy.copy(detector), copy.copy(inferer)
    changed.inferer = one
    vars(through)["detector"] = changed
    return replace(workflow, detector=changed, inferer=through)


def _is_out_of_memory(error: RuntimeError) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    said = [str(each).lower() for each in (error, error.__cause__) if each is not None]
    return isinstance(error.__cause__, torch.OutOfMemoryError) or any(
        words in each for words in _WORDS for each in said
    )


def _notes(way: str, tried: Sequence[str]) -> tuple[str, ...]:
    if not tried:
        return ()
    return (f"the memory was not enough for the usual way ({tried[0]}): computed on {way}",)
