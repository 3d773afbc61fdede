"""A model looked at from outside: what it makes of the phantom, how long that takes, and how much memory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

if TYPE_CHECKING:
    from isocenter.settings import Settings
    from isocenter_operators.inference.client import Tensor
    from isocenter_operators.manifest import AppManifest

__all__ = ["CheckedBox", "ModelCheck", "checked"]

_MOST_BOXES = 10
_WITH_BOXES = ("scores", "classes")
_PHANTOM = {"size": (128, 96, 48), "spacing_mm": (2.8, 2.8, 6.5)}  # (x, y, z): a thorax on a coarse grid


@dataclass(frozen=True)
class CheckedBox:
    """One box on the phantom: LPS mm, and the score from 0 to 1."""

    label: int
    score: float
    centre_mm: tuple[float, float, float]
    size_mm: tuple[float, float, float]


@dataclass(frozen=True)
class ModelCheck:
    """One model on the phantom. Shapes are (Z, Y, X), of boxes (boxes, 6). `found` counts voxels by label, or by mask
    from 1, and of boxes those of each class. `boxes`: the ten surest of them.

    `first_s` is the first call after the model was loaded, `again_s` the next one. `peak_mb` is the most that its
    process ever held, in 2^20 bytes; None where it runs on another machine.
    """

    model: str
    version: str
    given: tuple[int, ...]
    output: str
    answered: tuple[int, ...]
    found: Mapping[int, int]
    boxes: tuple[CheckedBox, ...]
    notes: tuple[str, ...]
    same_twice: bool
    first_s: float
    again_s: float
    peak_mb: int | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def checked(settings: Settings, app: AppManifest, model: str) -> ModelCheck:
    """Send the phantom to the model twice. Raises what `InferenceClient.infer` does, and what starting Triton does."""
    from isocenter.worker.model_process import Server
    from isocenter_operators.inference.triton import TritonClient
    from isocenter_operators.testing import thorax_phantom

    phantom = thorax_phantom(**_PHANTOM)  # type: ignore[arg-type]
    volume = np.ascontiguousarray(phantom.hu, np.int16)
    given = np.stack([volume] * series) if (series := _series(app)) > 1 else volume
    output, count = _output(app)
    further = dict.fromkeys((*(_WITH_BOXES if output == "boxes" else ()), "findings"))
    version = app.models[model]

    def ask(client: TritonClient) -> tuple[dict[str, Tensor], float]:
        begun = time.monotonic()
        answer = client.infer(
            model,
            {"volume": given, "affine": phantom.affine},
            outputs={output: volume.size * count or None, **further},
            deadline_s=app.deadline_s,
            version=version,
        )
        return answer, time.monotonic() - begun

    with _served(settings, model, version) as serving, TritonClient(serving.triton.endpoint) as client:
        (first, first_s), (again, again_s) = ask(client), ask(client)
        server = Server.running(serving)
        processes = server.models() if server is not None else []
        peaks_mb = [
            _peak_mb(each.process.pid) for each in processes if (each.model, each.version) == (model, version)
        ]
    return ModelCheck(
        model=model,
        version=version,
        given=volume.shape,
        output=output,
        answered=first[output].shape,
        found=_found(first[output]) if output != "boxes" else _counted(first["classes"]),
        boxes=_boxes(first) if output == "boxes" else (),
        notes=tuple(json.loads(first["findings"].tobytes()).get("notes", ())),
        same_twice=bool(
            np.array_equal(first[output], again[output], equal_nan=output in ("classes", "values"))
        ),
        first_s=first_s,
        again_s=again_s,
        peak_mb=max(peaks_mb, default=None),
    )


@contextmanager
def _served(settings: Settings, model: str, version: str) -> Iterator[Settings]:
    """Settings of a server that has the model: the running one, or one for this check only."""
    from isocenter.cli.run import serves
    from isocenter.model_loading import load_missing
    from isocenter.stack.ports import any_for_triton
    from isocenter.stack.triton import running_triton

    load_missing(settings, {model: version})
    if not settings.triton.embedded or serves(settings, {model: version}):
        yield settings
        return
    own = any_for_triton(settings)
    with running_triton(own, (model,)):
        yield own


def _series(app: AppManifest) -> int:
    """How many series the model takes."""
    said = yaml.safe_load((app.folder / "app.yaml").read_text()).get("bundle", {})
    return len(said.get("sequences", ())) or 1


def _output(app: AppManifest) -> tuple[str, int]:
    """The name of the output that is shown, and how many maps it holds."""
    said = yaml.safe_load((app.folder / "app.yaml").read_text()).get("bundle", {})
    if said.get("output") == "masks":
        return "masks", len(said["labels"])
    if said.get("output") in ("boxes", "classes", "values"):
        return str(said["output"]), 0
    return "labels", 1


def _found(output: Tensor) -> dict[int, int]:
    if output.ndim < 3:  # classes or values: what they are is in a report, not in voxels
        return {}
    if output.ndim == 4:
        return {number: int(np.count_nonzero(mask)) for number, mask in enumerate(output, 1)}
    return _counted(output)


def _boxes(answer: Mapping[str, Tensor]) -> tuple[CheckedBox, ...]:
    scores = np.asarray(answer["scores"], np.float64)
    surest = np.argsort(-scores, kind="stable")[:_MOST_BOXES]
    return tuple(
        CheckedBox(int(answer["classes"][place]), float(scores[place]), (x, y, z), (width, depth, height))
        for place in surest
        for x, y, z, width, depth, height in (answer["boxes"][place].tolist(),)
    )


def _counted(labels: Tensor) -> dict[int, int]:
    numbers, counts = np.unique(labels, return_counts=True)
    return {
        int(number): int(count)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
        if number
    }


def _peak_mb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) >> 10
