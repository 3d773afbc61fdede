"""CUDA shared memory: when it is chosen, what comes after it, and when it is freed. CUDA itself is replaced: no GPU."""

from __future__ import annotations

import base64
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_memory import HostMemory
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from isocenter_operators.errors import DeadlineExceeded, InferenceUnavailable
from isocenter_operators.inference import cuda_memory, shared_memory, transport_trial
from isocenter_operators.inference.endpoint import Endpoint
from isocenter_operators.inference.triton import TritonClient

VOLUME = np.arange(4 * 128 * 128, dtype=np.int16).reshape(4, 128, 128)  # (Z, Y, X)


class Result:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.datatype, self.shape = "INT16", shape

    def get_output(self, name: str) -> Result:
        return self


class Server:
    """What tritonclient's client does, with a model that inverts `int16`; `held`: answers that are not given yet."""

    def __init__(self) -> None:
        self.known: dict[str, Callable[[int, int], NDArray[Any]]] = {}
        self.asked: list[str] = []
        self.refuses_cuda = False
        self.held: list[Callable[[], None]] | None = None

    def register_cuda_shared_memory(
        self, name: str, handle: bytes, device: int, size: int, client_timeout: float
    ) -> None:
        self.asked.append("cuda")
        if self.refuses_cuda:
            raise InferenceServerException("failed to open CUDA IPC handle", "StatusCode.INTERNAL")
        assert device == 1
        address = int.from_bytes(base64.b64decode(handle), "little")
        buffer = (ctypes.c_char * size).from_address(address)
        self.known[name] = lambda offset, count: np.frombuffer(buffer, np.int16, count, offset)

    def unregister_cuda_shared_memory(self, name: str, client_timeout: float) -> None:
        self.known.pop(name)

    unregister_system_shared_memory = unregister_cuda_shared_memory

    def register_system_shared_memory(self, name: str, key: str, size: int, client_timeout: float) -> None:
        self.asked.append("system")
        file = shared_memory.SHARED_MEMORY / name

        def view(offset: int, count: int) -> NDArray[Any]:
            return np.memmap(file, np.int16, "r+", offset, (count,))

        self.known[name] = view

    def async_infer(self, callback: Callable[[Any, Any], None], **arguments: Any) -> None:
        (given,), (wanted,) = arguments["inputs"], arguments["outputs"]
        shape = tuple(given.shape())

        def answer() -> None:
            source, target = (
                each._get_tensor().parameters["shared_memory_region"].string_param for each in (given, wanted)
            )
            offsets = [
                each._get_tensor().parameters["shared_memory_offset"].int64_param for each in (given, wanted)
            ]
            count = int(np.prod(shape))
            found = ~self.known[source](offsets[0], count)
            self.known[target](offsets[1], count)[:] = found
            callback(Result(shape), None)

        if self.held is None:
            answer()
        else:
            self.held.append(answer)

    def get_server_metadata(self, client_timeout: float) -> Any:
        raise InferenceServerException("not of interest here")

    def close(self) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """Whatever connects gets this one. No shared memory of the system is left behind."""
    server = Server()
    monkeypatch.setattr(Endpoint, "connected", lambda self, channel=None: server)
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path)
    yield server
    assert not list(tmp_path.iterdir())


