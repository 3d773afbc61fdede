"""The inference client and the embedded server, against a real tritonserver."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from host_memory import HostMemory
from numpy.typing import NDArray
from ports import free_port
from tritonclient.grpc import InferenceServerClient

from isocenter.settings import Settings, TritonSettings
from isocenter.stack.child import Child
from isocenter.stack.triton import running_triton, triton_child
from isocenter.stack.triton_process import remove_leftovers
from isocenter_operators.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InferenceUnavailable,
    InputError,
)
from isocenter_operators.inference import shared_memory
from isocenter_operators.inference.self_test import self_test
from isocenter_operators.inference.shared_memory import PREFIX, SHARED_MEMORY
from isocenter_operators.inference.triton import TritonClient

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SHAPE = (20, 128, 128)  # (Z, Y, X)


@pytest.fixture
def client(triton_url: str) -> Iterator[TritonClient]:
    with TritonClient(triton_url) as client:
        yield client


@pytest.fixture
def volume() -> NDArray[np.int16]:
    return np.random.default_rng(7).integers(-1024, 3000, SHAPE, dtype=np.int16)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """For a Triton of one test's own."""
    return Settings(
        data_dir=tmp_path,
        triton=TritonSettings(
            http_port=free_port(),
            grpc_port=free_port(),
            metrics_port=free_port(),
            model_repository=ROOT / "triton_models",
            device="cpu",
        ),
    )


def _names(process_id: int | None = None, kind: str = PREFIX) -> set[str]:
    """What one process, this one by default, has in shared memory; other tests may run on the machine."""
    return {path.name for path in SHARED_MEMORY.glob(f"{kind}{process_id or os.getpid()}.*")}


def _registered(url: str) -> set[str]:
    with InferenceServerClient(url) as server:
        return set(server.get_system_shared_memory_status().regions)


def _inverted(client: TritonClient, volume: NDArray[np.int16], *, sleep_ms: int = 0) -> NDArray[np.int16]:
    tensors = client.infer(
        "self_test",
        {"int16": volume},
        outputs={"int16": volume.nbytes},
        deadline_s=20,
        parameters={"sleep_ms": sleep_ms},
    )
    return tensors["int16"]


def test_tensors_of_every_kind_survive_the_python_backend(client: TritonClient) -> None:
    report = self_test(client)
    assert report.device in ("cpu", "cuda")
    assert report.prefix == sys.prefix  # the models see this environment
    assert report.torch.startswith("2.")
    assert report.scipy
    assert report.python == sys.version.split()[0]


def test_both_transports_are_used_and_give_the_same(triton_url: str, volume: NDArray[np.int16]) -> None:
    inputs: dict[str, NDArray[Any]] = {"int16": volume, "uint8": np.arange(9, dtype=np.uint8)}
    outputs: dict[str, int | None] = {
        "report": None,
        "mask": volume.size,
        "uint8": None,
        "int16": volume.nbytes,
    }
    results = {}
    for shared in (True, False):
        with TritonClient(triton_url, shared_memory=shared) as client:
            before = _registered(triton_url)
            results[shared] = client.infer("self_test", inputs, outputs=outputs, deadline_s=20)
            assert client.transport == ("shared_memory" if shared else "grpc")
            assert len(_registered(triton_url) - before) == int(shared)
    for name in ("mask", "uint8", "int16"):
        np.testing.assert_array_equal(results[True][name], results[False][name])
    np.testing.assert_array_equal(results[True]["mask"], volume < 0)
    np.testing.assert_array_equal(results[True]["uint8"], ~inputs["uint8"])
    assert results[True]["int16"].dtype == np.int16


def test_a_result_belongs_to_the_caller(client: TritonClient, volume: NDArray[np.int16]) -> None:
    first = _inverted(client, volume)
    _inverted(client, np.zeros_like(volume))  # goes through the same region
    np.testing.assert_array_equal(first, ~volume)
    first[:] = 0  # writable
    assert len(_names()) == 1


def test_a_volume_that_is_not_contiguous_keeps_its_order(
    client: TritonClient, volume: NDArray[np.int16]
) -> None:
    flipped = volume[::-1, :, ::2].transpose(2, 0, 1)
    np.testing.assert_array_equal(_inverted(client, flipped), ~flipped)


def test_small_tensors_need_no_shared_memory(client: TritonClient) -> None:
    small = np.ones((2, 3, 4), np.int16)
    np.testing.assert_array_equal(_inverted(client, small), ~small)
    assert client.transport is None
    assert not _names()


