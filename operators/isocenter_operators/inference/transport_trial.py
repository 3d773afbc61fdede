"""Whether a volume travels faster to Triton and back by CUDA shared memory than by the system's: measured, once."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import numpy as np

from isocenter_operators.errors import IsocenterError
from isocenter_operators.inference.self_test import MODEL

if TYPE_CHECKING:
    from isocenter_operators.inference.triton import TritonClient

__all__ = ["is_faster", "round_trip_s"]

_log = logging.getLogger(__name__)

_SHAPE = (64, 512, 512)  # (Z, Y, X), int16: 34 MB
_ROUNDS = 3
_DEADLINE_S = 10.0
_WORTH_IT = 0.95  # of the seconds: two runs of the same differ by less


def is_faster(cuda: TritonClient, system: TritonClient) -> bool:
    """By the model `self_test`; False where that is not there, or something fails. Both clients are closed."""
    with cuda, system:
        try:
            by_system_s = round_trip_s(system, _SHAPE)
            by_cuda_s = round_trip_s(cuda, _SHAPE)
        except (IsocenterError, OSError) as error:
            _log.info("CUDA shared memory is not used: its trial failed (%s)", error)
            return False
        if cuda.transport != "cuda_shared_memory":
            return False  # the server can not open it, which was said
        _log.info("34 MB there and back: CUDA %.3f s, system %.3f s", by_cuda_s, by_system_s)
        return by_cuda_s < _WORTH_IT * by_system_s


def round_trip_s(
    client: TritonClient, shape: tuple[int, ...], rounds: int = _ROUNDS, deadline_s: float = _DEADLINE_S
) -> float:
    """The least of so many, after one that is not counted. Raises what `infer` raises."""
    volume = np.zeros(shape, np.int16)
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        client.infer(MODEL, {"int16": volume}, outputs={"mask": volume.size}, deadline_s=deadline_s)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
