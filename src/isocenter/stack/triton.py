"""The embedded Triton: how it is started from the nvidia-pytriton wheel, and seen to be ready."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from isocenter.model_loading import failed_shadow_switched_off
from isocenter.settings import Settings
from isocenter.stack.child import Child, end_group
from isocenter.stack.triton_process import remove_leftovers
from isocenter.stack.tritonserver import TritonDistribution
from isocenter_operators.errors import ConfigurationError, InferenceUnavailable, IsocenterError
from isocenter_operators.inference.control import ModelControl
from isocenter_operators.inference.self_test import MODEL as SELF_TEST
from isocenter_operators.inference.self_test import self_test
from isocenter_operators.inference.triton import TritonClient

__all__ = ["running_triton", "starting_triton", "triton_child"]

_SOURCE_TREE = Path(__file__).resolve().parents[3]
_EXIT_WITHIN_S = 5  # where nobody is left to end it at once
_STUB_WITHIN_S = 120  # a first `import torch` from a cold disk


def triton_child(
    settings: Settings, models: Sequence[str], *, wanted: Callable[[], Sequence[str]] | None = None
) -> Child:
    """How the embedded Triton is started with `models` (and the model `self_test`) loaded.

    It is ready when each of the models is, and tensors went to a Python model and came back whole. `wanted`: the models
    that it is to have by now; those that it was started with and that are not among these may be missing, and all of
    these are loaded when it is started again.
    Raises ConfigurationError when the server, its libraries, or a model's folder is missing.
    """
    distribution = TritonDistribution.installed()
    folder = settings.data_dir.resolve() / "triton"
    loaded = tuple(dict.fromkeys((SELF_TEST, *models)))
    repositories = _repositories(settings, loaded)
    backends = distribution.assemble_backends(folder / "backends")
    return Child(
        name="triton",
        argv=(
            sys.executable,
            "-m",
            "isocenter.stack.triton_process",
            str(distribution.program),
            f"--backend-directory={backends}",
            *(f"--model-repository={repository}" for repository in repositories),
            *_options(settings),
            *(f"--load-model={model}" for model in loaded),
        ),
        environment=_environment(settings, distribution),
        log=folder / "triton.log",
        ready=lambda: _missing(settings, _still(loaded, wanted), supervised=wanted is not None),
        address=settings.triton.grpc_url,
        ready_within_s=_STUB_WITHIN_S,
        # It keeps nothing, and would take four seconds to say goodbye to its models.
        stop_signal=signal.SIGKILL,
        anew=None if wanted is None else lambda: triton_child(settings, wanted(), wanted=wanted),
    )


def _still(loaded: Sequence[str], wanted: Callable[[], Sequence[str]] | None) -> Sequence[str]:
    """What is looked for: a model that was added meanwhile is loaded by whoever added it."""
    if wanted is None:
        return loaded
    try:
        by_now = {SELF_TEST, *wanted()}
    except ConfigurationError:
        return loaded
    return [model for model in loaded if model in by_now]


def _options(settings: Settings) -> tuple[str, ...]:
    triton = settings.triton
    return (
        f"--http-address={triton.host}",
        f"--http-port={triton.http_port}",
        f"--grpc-address={triton.host}",
        f"--grpc-port={triton.grpc_port}",
        f"--metrics-address={triton.host}",
        f"--metrics-port={triton.metrics_port}",
        "--model-control-mode=explicit",
        # Completing a configuration means starting the model twice; ours are complete.
        "--disable-auto-complete-config",
        # One model that can not be loaded does not take the others away; `ready` tells which one, and why.
        "--exit-on-error=false",
        "--strict-readiness=true",
        f"--exit-timeout-secs={_EXIT_WITHIN_S}",
        f"--backend-config=python,stub-timeout-seconds={_STUB_WITHIN_S}",
        "--log-verbose=0",
    )


def _environment(settings: Settings, distribution: TritonDistribution) -> dict[str, str]:
    """What the server and the Python processes of its models see.

    The embedded interpreter finds its environment through the `python3` that comes first on PATH.
    """
    libraries = [str(folder) for folder in distribution.library_folders]
    environment = {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "LD_LIBRARY_PATH": os.pathsep.join((*libraries, *_inherited("LD_LIBRARY_PATH"))),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0)))),
        # How long a model's threads spin while they wait for one another, in turns of the loop. GNU's own choice,
        # 300,000, keeps the core from the thread that is waited for as soon as anybody else wants one too.
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "2000"),
        "PYTHONUNBUFFERED": "1",
    }
    if settings.triton.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def _inherited(name: str) -> tuple[str, ...]:
    value = os.environ.get(name, "")
    return (value,) if value else ()


def _repositories(settings: Settings, models: Sequence[str]) -> tuple[Path, ...]:
    # There from the start: Triton looks into no repository that it was not started with, and models come later.
    (settings.data_dir / "models").mkdir(parents=True, exist_ok=True)
    named, *imported = settings.model_repositories
    for installed in (named.resolve(), _SOURCE_TREE / named):
        if (installed / SELF_TEST / "config.pbtxt").exists():
            break
    else:
        raise ConfigurationError(
            f"triton.model_repository: {named.resolve()} holds no model {SELF_TEST!r}: point it to the "
            "project's folder triton_models"
        )
    repositories = (installed, *(each.resolve() for each in imported))
    there = [path.parent.name for each in repositories for path in sorted(each.glob("*/config.pbtxt"))]
    for model in models:
        if model not in there:
            raise ConfigurationError(
                f"triton.model_repository: {installed} has no model {model!r}, only {', '.join(there)}"
            )
    return repositories


def _missing(settings: Settings, models: Sequence[str], *, supervised: bool) -> str | None:
    """None, or what is missing. Takes a few milliseconds once the server is up, so it is asked anew each time.

    Of a server that is supervised a model is loaded without the shadow that keeps its other versions out.
    """
    url = settings.triton.grpc_url
    with TritonClient(url, shared_memory=False, control_deadline_s=0.4) as client:
        for model in models:
            reason = client.why_not_ready(model)
            if reason is not None and supervised:
                reason = _without_shadow(settings, client, model, reason)
            if reason is not None:
                return reason
        try:
            report = self_test(client, deadline_s=1.0)
        except IsocenterError as error:
            return str(error)
    if settings.triton.device == "cuda" and report.device != "cuda":
        return f"triton.device is cuda, but torch {report.torch} in Triton's models sees no GPU"
    return None


def _without_shadow(settings: Settings, client: TritonClient, model: str, reason: str) -> str | None:
    """None where the model serves without its shadow now; else why not, which is `reason` where it is not for that."""
    try:
        failed = any(state.failed for state in client.states(model).values())
        if not failed or not failed_shadow_switched_off(settings, client, model):
            return reason
        with ModelControl(settings.triton.endpoint, model, load_within_s=_STUB_WITHIN_S) as control:
            control.load()
    except IsocenterError as error:
        return str(error)
    return client.why_not_ready(model)


@contextmanager
def running_triton(settings: Settings, models: Sequence[str]) -> Iterator[str]:
    """Start the embedded Triton without a supervisor, wait until it serves, and stop it at the end.

    Yields the address of its gRPC endpoint. Ends also when the calling process is killed.
    Raises ConfigurationError as `triton_child` does and when a port is in use, and InferenceUnavailable when the
    server does not come up.
    """
    with starting_triton(settings, models) as address:
        yield address()


@contextmanager
def starting_triton(settings: Settings, models: Sequence[str]) -> Iterator[Callable[[], str]]:
    """As `running_triton`, but yields at once: what it yields waits until the server serves, and gives its address."""
    child = triton_child(settings, models)
    child = replace(child, log=child.log.with_name("run.log"))  # beside that of a stack which may be running
    _refuse_ports_in_use(settings)
    process = _start(child)

    def address() -> str:
        _wait(child, process)
        return settings.triton.grpc_url

    try:
        yield address
    finally:
        end_group(process)
        process.wait()
        remove_leftovers()


def _refuse_ports_in_use(settings: Settings) -> None:
    triton = settings.triton
    for name in ("http_port", "grpc_port", "metrics_port"):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((triton.host, getattr(triton, name)))
            except OSError as error:
                raise ConfigurationError(
                    f"triton.{name}: {triton.host}:{getattr(triton, name)} can not be used: {error.strerror}"
                ) from error


def _start(child: Child) -> subprocess.Popen[bytes]:
    child.log.parent.mkdir(parents=True, exist_ok=True)
    launcher = child.argv.index("isocenter.stack.triton_process") + 1
    argv = (*child.argv[:launcher], "--end-with-parent", str(os.getpid()), *child.argv[launcher:])
    with child.log.open("wb") as log:
        return subprocess.Popen(
            argv,
            env={**os.environ, **child.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(child: Child, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + child.ready_within_s
    while True:
        if process.poll() is not None:
            raise InferenceUnavailable(
                f"Triton ended with code {process.returncode} at its start: {_last_error(child.log)}; its log is "
                f"{child.log}"
            )
        missing = child.ready()
        if missing is None:
            return
        # The endpoints open when every model was tried, so a model that is not ready by then never will be.
        if " is UNAVAILABLE: " in missing or time.monotonic() > give_up:
            raise InferenceUnavailable(f"Triton did not come up: {missing}; its log is {child.log}")
        time.sleep(0.1)


def _last_error(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if line[:2] in ("E0", "E1") or line.startswith("error:")]
    return (errors or lines or ["it said nothing"])[-1].strip()