def test_four_threads_do_not_mix_their_volumes(client: TritonClient) -> None:
    def round_trip(value: int) -> bool:
        volume = np.full(SHAPE, value, np.int16)
        return bool((_inverted(client, volume) == ~value).all())

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(round_trip, range(24)))
    assert 1 <= len(_names()) <= 4
    client.close()
    assert not _names()


@pytest.mark.parametrize("shared", [True, False])
def test_a_deadline_is_kept_and_the_late_answer_harms_nobody(
    triton_url: str, volume: NDArray[np.int16], shared: bool
) -> None:
    zeros = np.zeros_like(volume)
    with TritonClient(triton_url, shared_memory=shared) as client:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=re.escape("'self_test'")):
            client.infer(
                "self_test",
                {"int16": volume},
                outputs={"int16": volume.nbytes},
                deadline_s=0.3,
                parameters={"sleep_ms": 1000},
            )
        assert time.monotonic() - started < 0.8
        lent = _names()
        results = [_inverted(client, zeros) for _ in range(3)]  # the first of them waits for the late answer
        assert all((result == -1).all() for result in results)
        assert len(lent) == int(shared)
        assert lent <= _names()
        again = _names()
        _inverted(client, zeros)
        assert _names() == again  # and the late one's region is idle, not lost


def test_what_nobody_waits_for_any_more_is_not_computed(
    client: TritonClient, volume: NDArray[np.int16]
) -> None:
    with ThreadPoolExecutor(1) as thread:
        busy = thread.submit(_inverted, client, volume, sleep_ms=600)
        time.sleep(0.2)
        with pytest.raises(DeadlineExceeded):
            client.infer(
                "self_test",
                {"int16": volume},
                outputs={"int16": volume.nbytes},
                deadline_s=0.2,
                parameters={"sleep_ms": 3000},
            )
        busy.result()
    started = time.monotonic()
    _inverted(client, volume)
    assert time.monotonic() - started < 1.5


