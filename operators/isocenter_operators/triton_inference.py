"""The operator that has a model on Triton look at a whole volume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import numpy as np
from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.image import Image
from numpy.typing import NDArray

from isocenter_operators.errors import InputError, InvalidResult
from isocenter_operators.inference.client import InferenceClient
from isocenter_operators.inference.endpoint import Endpoint
from isocenter_operators.inference.triton import TritonClient
from isocenter_operators.run import Record
from isocenter_operators.volume import lps_affine

__all__ = ["TritonInferenceOperator"]


class TritonInferenceOperator(Operator):
    """Sends a volume and its affine, gets a label map on the same grid and any other tensors.

    The model takes `volume` INT16 [Z, Y, X] and `affine` FP64 [4, 4] (index (x, y, z, 1) to LPS mm) and returns
    `labels` UINT8 [Z, Y, X]: the names can be chosen. Nothing is resampled on this side.

    Named input: `image`: an SDK Image (Z, Y, X) with `affine` in its metadata. Values that are not int16, as the SDK's
    volume operator may give, are rounded; those that do not fit are refused. With `takes_channels` another one,
    `channels`: an Image (channels, Z, Y, X) on the same grid, which the model gets in its stead.
    Named outputs: `pred`: the label map as an Image with the input's metadata, where there is one; `tensors`: a mapping
    of name to array, the `further_outputs`.

    Parameters
    ----------
    model_name
        The model on the server; in the version that the run names, where it names one.
    label_output, masks
        The name of the output tensor that is the label map; or, where `masks` is more than 0, so many masks that may
        overlap, UINT8 [masks, Z, Y, X], which become a bool array. None: the model gives none, and there is no `pred`.
    further_outputs
        Names of output tensors besides the label map; small ones.
    client, triton_url
        The client to use, which stays open; or where to connect for this one call.
    deadline_s
        How long the call may take, the server's queue included.
    priority
        In the server's queue: 1 is served first, 0 is the model's default. A model without so many levels takes its
        default.

    Raises InferenceUnavailable, DeadlineExceeded, OutOfMemory, InputError or InvalidResult.

    Example: `TritonInferenceOperator(self, model_name="ct_lung_density", further_outputs=["measurements"])`
    """

    _takes_channels = False
    _label_output: str | None = "labels"

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        model_name: str,
        further_outputs: Sequence[str] = (),
        label_output: str | None = "labels",
        masks: int = 0,
        takes_channels: bool = False,
        client: InferenceClient | None = None,
        triton_url: str | Endpoint = "127.0.0.1:8001",
        deadline_s: float = 300.0,
        priority: int = 0,
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._model_name = model_name
        self._further_outputs = tuple(further_outputs)
        self._label_output = label_output
        self._masks = masks
        self._takes_channels = takes_channels
        self._client = client
        self._triton_url = triton_url
        self._deadline_s = deadline_s
        self._priority = priority
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        if self._takes_channels:
            spec.input("channels")
        if self._label_output is not None:
            spec.output("pred").condition(ConditionType.NONE)
        spec.output("tensors").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        image: Image = op_input.receive("image")
        channels: Image | None = op_input.receive("channels") if self._takes_channels else None
        with self._record.step("inference"), self._connection() as client:
            tensors = self._infer(client, image, image if channels is None else channels)
        if self._label_output is not None:
            op_output.emit(Image(tensors.pop(self._label_output), image.metadata()), "pred")
        # Holoscan turns a dict of arrays into its own tensors; a read-only view passes as it is.
        op_output.emit(MappingProxyType(tensors), "tensors")

    def _connection(self) -> AbstractContextManager[InferenceClient]:
        return nullcontext(self._client) if self._client else TritonClient(self._triton_url)

    def _infer(self, client: InferenceClient, image: Image, given: Image) -> dict[str, Any]:
        """given: what the model gets, on the grid of the image."""
        voxels = _int16(given.asnumpy(), self._model_name, 4 if self._takes_channels else 3)
        shape = voxels.shape[-3:]
        maps = {self._label_output: math.prod(shape) * max(1, self._masks)} if self._label_output else {}
        tensors = client.infer(
            self._model_name,
            {"volume": voxels, "affine": lps_affine(image)},
            outputs={**maps, **dict.fromkeys(self._further_outputs)},
            deadline_s=self._deadline_s,
            priority=self._priority,
            version=self._record.version_of(self._model_name),
        )
        if self._label_output is not None:
            tensors[self._label_output] = self._map(self._label_output, tensors[self._label_output], shape)
        return tensors

    def _map(self, name: str, labels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        wanted = shape if not self._masks else (self._masks, *shape)
        if labels.shape != wanted or labels.dtype != np.uint8:
            raise InvalidResult(
                f"model {self._model_name}: {name} of {labels.dtype} {labels.shape} for a volume of {shape}; "
                f"uint8 {wanted} is expected",
                model=self._model_name,
            )
        return labels.astype(bool) if self._masks else labels


def _int16(values: NDArray[Any], model: str, axes: int = 3) -> NDArray[np.int16]:
    """The voxels (Z, Y, X), or (channels, Z, Y, X), as the model takes them; never wrapped round, never cut off."""
    if values.ndim != axes or not values.size or values.dtype.kind not in "iuf":
        raise InputError(
            f"model {model}: an image of {values.dtype} {values.shape} is no volume (Z, Y, X)", model=model
        )
    if values.dtype != np.int16:
        low, high = float(values.min()), float(values.max())
        if not (low >= -32768 and high <= 32767):  # also of NaN
            raise InputError(
                f"model {model}: values from {low:g} to {high:g} do not fit 16 bits", model=model
            )
        values = np.rint(values)
    return np.ascontiguousarray(values, np.int16)
