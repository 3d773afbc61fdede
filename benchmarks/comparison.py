"""Ours against a peer's, side by side in one run, so that a noisy machine is noisy for both."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Comparison", "machine", "side_by_side", "write_results"]


@dataclass(frozen=True)
class Comparison:
    """One benchmark. `ours` and `peer` in `unit`, smaller is better; `ratio` is peer / ours."""

    name: str
    ours: float
    peer: float | None
    unit: str
    against: str  # who the peer is
    machine: str

    @property
    def ratio(self) -> float | None:
        return None if self.peer is None else self.peer / self.ours

    def as_json(self) -> dict[str, object]:
        return {
            "ours": round(self.ours, 4),
            "peer": None if self.peer is None else round(self.peer, 4),
            "ratio": None if self.ratio is None else round(self.ratio, 2),
            "unit": self.unit,
            "against": self.against,
            "machine": self.machine,
        }


def side_by_side(
    name: str, ours: Callable[[], object], peer: Callable[[], object], *, against: str, rounds: int = 5
) -> Comparison:
    """Median seconds of each, run in turn after one uncounted round of both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for run, taken in zip((ours, peer), seconds, strict=True):
            started = time.perf_counter()
            run()
            if round_:
                taken.append(time.perf_counter() - started)
    return Comparison(
        name, statistics.median(seconds[0]), statistics.median(seconds[1]), "s", against, machine()
    )


def machine() -> str:
    """The processor and, where torch sees one, the graphics card."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores{card}"


def write_results(results: Mapping[str, object]) -> Path:
    """Write these entries to results.json beside this file, and give it. The others stay."""
    file = Path(__file__).with_name("results.json")
    there = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**there, **results}, indent=2) + "\n")
    return file