def test_errors_say_what_to_do(client: TritonClient, volume: NDArray[np.int16]) -> None:
    with pytest.raises(InferenceUnavailable, match=r"has no model 'nonsense'.*load it"):
        client.infer("nonsense", {"int16": volume}, outputs={"int16": volume.nbytes}, deadline_s=5)
    with pytest.raises(InferenceUnavailable, match="'nonsense'"):
        client.model_version("nonsense")
    assert not client.ready("nonsense")
    with pytest.raises(InputError, match=r"refuses this input: .*unexpected shape for input 'int16'"):
        client.infer("self_test", {"int16": volume[0]}, outputs={"int16": volume.nbytes}, deadline_s=5)
    with pytest.raises(InputError, match="without the input 'uint8'"):
        client.infer("self_test", {"int16": volume}, outputs={"uint8": None}, deadline_s=5)
    with pytest.raises(InputError, match="bound given for an output is too small"):
        client.infer("self_test", {"int16": volume}, outputs={"int16": volume.nbytes // 2}, deadline_s=5)
    with pytest.raises(InputError, match="elements of type <U4"):
        client.infer("self_test", {"int16": np.array(["text"])}, outputs={"int16": None}, deadline_s=5)
    unsupported: Any = {"window": [40, 400]}
    with pytest.raises(InputError, match="parameter datatype"):
        client.infer("self_test", {}, outputs={"report": None}, deadline_s=5, parameters=unsupported)
    np.testing.assert_array_equal(_inverted(client, volume), ~volume)
    assert client.ready("self_test")
    assert client.model_version("self_test") == "1"


def test_a_closed_connection_says_so(triton_url: str, volume: NDArray[np.int16]) -> None:
    client = TritonClient(triton_url)
    client.close()
    with pytest.raises(InferenceUnavailable, match="closed"):
        _inverted(client, volume)
    with pytest.raises(InferenceUnavailable, match="closed"):
        client.model_version("self_test")
    assert not client.ready("self_test")
    assert not _names()


def test_a_server_that_can_not_open_the_memory_gets_grpc(
    client: TritonClient,
    volume: NDArray[np.int16],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path)  # as in a container without the host's IPC
    caplog.set_level("INFO")
    for _ in range(2):
        np.testing.assert_array_equal(_inverted(client, volume), ~volume)
    assert client.transport == "grpc"
    assert (
        len([line for line in caplog.messages if "through gRPC: no shared memory (Unable to open" in line])
        == 1
    )
    assert not list(tmp_path.iterdir())


def test_a_server_that_can_not_open_gpu_memory_gets_the_systems(
    triton_url: str, volume: NDArray[np.int16], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cuda = HostMemory()  # whose handles no server can open
    with TritonClient(triton_url, cuda=cuda) as client:
        for _ in range(2):
            np.testing.assert_array_equal(_inverted(client, volume), ~volume)
        assert client.transport == "shared_memory"
    assert not cuda.held
    assert len([line for line in caplog.messages if "no CUDA shared memory (" in line]) == 1
    with TritonClient(triton_url, shared_memory=False, cuda=cuda) as client:
        np.testing.assert_array_equal(_inverted(client, volume), ~volume)
        assert client.transport == "grpc"


def test_a_full_shared_memory_falls_back_to_grpc(
    client: TritonClient, volume: NDArray[np.int16], caplog: pytest.LogCaptureFixture
) -> None:
    tensors = client.infer("self_test", {"int16": volume}, outputs={"int16": 1 << 50}, deadline_s=20)
    np.testing.assert_array_equal(tensors["int16"], ~volume)
    assert "slower: /dev/shm has no room for 1125899" in caplog.text
    assert not _names()
    _inverted(client, volume)
    assert client.transport == "shared_memory"  # what fits still goes there


@contextmanager
def _other_process(url: str, sleep_ms: int) -> Iterator[int]:
    """A process that has sent one request, and another one that takes `sleep_ms`; killed at the end."""
    script = (
        "import sys, threading, time, numpy as np\n"
        "from isocenter_operators.inference.triton import TritonClient\n"
        "client = TritonClient(sys.argv[1])\n"
        "volume = np.zeros((20, 128, 128), np.int16)\n"
        "keywords = dict(outputs={'int16': volume.nbytes}, deadline_s=20)\n"
        "client.infer('self_test', {'int16': volume}, **keywords)\n"
        "print('sent', flush=True)\n"
        "client.infer('self_test', {'int16': volume}, parameters={'sleep_ms': int(sys.argv[2])}, **keywords)\n"
        "time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", script, url, str(sleep_ms)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "sent\n"
            yield process.pid
        finally:
            process.kill()


def test_the_regions_of_a_killed_client_are_removed(
    client: TritonClient, triton_url: str, volume: NDArray[np.int16]
) -> None:
    with _other_process(triton_url, sleep_ms=0) as other:
        left = _names(other)
        assert len(left) == 1
        assert left <= _registered(triton_url)
        with TritonClient(triton_url) as third:
            _inverted(third, volume)
            assert _names(other) == left  # a living process keeps its region
            assert left <= _registered(triton_url)
    assert _names(other) == left
    _inverted(client, volume)
    assert not _names(other)
    assert not left & _registered(triton_url)


def test_a_client_killed_during_its_request_does_not_harm_the_server(
    client: TritonClient, triton_url: str, volume: NDArray[np.int16]
) -> None:
    with _other_process(triton_url, sleep_ms=1000) as other:
        time.sleep(0.2)
        left = _names(other)
    np.testing.assert_array_equal(_inverted(client, volume), ~volume)  # cleans up, waits for the other's end
    assert not _names(other)
    with TritonClient(triton_url) as later:
        np.testing.assert_array_equal(_inverted(later, volume), ~volume)
    assert not left & _registered(triton_url)


def test_a_process_that_forgets_to_close_leaves_no_names(triton_url: str) -> None:
    script = (
        "import os, sys, numpy as np\n"
        "from isocenter_operators.inference.triton import TritonClient\n"
        "client = TritonClient(sys.argv[1])\n"
        "volume = np.zeros((20, 128, 128), np.int16)\n"
        "client.infer('self_test', {'int16': volume}, outputs={'int16': volume.nbytes}, deadline_s=20)\n"
        "print(os.getpid(), client.transport)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, triton_url], capture_output=True, text=True, check=True
    )
    process_id, transport = ended.stdout.split()
    assert transport == "shared_memory"
    assert ended.stderr == ""
    assert not _names(int(process_id))


def test_clients_outlive_their_server(settings: Settings, volume: NDArray[np.int16]) -> None:
    url = settings.triton.grpc_url
    with TritonClient(url) as client, TritonClient(url) as idle:
        with running_triton(settings, ["self_test"]):
            np.testing.assert_array_equal(_inverted(idle, volume), ~volume)
            known_to_idle = _names()
            killed, left = _kill_during_a_request(settings, client, volume)
        assert not psutil.wait_procs(killed, timeout=3)[1]
        assert left  # a killed group can not clean up; leaving the block does
        assert not _names(killed[0].pid, "isocenter.triton.")

        with pytest.raises(InferenceUnavailable, match="start it, or correct"):
            _inverted(client, volume)
        child = triton_child(settings, ["self_test"])
        assert "does not answer" in (child.ready() or "")

        with running_triton(settings, ["self_test"]):
            assert child.ready() is None
            _wait_until(lambda: client.ready("self_test") and idle.ready("self_test"))
            assert not _registered(url)
            np.testing.assert_array_equal(_inverted(idle, volume), ~volume)
            assert _registered(url) == known_to_idle  # its region was made known again, and used
            np.testing.assert_array_equal(_inverted(client, volume), ~volume)
            assert client.transport == idle.transport == "shared_memory"
            assert _registered(url) == _names()
            processes = [_server(settings), *_server(settings).children()]
            _says_in_time_that_it_hangs(child, processes[0])
        assert len(processes) > 1
        assert not [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert not _names()


def _says_in_time_that_it_hangs(child: Child, server: psutil.Process) -> None:
    server.suspend()
    started = time.monotonic()
    missing = child.ready()
    server.resume()
    assert time.monotonic() - started < 2
    assert re.search(r"said nothing within|gave no answer within", missing or "")


def _kill_during_a_request(
    settings: Settings, client: TritonClient, volume: NDArray[np.int16]
) -> tuple[list[psutil.Process], set[str]]:
    """The processes that were killed, and the shared memory they left."""
    server = _server(settings)
    processes = [server, *server.children()]
    with ThreadPoolExecutor(1) as thread:
        _inverted(client, volume)
        waiting = thread.submit(_inverted, client, volume, sleep_ms=5000)
        time.sleep(0.3)
        os.killpg(server.pid, signal.SIGKILL)
        with pytest.raises(InferenceUnavailable, match=re.escape(client.url)):
            waiting.result()
    return processes, _names(server.pid, "isocenter.triton.")


def _wait_until(true: Callable[[], bool], within_s: float = 2.0) -> None:
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_killed_owner_takes_its_server_with_it(settings: Settings) -> None:
    script = (
        "import sys, time\n"
        "from isocenter.settings import Settings\n"
        "from isocenter.stack.triton import running_triton\n"
        "with running_triton(Settings.model_validate_json(sys.argv[1]), ['self_test']):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", script, settings.model_dump_json()]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        server = _server(settings)
        processes = [server, *server.children()]
        process.kill()
    assert not psutil.wait_procs(processes, timeout=8)[1]
    remove_leftovers()
    assert not _names(server.pid, "isocenter.triton.")


def test_a_model_that_can_not_be_loaded_is_named(settings: Settings, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    for name in ("self_test", "broken"):
        (repository / name).mkdir(parents=True)
        config = (ROOT / "triton_models/self_test/config.pbtxt").read_text()
        (repository / name / "config.pbtxt").write_text(config.replace("self_test", name))
    (repository / "self_test" / "1").symlink_to(ROOT / "triton_models/self_test/1")
    (repository / "broken" / "1").mkdir()
    (repository / "broken" / "1" / "model.py").write_text("import no_such_package\n")
    triton = settings.triton.model_copy(update={"model_repository": repository})
    settings = settings.model_copy(update={"triton": triton})
    with (
        pytest.raises(InferenceUnavailable, match=r"'broken'.*no_such_package.*run\.log"),
        running_triton(settings, ["broken"]),
    ):
        pass
    with pytest.raises(
        ConfigurationError, match=r"triton\.model_repository: .* has no model 'absent', only broken"
    ):
        triton_child(settings, ["absent"])


def test_a_port_in_use_is_named(triton_url: str, settings: Settings) -> None:
    taken = settings.triton.model_copy(update={"grpc_port": int(triton_url.split(":")[1])})
    with (
        pytest.raises(
            ConfigurationError, match=rf"triton\.grpc_port: {triton_url} can not be used: Address already"
        ),
        running_triton(settings.model_copy(update={"triton": taken}), ["self_test"]),
    ):
        pass


def _server(settings: Settings) -> psutil.Process:
    option = f"--grpc-port={settings.triton.grpc_port}"
    for process in psutil.process_iter():
        try:
            if "tritonserver" in process.name() and option in process.cmdline():
                return process
        except psutil.NoSuchProcess:
            continue
    raise AssertionError("no tritonserver on this port")
