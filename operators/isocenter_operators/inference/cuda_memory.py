"""GPU memory that a process shares with Triton on the same machine, by CUDA's inter-process handles.

It is not told apart from memory of a process that has ended: what Triton maps then, nobody may touch. So a region is
given back only after Triton has let go of it, and a process that is killed may take Triton's use of that GPU along.
"""

from __future__ import annotations

import base64
import ctypes
import logging
import os
import secrets
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from isocenter_operators.errors import StorageFull

__all__ = ["Cuda", "CudaRegion", "CudaRuntime", "cuda_runtime"]

_log = logging.getLogger(__name__)

_DRIVER = Path("/dev/nvidiactl")
_HANDLE_BYTES = 64  # CUDA_IPC_HANDLE_SIZE


class Cuda(Protocol):
    """The few calls of CUDA that a region is made of; addresses are on the GPU. Each raises OSError where it fails."""

    device: int

    def allocate(self, size: int) -> int: ...

    def free(self, address: int) -> None: ...

    def handle(self, address: int) -> bytes:
        """By which another process opens it."""
        ...

    def copy(self, to: int, source: int, size: int) -> None:
        """Between GPU and host, whichever is which; returns when it is done."""
        ...


class CudaRegion:
    """`size` bytes on the GPU. Raises StorageFull where it has no room for them.

    It is freed by `remove`, and by nothing else.
    """

    def __init__(self, cuda: Cuda, size: int) -> None:
        self.name = f"isocenter.cuda.{os.getpid()}.{secrets.token_hex(4)}"
        self.size = size
        self._cuda = cuda
        try:
            self._address: int | None = cuda.allocate(size)
        except OSError as error:
            raise StorageFull(
                f"GPU {cuda.device} has no room for {size / 1e6:.0f} MB: {error}", path=f"cuda:{cuda.device}"
            ) from error

    def write(self, array: NDArray[Any], offset: int) -> None:
        given = np.ascontiguousarray(array)
        self._cuda.copy(self._there() + offset, given.ctypes.data, given.nbytes)

    def read(self, dtype: DTypeLike, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
        found = np.empty(shape, dtype)
        self._cuda.copy(found.ctypes.data, self._there() + offset, found.nbytes)
        return found

    def register(self, server: Any, timeout_s: float) -> None:
        handle = base64.b64encode(self._cuda.handle(self._there()))
        server.register_cuda_shared_memory(
            self.name, handle, self._cuda.device, self.size, client_timeout=timeout_s
        )

    def unregister(self, server: Any, timeout_s: float) -> None:
        server.unregister_cuda_shared_memory(self.name, client_timeout=timeout_s)

    def abandon(self) -> None:
        """It stays as it is until the process ends: Triton may still write there."""

    def remove(self) -> None:
        """Free it. Only when Triton has unregistered it."""
        address, self._address = self._address, None
        if address is not None:
            self._cuda.free(address)

    def _there(self) -> int:
        if self._address is None:
            raise ValueError(f"{self.name} was removed")
        return self._address


def cuda_runtime(device: int = 0) -> Cuda | None:
    """CUDA on this GPU; None where there is no driver, no cuda-python, or no such GPU."""
    if not _DRIVER.exists():
        _log.info("CUDA shared memory is not used: there is no NVIDIA driver here")
        return None
    try:
        return CudaRuntime(device)
    except (ImportError, OSError) as error:
        _log.info("CUDA shared memory is not used: %s", error)
        return None


class CudaRuntime:
    """CUDA's runtime by way of cuda-python. Raises ImportError without it, OSError where there is no such GPU.

    The first call makes a CUDA context, which takes some hundred MB of the GPU for as long as the process lives.
    """

    def __init__(self, device: int) -> None:
        from cuda.bindings import runtime  # type: ignore[import-untyped]

        self.device = device
        self._runtime: Any = runtime
        if self._call("cudaGetDeviceCount") <= device:
            raise OSError(f"there is no GPU {device}")

    def allocate(self, size: int) -> int:
        return int(self._on_device("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._on_device("cudaFree", address)

    def handle(self, address: int) -> bytes:
        handle = self._on_device("cudaIpcGetMemHandle", address)
        return bytes((ctypes.c_char * _HANDLE_BYTES).from_address(handle.getPtr()))

    def copy(self, to: int, source: int, size: int) -> None:
        self._on_device("cudaMemcpy", to, source, size, self._runtime.cudaMemcpyKind.cudaMemcpyDefault)

    def _on_device(self, function: str, *arguments: Any) -> Any:
        self._call("cudaSetDevice", self.device)  # each thread has one of its own
        return self._call(function, *arguments)

    def _call(self, function: str, *arguments: Any) -> Any:
        error, *found = getattr(self._runtime, function)(*arguments)
        if error != self._runtime.cudaError_t.cudaSuccess:
            raise OSError(f"{function}: {error.name}")
        return found[0] if found else None