@pytest.fixture
def cuda() -> HostMemory:
    return HostMemory()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What a volume takes there and back in the trial, by kind, s; `trials` counts."""
    seconds = {"cuda": 0.1, "system": 0.2, "trials": 0.0}

    def round_trip_s(client: TritonClient, shape: tuple[int, ...]) -> float:
        inverted(client)
        seconds["trials"] += 1
        return seconds["cuda" if client.transport == "cuda_shared_memory" else "system"]

    monkeypatch.setattr(transport_trial, "round_trip_s", round_trip_s)
    return seconds


def inverted(client: TritonClient, deadline_s: float = 5) -> None:
    found = client.infer("any", {"int16": VOLUME}, outputs={"int16": VOLUME.nbytes}, deadline_s=deadline_s)
    np.testing.assert_array_equal(found["int16"], ~VOLUME)


def test_volumes_go_through_the_gpu_where_that_is_faster(
    server: Server, cuda: HostMemory, measured: dict[str, float]
) -> None:
    with TritonClient("any:1", cuda=cuda) as client:
        assert client.transport is None
        for _ in range(3):
            inverted(client)
            assert client.transport == "cuda_shared_memory"
        assert measured["trials"] == 2  # once each way
        assert server.asked == ["system", "cuda", "cuda"]  # the trial's two, and one region used again
        assert len(cuda.held) == len(server.known) == 1
    assert not cuda.held
    assert not server.known


def test_where_it_is_not_faster_it_is_never_used(
    server: Server, cuda: HostMemory, measured: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    measured["cuda"] = 0.195
    with TritonClient("any:1", cuda=cuda) as client:
        inverted(client)
        inverted(client)
        assert client.transport == "shared_memory"
        assert measured["trials"] == 2
        assert not cuda.held  # what the trial took is given back
        assert "CUDA 0.195 s, system 0.200 s" in caplog.text


def test_a_server_that_can_not_open_it_gets_the_systems(
    server: Server, cuda: HostMemory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server.refuses_cuda = True
    with TritonClient("any:1", cuda=cuda) as client:
        # Without a trial: by itself it would need the model self_test.
        client._shared[0].worth_it = None
        inverted(client)
        inverted(client)
        assert client.transport == "shared_memory"
        assert server.asked == ["cuda", "system"]
        assert not cuda.held
    assert "through shared memory: no CUDA shared memory (failed to open CUDA IPC handle)" in caplog.text


def test_a_trial_that_fails_decides_for_the_systems(
    server: Server, cuda: HostMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def no_model(client: TritonClient, shape: tuple[int, ...]) -> float:
        raise InferenceUnavailable("there is no model 'self_test'", model="self_test")

    monkeypatch.setattr(transport_trial, "round_trip_s", no_model)
    with TritonClient("any:1", cuda=cuda) as client:
        inverted(client)
        assert client.transport == "shared_memory"
    assert "its trial failed (there is no model 'self_test')" in caplog.text


def test_a_full_or_broken_gpu_harms_no_request(server: Server, cuda: HostMemory) -> None:
    with TritonClient("any:1", cuda=cuda) as client:
        client._shared[0].worth_it = None
        cuda.full = True
        inverted(client)
        assert server.asked == ["system"]
        cuda.full = False  # what fits goes there again
        inverted(client)
        assert server.asked == ["system", "cuda"]
        cuda.broken = True
        inverted(client)
        assert client.transport == "shared_memory"
    assert not cuda.held


def test_a_late_answer_finds_its_region_as_it_was(server: Server, cuda: HostMemory) -> None:
    with TritonClient("any:1", shared_memory=False, cuda=cuda) as client:
        server.held = []
        with pytest.raises(DeadlineExceeded):
            inverted(client, deadline_s=0.5)
        late, server.held = server.held, None
        inverted(client)  # in another region
        assert len(cuda.held) == len(server.known) == 2
        late[0]()
        inverted(client)
        assert server.asked == ["cuda", "cuda"]  # it came back, and is lent again
    assert not cuda.held


def test_what_the_server_may_still_write_to_is_not_freed(server: Server, cuda: HostMemory) -> None:
    with TritonClient("any:1", shared_memory=False, cuda=cuda) as client:
        server.held = []
        with pytest.raises(DeadlineExceeded):
            inverted(client, deadline_s=0.5)
        (late,) = server.held
    assert len(cuda.held) == 1
    late()  # after the end
    assert len(cuda.held) == len(server.known) == 1


def test_without_a_driver_there_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(cuda_memory, "_DRIVER", tmp_path / "nvidiactl")
    assert cuda_memory.cuda_runtime() is None
    assert "no NVIDIA driver" in caplog.text


@pytest.mark.skipif(cuda_memory._DRIVER.exists(), reason="there is a GPU")
def test_a_driver_without_a_gpu_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(cuda_memory, "_DRIVER", tmp_path)
    assert cuda_memory.cuda_runtime() is None  # by cuda-python itself
    assert "CUDA shared memory is not used: " in caplog.text


@pytest.mark.skipif(not cuda_memory._DRIVER.exists(), reason="needs a GPU")
def test_cuda_gives_back_what_was_written() -> None:
    cuda = cuda_memory.cuda_runtime()
    assert cuda is not None
    region = cuda_memory.CudaRegion(cuda, VOLUME.nbytes + 64)
    region.write(VOLUME[:, ::-1], 64)
    np.testing.assert_array_equal(region.read(np.int16, VOLUME.shape, 64), VOLUME[:, ::-1])
    assert len(cuda.handle(region._there())) == 64
    region.remove()
