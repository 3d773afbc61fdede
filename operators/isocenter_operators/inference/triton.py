"""Triton Inference Server behind the inference client: large tensors by shared memory where both sides have it.

Triton's gRPC protocol is the KServe one with Triton's extensions for system shared memory, request parameters and
priorities.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import Any, Literal, Self, cast

from numpy.typing import NDArray
from tritonclient import grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from isocenter_operators.errors import (
    DeadlineExceeded,
    InferenceUnavailable,
    InputError,
    IsocenterError,
    StorageFull,
)
from isocenter_operators.inference.client import NO_PARAMETERS, Parameters
from isocenter_operators.inference.cuda_memory import Cuda
from isocenter_operators.inference.endpoint import Endpoint
from isocenter_operators.inference.regions import Layout, Region, RegionPool
from isocenter_operators.inference.request import MESSAGE_LIMIT, Request, first_line, status_of, translated
from isocenter_operators.inference.shared_memory import (
    PREFIX,
    SHARED_MEMORY,
    abandoned,
    remove_abandoned,
)
from isocenter_operators.inference.sharing import Sharing, cuda_sharing, system_sharing
from isocenter_operators.inference.transport_trial import is_faster
from isocenter_operators.inference.version_state import VersionState

__all__ = ["TritonClient"]

_log = logging.getLogger(__name__)

_COUNTS_USE_OF_REGIONS = (
    2,
    50,
)  # the first Triton that refuses to unregister a region in use instead of crashing
_AWAY = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}
_DONE_WITH_REGION = {"", "INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "ALREADY_EXISTS", "UNIMPLEMENTED"}
_CHANNEL = [
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    # A restarted server is found again at once; by itself gRPC waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),  # in spite of its name: how long one attempt may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
]


class _RegionsForgotten(Exception):
    """The server does not know a region that we had registered: it was restarted."""


class TritonClient:
    """An InferenceClient on Triton's gRPC endpoint: an `Endpoint`, or its URL alone ("127.0.0.1:8001").

    Large tensors go through POSIX shared memory if the server can open it, which the first large request tries,
    and inside the gRPC messages otherwise (2 GiB per message at most). `shared_memory=False` does not try. `cuda`: also
    through memory of this GPU, where a first volume is faster by it; None: never. It takes a CUDA context in this
    process, and see `cuda_memory` for what it means to be killed then.
    `idle_bytes` is how much shared memory is kept for the next request, `control_deadline_s` how long a question
    that computes nothing (is this model ready?) may take.

    Triton does not stop a Python model that is already computing. After a deadline the request's region stays
    lent until the server has answered after all, so a late answer never lands in another request's tensors. A
    request that still waits in the server's queue is dropped there if the model's configuration says
    `default_queue_policy { timeout_action: REJECT  allow_timeout_override: true }` beside a default timeout.
    """

    def __init__(
        self,
        where: str | Endpoint,
        *,
        shared_memory: bool = True,
        cuda: Cuda | None = None,
        idle_bytes: int = 1 << 30,
        control_deadline_s: float = 5.0,
    ) -> None:
        endpoint = Endpoint.of(where)
        self.url = endpoint.url
        self._control_deadline_s = control_deadline_s
        self._server = endpoint.connected(_CHANNEL)
        self._shared: list[Sharing] = []  # the first that can be had is used
        if shared_memory and SHARED_MEMORY.is_dir():
            self._shared.append(system_sharing(idle_bytes))
        if cuda is not None:
            worth_it = partial(_cuda_is_faster, endpoint, cuda) if self._shared else None
            self._shared.insert(0, cuda_sharing(cuda, idle_bytes, worth_it))

    @property
    def transport(self) -> Literal["cuda_shared_memory", "shared_memory", "grpc"] | None:
        """How large tensors travel; None until it has been tried."""
        for sharing in self._shared:
            if sharing.usable is not False:
                return sharing.kind if sharing.usable else None
        return "grpc"

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        *,
        outputs: Mapping[str, int | None],
        deadline_s: float,
        parameters: Parameters = NO_PARAMETERS,
        priority: int = 0,
        version: str = "",
    ) -> dict[str, NDArray[Any]]:
        """See InferenceClient.infer."""
        request = Request(self.url, model, inputs, outputs, deadline_s, parameters, priority, version)
        try:
            return self._infer(request, Layout.of(inputs, outputs))
        except IsocenterError as error:
            error.version = version or None
            raise

    def _infer(self, request: Request, layout: Layout) -> dict[str, NDArray[Any]]:
        for _ in range(3):
            lent = self._lent(request, layout)
            if lent is None:
                break
            sharing, region = lent
            try:
                return self._infer_shared(request, layout, sharing.pool, region)
            except _RegionsForgotten:
                for each in self._shared:
                    each.pool.forget_registrations()
            except OSError as error:  # of a copy to the GPU or back
                self._share_no_more(sharing, str(error))
            finally:
                self._let_go(sharing.pool, sharing.pool.trim())
        request.refuse_oversize()
        return request.tensors(self._wait(request, self._send(request, None, None)), None, None)

    def model_version(self, model: str) -> str:
        """See InferenceClient.model_version."""
        try:
            metadata = self._server.get_model_metadata(model, client_timeout=self._control_deadline_s)
        except InferenceServerException as error:
            raise translated(error, model, self.url, self._silent(model)) from error
        except ValueError as error:
            raise self._closed(model) from error
        if not metadata.versions:
            raise InferenceUnavailable(self.why_not_ready(model) or f"{model!r} has no version", model=model)
        return str(max(metadata.versions, key=int))

    def versions(self) -> dict[str, list[str]]:
        """Of each model in the server's repository the versions that would take a request now, in order.

        Raises InferenceUnavailable, and DeadlineExceeded where the server says nothing.
        """
        found: dict[str, list[str]] = {}
        for entry in self._index(""):
            ready = found.setdefault(entry.name, [])
            if entry.state == "READY":
                ready.append(entry.version)
        return {name: sorted(ready, key=int) for name, ready in found.items()}

    def states(self, model: str) -> dict[str, VersionState]:
        """Of each version of the model that the server knows of, how it stands; "" of one that was never to be loaded.

        Raises InferenceUnavailable, and DeadlineExceeded where the server says nothing.
        """
        return {
            entry.version: VersionState(entry.state, _why(entry.reason))
            for entry in self._index(model)
            if entry.name == model
        }

    def _index(self, model: str) -> Iterable[Any]:
        """What its model repository holds. `model`: the one that an error is about."""
        try:
            found = self._server.get_model_repository_index(client_timeout=self._control_deadline_s)
        except InferenceServerException as error:
            raise translated(error, model, self.url, self._silent(model)) from error
        return cast("Iterable[Any]", found.models)

    def ready(self, model: str, version: str = "") -> bool:
        """See InferenceClient.ready."""
        return self.why_not_ready(model, version) is None

    def why_not_ready(self, model: str, version: str = "") -> str | None:
        """None if `model` would take a request now, else one sentence on what is missing. Raises nothing."""
        try:
            if self._server.is_model_ready(model, version, client_timeout=self._control_deadline_s):
                return None
            index = self._server.get_model_repository_index(client_timeout=self._control_deadline_s)
        except InferenceServerException as error:
            return str(translated(error, model, self.url, self._silent(model)))
        except ValueError:  # gRPC's word for a closed channel
            return str(self._closed(model))
        # A version that failed has taken the others out with it: of these it is said only that they are unloaded.
        for entry in sorted(index.models, key=lambda each: each.reason in ("", "unloaded")):
            if entry.name == model and version in ("", entry.version):
                reason, state = _why(entry.reason), entry.state or "not loaded"
                return f"model {model!r} on Triton at {self.url} is {state}: {reason}"
        which = f"{model!r} of version {version}" if version else repr(model)
        return f"Triton at {self.url} has no model {which} in its repository"

    def close(self) -> None:
        """See InferenceClient.close."""
        for sharing in self._shared:
            self._let_go(sharing.pool, sharing.pool.close())
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _infer_shared(
        self, request: Request, layout: Layout, pool: RegionPool, region: Region
    ) -> dict[str, NDArray[Any]]:
        try:
            layout.write(region, request.inputs)
            answer = self._send(request, layout, region)
        except BaseException:
            pool.give(region)
            raise
        try:
            return request.tensors(self._wait(request, answer), layout, region)
        finally:
            # Runs now if the answer is there, and after a deadline when it comes after all.
            answer.add_done_callback(partial(_take_back, pool, region))

    def _send(
        self, request: Request, layout: Layout | None, region: Region | None
    ) -> Future[triton_grpc.InferResult]:
        answer: Future[triton_grpc.InferResult] = Future()

        def done(result: Any, error: Any) -> None:
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        # gRPC's own deadline cancels the call, after which nobody tells when the server is done with the region.
        timeout_s = request.remaining_s if region is None else None
        arguments = request.arguments(layout, region)
        try:
            self._server.async_infer(callback=done, client_timeout=timeout_s, **arguments)
        except ValueError as error:
            raise self._closed(request.model) from error
        except InferenceServerException as error:  # from tritonclient itself: nothing was sent
            raise InputError(f"model {request.model!r}: {error.message()}", model=request.model) from error
        return answer

    def _wait(self, request: Request, answer: Future[triton_grpc.InferResult]) -> triton_grpc.InferResult:
        try:
            return answer.result(timeout=request.remaining_s)
        except FutureTimeoutError as error:
            raise request.late from error
        except InferenceServerException as error:
            if "find shared memory region" in (error.message() or ""):
                raise _RegionsForgotten from error
            if status_of(error) == "UNAVAILABLE":
                for sharing in self._shared:
                    sharing.try_again()
            raise translated(error, request.model, self.url, request.late) from error

    def _lent(self, request: Request, layout: Layout) -> tuple[Sharing, Region] | None:
        """A region for the large tensors of `request` that the server knows, or None: send them inline."""
        if not layout.size:
            return None
        for sharing in self._shared:
            if sharing.may_be_used():
                region = self._region(sharing, request, layout)
                if region is not None:
                    return sharing, region
        return None

    def _region(self, sharing: Sharing, request: Request, layout: Layout) -> Region | None:
        pool = sharing.pool
        try:
            region = pool.take(layout.size)
        except (StorageFull, OSError) as full:  # OSError: /dev/shm is not ours to write
            _log.warning("tensors for model %r go another way, which is slower: %s", request.model, full)
            return None
        if pool.is_registered(region):
            return region
        try:
            region.register(self._server, min(self._control_deadline_s, request.remaining_s))
        except ValueError as error:
            region.remove()
            raise self._closed(request.model) from error
        except OSError as error:  # of CUDA: memory that has no handle for another process
            region.remove()
            self._share_no_more(sharing, str(error))
            return None
        except InferenceServerException as error:
            if status_of(error) != "ALREADY_EXISTS":  # another thread took a restart for granted too soon
                if status_of(error) in _AWAY:
                    pool.discard(region)  # it may have been registered all the same
                    raise translated(error, request.model, self.url, request.late) from error
                region.remove()
                self._share_no_more(sharing, error.message() or "")
                return None
        pool.set_registered(region, True)
        self._share(sharing)
        return region

    def _share(self, sharing: Sharing) -> None:
        if sharing.usable is None:
            sharing.usable = True
            _log.info("large tensors go to Triton at %s through %s", self.url, sharing.title)
            if sharing.kind == "shared_memory":
                self._remove_stale()

    def _share_no_more(self, sharing: Sharing, reason: str) -> None:
        if sharing.usable is not False:
            sharing.usable = False
            others = (each.title for each in self._shared if each.usable is not False)
            way = next(others, "gRPC")
            _log.info(
                "large tensors go to Triton at %s through %s: no %s (%s)",
                self.url,
                way,
                sharing.title,
                reason,
            )

    def _let_go(self, pool: RegionPool, regions: list[Region]) -> None:
        for region in regions:
            try:
                if pool.is_registered(region):
                    region.unregister(self._server, self._control_deadline_s)
                region.remove()
            except (InferenceServerException, ValueError, OSError) as error:
                _log.debug("Triton at %s keeps the region %s: %s", self.url, region.name, error)
                region.abandon()
            pool.set_registered(region, False)

    def _remove_stale(self) -> None:
        """What processes left behind that ended without `close`: names here, mappings in the server."""
        removed = list(remove_abandoned())
        try:
            version = self._server.get_server_metadata(client_timeout=self._control_deadline_s).version
            known = self._server.get_system_shared_memory_status(
                client_timeout=self._control_deadline_s
            ).regions
        except InferenceServerException as error:
            _log.debug("Triton at %s does not list its regions: %s", self.url, error)
            return
        stale = [name for name in known if name.startswith(PREFIX) and abandoned(SHARED_MEMORY / name)]
        if tuple(int(part) for part in version.split(".")[:2]) >= _COUNTS_USE_OF_REGIONS:
            self._unregister(stale)
        if removed or stale:
            _log.info("removed shared memory of ended processes: %s", ", ".join(sorted({*removed, *stale})))

    def _unregister(self, names: list[str]) -> None:
        for name in names:
            try:
                self._server.unregister_system_shared_memory(name, client_timeout=self._control_deadline_s)
            except (InferenceServerException, ValueError) as error:
                _log.debug("Triton at %s keeps the region %s: %s", self.url, name, error)

    def _silent(self, model: str) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"Triton at {self.url} said nothing within {self._control_deadline_s:g} s", model=model
        )

    def _closed(self, model: str) -> InferenceUnavailable:
        return InferenceUnavailable(f"the connection to Triton at {self.url} is closed", model=model)


def _take_back(pool: RegionPool, region: Region, answer: Future[triton_grpc.InferResult]) -> None:
    error = answer.exception()
    if error is None or (
        isinstance(error, InferenceServerException) and status_of(error) in _DONE_WITH_REGION
    ):
        pool.give(region)
    else:
        pool.discard(region)


def _cuda_is_faster(endpoint: Endpoint, cuda: Cuda) -> bool:
    return is_faster(TritonClient(endpoint, shared_memory=False, cuda=cuda), TritonClient(endpoint))


def _why(reason: str) -> str:
    """What the model said when it could not be loaded, without what the Python backend puts before that."""
    return first_line(reason).removeprefix("Internal: ").removeprefix("TritonModelException: ")
